"""KFP component of the stage ``reward_model``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.reward_model.spec import SPEC


@dsl.container_component
def reward_model(
    storage: str,
    config: str,
    step: str,
    run: str,
    nodes: int,
    gpus: int,
    resources: str,
    existing: str,
    model: dsl.Input[dsl.Artifact],
    data: dsl.Input[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Train a reward model on preferences.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        nodes: nodes of the job; 0: as ``resources`` says, else one.
        gpus: GPUs of each node; 0: as ``resources`` says, else none.
        resources: YAML document with a section ``default`` and one per step: what a job asks of its place.
        existing: a reward model that is there already, its place; not empty: the step is absent.
        model: the model to start from.
        data: tokenized preferences.
        manifest: the checkpoint.
        metrics: losses and held-out accuracy.
    """
    return stage_container(SPEC, needs="existing=")
