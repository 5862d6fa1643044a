"""KFP component of the stage ``export``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.export.spec import SPEC


@dsl.container_component
def export(
    storage: str,
    config: str,
    step: str,
    run: str,
    checkpoint: dsl.Input[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    otherwise: dsl.Input[dsl.Artifact] = None,
):
    """Turn a checkpoint into a Hugging Face folder.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        checkpoint: of a training stage.
        manifest: the model.
        metrics: size.
        otherwise: handed on as the result if there is no checkpoint.
    """
    return stage_container(SPEC)
