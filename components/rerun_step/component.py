"""KFP component of any stage as a step of a past run, whose record says what it read."""

import inspect
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.container import stage_container
from compose_rl.stages.spec import StageSpec

REPORTS = {"evaluate": dsl.HTML, "online_rl": dsl.HTML, "tokenize": dsl.Markdown}
"""What the report of a stage is, of those that have one."""


def rerun_step(spec: StageSpec) -> BaseComponent:
    """The component of a stage that reads what the step of a past run read, in place of artifacts."""

    def rerun(
        storage: str,
        config: str,
        step: str,
        run: str,
        past: str,
        nodes: int,
        gpus: int,
        resources: str,
        manifest: dsl.Output[dsl.Artifact],
        metrics: dsl.Output[dsl.Metrics],
        *report: Any,
    ):
        """Run a step of a past run again.

        Args:
            storage: folder or s3:// prefix of the past run's results.
            config: YAML document with a section for the step: its whole configuration.
            step: name of the step.
            run: id of this run.
            past: id of the past run.
            nodes: nodes of the job; 0: as ``resources`` says, else one.
            gpus: GPUs of each node; 0: as ``resources`` says, else none.
            resources: YAML document with a section ``default`` and one for the step.
            manifest: the result.
            metrics: as the stage's.
        """
        return stage_container(spec)

    return dsl.container_component(_with_outputs(rerun, spec))


def _with_outputs(function: Any, spec: StageSpec) -> Any:
    """The function under the stage's name, with an output ``report`` where the stage has one."""
    signature = inspect.signature(function)
    named = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
    if spec.name in REPORTS:
        kind = dsl.Output[REPORTS[spec.name]]
        named.append(inspect.Parameter("report", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind))
    function.__signature__ = signature.replace(parameters=named)
    function.__name__ = spec.name
    return function
