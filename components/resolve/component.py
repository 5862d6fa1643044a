"""KFP component of the stage ``resolve``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.resolve.spec import SPEC


@dsl.container_component
def resolve(
    storage: str,
    config: str,
    step: str,
    run: str,
    kind: str,
    uri: str,
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Pin a model or a dataset to its present content.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        kind: ``model`` or ``dataset``.
        uri: a file, a folder, an s3:// URI or an id on the Hugging Face hub; empty: the step is absent.
        manifest: what it is pinned to.
        metrics: none.
    """
    return stage_container(SPEC, settings={"kind": "kind", "uri": "uri"}, needs="uri")
