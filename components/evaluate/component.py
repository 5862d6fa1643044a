"""KFP component of the stage ``evaluate``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.evaluate.spec import SPEC


@dsl.container_component
def evaluate(
    storage: str,
    config: str,
    step: str,
    run: str,
    nodes: int,
    gpus: int,
    resources: str,
    policy: dsl.Input[dsl.Artifact],
    baseline: dsl.Input[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    preferences: dsl.Input[dsl.Artifact] = None,
    prompts: dsl.Input[dsl.Artifact] = None,
    training_prompts: dsl.Input[dsl.Artifact] = None,
    reward_model: dsl.Input[dsl.Artifact] = None,
):
    """Compare a policy with its starting point.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        nodes: nodes of the job; 0: as ``resources`` says, else one.
        gpus: GPUs of each node; 0: as ``resources`` says, else none.
        resources: YAML document with a section ``default`` and one per step: what a job asks of its place.
        policy: the model to judge.
        baseline: the model to compare it with.
        manifest: report and samples.
        metrics: accuracy, win rate, KL, lengths.
        report: a self-contained page.
        preferences: tokenized pairs, of which the held-out ones are used.
        prompts: tokenized prompts to answer.
        training_prompts: of online RL: their held-out ones are answered where ``prompts`` is not given;
            without both it is those of the held-out pairs.
        reward_model: judges both.
    """
    return stage_container(SPEC)
