"""KFP component of the stage ``offline_rl``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.offline_rl.spec import SPEC


@dsl.container_component
def offline_rl(
    storage: str,
    config: str,
    step: str,
    run: str,
    nodes: int,
    gpus: int,
    resources: str,
    loss_type: str,
    beta: float,
    model: dsl.Input[dsl.Artifact],
    data: dsl.Input[dsl.Artifact],
    reference: dsl.Input[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Align a model with preferences, without sampling from it.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        nodes: nodes of the job; 0: as ``resources`` says, else one.
        gpus: GPUs of each node; 0: as ``resources`` says, else none.
        resources: YAML document with a section ``default`` and one per step: what a job asks of its place.
        loss_type: ``dpo``, ``ipo``, ``kto``, ...; empty: the recipe's.
        beta: strength of the pull towards the reference; 0: the recipe's.
        model: the model to start from.
        data: tokenized preferences.
        reference: log-probabilities under the reference.
        manifest: the checkpoint.
        metrics: losses, accuracy and margins.
    """
    return stage_container(SPEC, settings={"loss_type": "model.loss_type", "beta": "model.beta"})
