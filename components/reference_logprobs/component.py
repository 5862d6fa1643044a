"""KFP component of the stage ``reference_logprobs``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.reference_logprobs.spec import SPEC


@dsl.container_component
def reference_logprobs(
    storage: str,
    config: str,
    step: str,
    run: str,
    nodes: int,
    gpus: int,
    resources: str,
    model: dsl.Input[dsl.Artifact],
    data: dsl.Input[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Compute the log-probabilities of answers under the reference model.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        nodes: nodes of the job; 0: as ``resources`` says, else one.
        gpus: GPUs of each node; 0: as ``resources`` says, else none.
        resources: YAML document with a section ``default`` and one per step: what a job asks of its place.
        model: the reference, usually the policy's starting point.
        data: tokenized preferences.
        manifest: the log-probabilities.
        metrics: their means.
    """
    return stage_container(SPEC)
