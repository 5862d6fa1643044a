"""What the components share: an image per environment, and one command for every stage."""

from __future__ import annotations

from importlib.metadata import version

from kfp import dsl

from compose_rl.stages.spec import StageSpec

__all__ = ["DEFAULT_REGISTRY", "DEFAULT_TAG", "environment_of", "image", "stage_container"]

DEFAULT_REGISTRY = "compose-rl"
DEFAULT_TAG = version("compose-rl")


def image(environment: str, registry: str = DEFAULT_REGISTRY, tag: str = DEFAULT_TAG) -> str:
    """The image of an environment."""
    return f"{registry}/{environment}:{tag}"


def environment_of(image: str) -> str:
    """The environment of an image: the last part of its name, without tag or digest."""
    return image.rpartition("/")[2].partition("@")[0].partition(":")[0]


def stage_container(
    spec: StageSpec, settings: dict[str, str] | None = None, needs: str | None = None
) -> dsl.ContainerSpec:
    """The container of a stage's component.

    A stage that wants a GPU gets a small pod of the image ``control``, which starts a job of the stage's own
    image and watches it; the others run in the pod itself. ``{{$}}``, KFP's executor input, is the only
    placeholder: it alone means the same on every backend.

    Args:
        settings: the configuration key that each plain parameter of the component sets.
        needs: ``parameter`` or ``parameter=value``: the step is absent if it is empty, or another value
            (``parameter=``: if it is not empty).
    """
    arguments = ["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
    for parameter, key in (settings or {}).items():
        arguments += ["--setting", f"{parameter}={key}"]
    if needs is not None:
        arguments += ["--needs", needs]
    if spec.accelerated:
        arguments += ["--image", image(spec.environment)]
    return dsl.ContainerSpec(
        image=image("control" if spec.accelerated else spec.environment),
        command=["compose-rl", "component", spec.name],
        args=arguments,
    )
