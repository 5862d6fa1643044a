"""Run one step of a past run on a Kubeflow Pipelines server again, with changed settings.

The step gets a run of its own, in the same images. It reads what it read then, by the past run's record in
the storage; what was computed already is answered from there.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import kfp
import yaml
from google.protobuf.json_format import ParseDict
from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from components.rerun_step.component import rerun_step
from compose_rl.commands.documents import overridden
from compose_rl.config.schema import parse, unknown_key
from compose_rl.config.steps import DEFAULT_SECTION, sections, step_document, step_resources
from compose_rl.errors import UserError
from compose_rl.stages.spec import load
from pipelines.checks import Step, steps
from pipelines.command_line import exiting
from pipelines.parameters import declared, with_defaults
from pipelines.server import add_connection, answering, connect
from pipelines.submit import add_run, submit
from pipelines.target import Target, compiled, image_references, images_of
from pipelines.wiring import STORAGE_SECRET, Wiring

__all__ = ["again", "main", "one_step"]

LAUNCH = ("nodes", "gpus", "resources")
"""Parameters of steps that launch a job."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with the codes of :mod:`compose_rl.errors`."""
    options = _parser().parse_args(arguments)
    exiting(lambda: _rerun(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="ID", help="the past run")
    parser.add_argument("--step", required=True, metavar="NAME", help="which of its steps")
    parser.add_argument(
        "-p",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a changed setting of its stage, as a.b=0.1",
    )
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a changed resource, as memory=64Gi",
    )
    parser.add_argument(
        "--image", action="append", default=[], metavar="NAME=REF", help="another image, control or train"
    )
    parser.add_argument("--storage-secret", default=STORAGE_SECRET, help="default: %(default)s")
    add_connection(parser)
    add_run(parser)
    return parser


def _rerun(options: argparse.Namespace) -> None:
    client = connect(options)
    specification, given = _past(client, options)
    spec = ParseDict(specification, PipelineSpec(), ignore_unknown_fields=True)
    values = with_defaults(given, declared(spec))
    found = {step.name: step for step in steps(spec, values)}
    if options.step not in found:
        raise UserError(unknown_key(options.step, list(found), "--step"))
    step = found[options.step]
    arguments = again(step, options.run, options.p, options.resource)
    target = Target(
        images={**images_of(specification), **image_references(options.image)},
        backend="pod" if load(step.stage).accelerated and step.image is None else "job",
        secret=options.storage_secret,
    )
    submit(client, compiled(one_step(step), target), arguments, options)


def _past(client: kfp.Client, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The specification and the parameters of the past run."""
    with answering(options.host):
        run = client.get_run(options.run)
        document = run.pipeline_spec
        if document is None:
            reference = run.pipeline_version_reference
            version = client.get_pipeline_version(reference.pipeline_id, reference.pipeline_version_id)
            document = version.pipeline_spec
    parameters = run.runtime_config.parameters if run.runtime_config else None
    return document.get("pipeline_spec", document), dict(parameters or {})


def again(
    step: Step, past: str, changes: Sequence[str] = (), resource_changes: Sequence[str] = ()
) -> dict[str, Any]:
    """The parameters of a run that repeats a step, checked.

    Args:
        past: id of the run that it was a step of.
        changes: ``key=value`` items over its configuration.
        resource_changes: over its resources.

    Raises:
        UserError: a change that does not fit the stage, or there was nothing to do in that step.
    """
    if step.absent:
        raise UserError(f"--step {step.name}: it had nothing to do in that run; give another step")
    spec = load(step.stage)
    config = overridden(step_document(step.parameters, step.settings), changes)
    parse(spec.config, config, f"{step.name} config")
    launch: dict[str, Any] = {"nodes": 0, "gpus": 0, "resources": ""}
    if spec.accelerated:
        launch = {name: step.parameters[name] for name in LAUNCH}
        found = sections(launch["resources"], "resources")
        own = overridden(found.get(step.name, {}), resource_changes)
        kept = {DEFAULT_SECTION: found.get(DEFAULT_SECTION, {}), step.name: own}
        launch["resources"] = yaml.safe_dump(kept)
        step_resources({**launch, "step": step.name}, distributed=spec.distributed)
    elif resource_changes:
        raise UserError(f"--resource {resource_changes[0]}: {step.name} launches no job; leave it out")
    storage = step.parameters["storage"]
    return {"storage": storage, "past": past, "config": yaml.safe_dump({step.name: config}), **launch}


def one_step(step: Step) -> GraphComponent:
    """The pipeline of one step of a past run."""
    component = rerun_step(load(step.stage))

    @dsl.pipeline(name=f"rerun-{step.stage.replace('_', '-')}")
    def rerun(storage: str, past: str, config: str, nodes: int, gpus: int, resources: str):
        """One step of a past run again."""
        shared: Mapping[str, Any] = {"nodes": nodes, "gpus": gpus, "resources": resources}
        with Wiring(storage=storage, config=config, past=past, **shared) as add:
            add(step.name, component)

    return rerun


if __name__ == "__main__":
    main()
