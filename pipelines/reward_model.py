"""A reward model from raw preferences."""

from kfp import dsl

from components.export.component import export
from components.reward_model.component import reward_model
from pipelines.command_line import main
from pipelines.steps import Steps
from pipelines.wiring import Wiring


@dsl.pipeline(name="reward-model")
def reward_model_pipeline(
    base_model: str,
    preferences: str,
    storage: str,
    validation: str = "",
    dataset_type: str = "preference",
    max_length: int = 0,
    nodes: int = 1,
    gpus: int = 0,
    resources: str = "",
    config: str = "",
):
    """Train and export a reward model. Sources are hub ids, files, folders or s3:// URIs.

    Args:
        base_model: the model to start from.
        preferences: pairs of a chosen and a rejected answer, or labelled texts.
        storage: folder or s3:// prefix for results.
        validation: held-out rows; empty: a share of the preferences.
        dataset_type: preference or classifier.
        max_length: tokens of a sample; 0: the default of the tokenize stage.
        nodes: nodes of a training job.
        gpus: GPUs of each node.
        resources: YAML document with a section ``default`` and one per step: memory, queue, tolerations, ...;
            the fields of compose_rl.config.resources.
        config: YAML document with a section per step, over the stage's recipe and the parameters above.
    """
    with Wiring(storage=storage, config=config, nodes=nodes, gpus=gpus, resources=resources) as step:
        steps = Steps.of(step, base_model, max_length)
        data = steps.data("preferences", dataset_type, preferences, validation=validation)
        scorer = step("reward_model", reward_model, existing="", model=steps.base, data=data)
        step("export_reward_model", export, checkpoint=scorer)


if __name__ == "__main__":
    main(reward_model_pipeline)
