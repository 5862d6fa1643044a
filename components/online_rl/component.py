"""KFP component of the stage ``online_rl``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.online_rl.spec import SPEC


@dsl.container_component
def online_rl(
    storage: str,
    config: str,
    step: str,
    run: str,
    nodes: int,
    gpus: int,
    resources: str,
    loss_type: str,
    kl_coef: float,
    model: dsl.Input[dsl.Artifact],
    prompts: dsl.Input[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.HTML],
    reward_model: dsl.Input[dsl.Artifact] = None,
    critic: dsl.Input[dsl.Artifact] = None,
    vstar: dsl.Input[dsl.Artifact] = None,
):
    """Optimise a model on its own answers.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        nodes: nodes of the job; 0: as ``resources`` says, else one.
        gpus: GPUs of each node; 0: as ``resources`` says, else none.
        resources: YAML document with a section ``default`` and one per step: what a job asks of its place.
        loss_type: ``ppo``, ``grpo``, ``rloo``, ...; empty: the recipe's.
        kl_coef: weight of KL to the reference, at the start; 0: the recipe's.
        model: the model to start from, and the reference.
        prompts: tokenized prompts.
        manifest: the checkpoint.
        metrics: rewards, KL, lengths and losses at the end.
        report: a self-contained page.
        reward_model: rewards answers, beside what ``config`` names.
        critic: the reward model that a critic of its own starts from.
        vstar: optimal values of the prompts.
    """
    return stage_container(
        SPEC, settings={"loss_type": "model.loss_type", "kl_coef": "variables.kl_controller.init_kl_coef"}
    )
