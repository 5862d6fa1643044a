"""KFP component that reports the end of a run."""

from kfp import dsl

from components.container import image


@dsl.container_component
def report_run(
    storage: str,
    step: str,
    run: str,
    status: dsl.PipelineTaskFinalStatus,
    report: dsl.Output[dsl.Markdown],
):
    """Say how a run ended, step by step, and leave the jobs that it still holds.

    Args:
        storage: folder or s3:// prefix for results, the same for every step of a run.
        step: name of this step.
        run: id of the run.
        status: how the steps ended, as KFP sees it.
        report: a table of the steps, their figures and their reports.
    """
    return dsl.ContainerSpec(
        image=image("control"),
        command=["compose-rl", "report"],
        args=["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER],
    )
