"""KFP component of the stage ``vstar``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.vstar.spec import SPEC


@dsl.container_component
def vstar(
    storage: str,
    config: str,
    step: str,
    run: str,
    nodes: int,
    gpus: int,
    resources: str,
    loss_type: str,
    model: dsl.Input[dsl.Artifact],
    prompts: dsl.Input[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    reward_model: dsl.Input[dsl.Artifact] = None,
):
    """Estimate the optimal value of each prompt; absent unless ``loss_type`` is ``apo``.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        nodes: nodes of the job; 0: as ``resources`` says, else one.
        gpus: GPUs of each node; 0: as ``resources`` says, else none.
        resources: YAML document with a section ``default`` and one per step: what a job asks of its place.
        loss_type: of the online RL that follows.
        model: the reference.
        prompts: tokenized prompts.
        manifest: the values.
        metrics: their mean and spread.
        reward_model: rewards answers, beside what ``config`` names.
    """
    return stage_container(SPEC, needs="loss_type=apo")
