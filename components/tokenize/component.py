"""KFP component of the stage ``tokenize``."""

from kfp import dsl

from components.container import stage_container
from compose_rl.stages.tokenize.spec import SPEC


@dsl.container_component
def tokenize(
    storage: str,
    config: str,
    step: str,
    run: str,
    dataset_type: str,
    max_length: int,
    source: dsl.Input[dsl.Artifact],
    tokenizer: dsl.Input[dsl.Artifact],
    manifest: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    report: dsl.Output[dsl.Markdown],
    validation: dsl.Input[dsl.Artifact] = None,
):
    """Turn raw rows into tokenized MDS shards.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        config: YAML document with a section per step.
        step: name of this step, whose section of ``config`` counts.
        run: id of the run, under which the step's record is kept.
        dataset_type: what the rows are, for instance ``preference``.
        max_length: tokens of a sample; 0: the stage's default.
        source: the pinned dataset.
        tokenizer: a model with its tokenizer.
        manifest: the shards.
        metrics: rows kept and dropped.
        report: what was read, kept and dropped, and why.
        validation: the pinned held-out dataset; a share of the source if not given.
    """
    return stage_container(SPEC, settings={"dataset_type": "dataset_type", "max_length": "max_length"})
