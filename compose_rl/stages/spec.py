"""What a stage is, seen from outside: enough to check it, key it and wire it, without heavy imports."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from compose_rl.config.rollouts import ServerPlan
from compose_rl.config.schema import Config, canonical, parse, unknown_key
from compose_rl.errors import UserError
from compose_rl.store.manifest import Manifest, stage_key

__all__ = ["NAMES", "TRAINING_OUTPUTS", "Slot", "StageSpec", "load"]

Environment = Literal["control", "train", "rollout"]

NAMES = (
    "resolve",
    "tokenize",
    "sft",
    "reward_model",
    "reference_logprobs",
    "offline_rl",
    "vstar",
    "online_rl",
    "export",
    "evaluate",
)
"""Every stage, in pipeline order. Stage ``x`` lives in ``compose_rl/stages/x/``: ``spec.py`` (light, has
``SPEC``) and ``run.py`` (heavy, started as ``python -m compose_rl.stages.x.run``)."""

TRAINING_OUTPUTS = {
    "checkpoint": "model.pt: the trained weights as a Composer checkpoint; hf: what is to become of them",
    "curves": "curves.jsonl",
    "logs": "train.yaml: the document as it was run",
}
"""What every training stage makes."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """An input of a stage."""

    stages: tuple[str, ...]
    """The stages whose manifests fit."""
    doc: str
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """A stage: ``outputs = stage(config, inputs)``."""

    name: str
    version: int
    """Raised when the same configuration and inputs would give another result."""
    doc: str
    config: type[Config]
    inputs: Mapping[str, Slot]
    outputs: Mapping[str, str]
    """What each output folder holds, by name."""
    environment: Environment = "train"
    module: str = ""
    """What is started as ``python -m`` in that environment; by default ``compose_rl.stages.<name>.run``."""
    distributed: bool = False
    """Started once per process of a training job (torchrun), rank 0 writes the manifest."""
    accelerated: bool = False
    """Wants a GPU: on a cluster it runs as a job of its own, which a pod without a GPU starts and watches."""
    always: bool = False
    """Runs every time, since it looks at the outside world (``resolve``)."""
    check: Callable[[Any, Mapping[str, Manifest]], None] = field(default=lambda config, inputs: None)
    """Raises UserError for whatever can be known from configuration and manifests alone."""
    canonical: Callable[[Any], dict[str, Any]] = canonical
    """The part of the configuration that can change the result."""
    code: Callable[[Any], Mapping[str, str]] = field(default=lambda config: {})
    """The user source files that the configuration names: SHA-256 by name."""
    servers: Callable[[Any, Mapping[str, Manifest]], ServerPlan | None] | None = None
    """The servers that generate for it, from typed configuration and inputs: on a cluster the launcher starts
    them beside the job, and they start from the model that is its input ``model``."""

    @property
    def entry(self) -> str:
        """The module that runs the stage."""
        return self.module or f"compose_rl.stages.{self.name}.run"

    def parse(self, document: Mapping[str, Any], inputs: Mapping[str, Manifest]) -> Any:
        """The typed configuration, with it and the inputs checked.

        Raises:
            UserError: names the field, the value and the remedy.
        """
        config = parse(self.config, document, f"{self.name} config")
        for name in inputs:
            if name not in self.inputs:
                raise UserError(unknown_key(name, list(self.inputs), f"{self.name} inputs"))
        for name, slot in self.inputs.items():
            given = inputs.get(name)
            if given is None:
                if not slot.optional:
                    raise UserError(f"{self.name}: input '{name}' is missing ({slot.doc})")
            elif given.stage not in slot.stages:
                raise UserError(
                    f"{self.name}: input '{name}' is a result of '{given.stage}' ({given.uri});"
                    f" it takes one of: {', '.join(slot.stages)}"
                )
        self.check(config, inputs)
        return config

    def key(self, config: Any, inputs: Mapping[str, Manifest]) -> str:
        """The content key of the result: 64 hexadecimal digits."""
        keys = {name: manifest.key for name, manifest in inputs.items()}
        return stage_key(self.name, self.version, self.canonical(config), keys, self.code(config))


def load(name: str) -> StageSpec:
    """The specification of the stage called ``name``.

    Raises:
        UserError: there is no such stage.
    """
    if name not in NAMES:
        raise UserError(unknown_key(name, list(NAMES), "stage"))
    spec = importlib.import_module(f"compose_rl.stages.{name}.spec").SPEC
    assert isinstance(spec, StageSpec)
    return spec
