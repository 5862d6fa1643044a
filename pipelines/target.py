"""A pipeline compiled for a place: which images, how its GPU steps run, which Secret opens the storage."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from kfp.compiler import Compiler
from kfp.dsl.graph_component import GraphComponent

from components.container import DEFAULT_REGISTRY, DEFAULT_TAG, environment_of, image
from compose_rl.config.schema import unknown_key
from compose_rl.errors import UserError
from pipelines.wiring import STORAGE_SECRET

__all__ = ["ENVIRONMENTS", "Target", "compiled", "image_references", "images_of"]

ENVIRONMENTS = ("control", "train", "rollout")
GPU = "nvidia.com/gpu"
LAUNCHED = "--image"
"""The argument that names the image of a job which the container launches."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a pipeline is compiled for."""

    registry: str = DEFAULT_REGISTRY
    tag: str = DEFAULT_TAG
    images: Mapping[str, str] = field(default_factory=dict)
    """References by environment, over registry and tag."""
    backend: Literal["job", "pod"] = "job"
    """GPU steps launch a job of their own, or run in the pod of their step."""
    secret: str = STORAGE_SECRET

    def reference(self, environment: str) -> str:
        """The image of an environment."""
        return self.images.get(environment) or image(environment, self.registry, self.tag)


def image_references(items: Iterable[str]) -> dict[str, str]:
    """``NAME=REF`` items as references by environment.

    Raises:
        UserError: an unknown environment, or no reference to an image.
    """
    found: dict[str, str] = {}
    for item in items:
        name, _, reference = item.partition("=")
        if name not in ENVIRONMENTS:
            raise UserError(unknown_key(name, list(ENVIRONMENTS), "--image"))
        if not re.fullmatch(r"[\w./:-]+(@sha256:[0-9a-f]{64})?", reference):
            raise UserError(
                f"--image {item}: no image; write {name}=registry/name:tag or {name}=registry/name@sha256:..."
            )
        found[name] = reference
    return found


def compiled(pipeline: GraphComponent, target: Target = Target()) -> str:
    """The pipeline as YAML: the specification, and behind it what is only for Kubernetes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.yaml")
        Compiler().compile(pipeline, str(path))
        text = path.read_text(encoding="utf-8")
    comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    specification, platforms = yaml.safe_load_all(text)
    for component in specification["components"].values():
        _without_descriptions(component)
    references = {image(name): target.reference(name) for name in ENVIRONMENTS}
    for executor in specification["deploymentSpec"]["executors"].values():
        _BACKENDS[target.backend](executor["container"])
        _set_images(executor["container"], references)
    for executor in platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        for secret in executor["secretAsEnv"]:
            secret["secretName"] = target.secret
            secret["secretNameParameter"] = {"runtimeValue": {"constant": target.secret}}
    return comments + yaml.safe_dump_all([specification, platforms])


def images_of(specification: Mapping[str, Any]) -> dict[str, str]:
    """The images that a compiled pipeline runs and launches, by environment."""
    found: dict[str, str] = {}
    for executor in specification["deploymentSpec"]["executors"].values():
        arguments = executor["container"]["args"]
        launched = [arguments[i + 1] for i, word in enumerate(arguments) if word == LAUNCHED]
        found |= {environment_of(image): image for image in (executor["container"]["image"], *launched)}
    return found


def _without_descriptions(component: dict[str, Any]) -> None:
    """Without what each input means: six copies of it for each step stand in the Workflow of a run, of which
    Kubeflow Pipelines reads no more than 1 MiB. The pipeline's own parameters keep theirs.
    """
    for direction in ("inputDefinitions", "outputDefinitions"):
        for definitions in component.get(direction, {}).values():
            for definition in definitions.values():
                definition.pop("description", None)


def _set_images(container: dict[str, Any], references: Mapping[str, str]) -> None:
    container["image"] = references[container["image"]]
    if LAUNCHED in container["args"]:
        place = container["args"].index(LAUNCHED) + 1
        container["args"][place] = references[container["args"][place]]


def _job(container: dict[str, Any]) -> None:
    """As the component has it."""


def _pod(container: dict[str, Any]) -> None:
    """The image of the job becomes the pod's, and the pod gets the job's GPUs."""
    if LAUNCHED not in container["args"]:
        return
    place = container["args"].index(LAUNCHED)
    container["image"] = container["args"][place + 1]
    del container["args"][place : place + 2]
    count = "{{$.inputs.parameters['gpus']}}"
    container["resources"] = {"accelerator": {"resourceType": GPU, "resourceCount": count}}


_BACKENDS: Mapping[str, Callable[[dict[str, Any]], None]] = {"job": _job, "pod": _pod}
