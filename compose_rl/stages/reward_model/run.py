"""Reward models through LLM Foundry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from compose_rl.config.reward_model import is_pairwise
from compose_rl.stages.job import Job, Result, main
from compose_rl.stages.reward_model.spec import LOADERS, MODEL_CLASSES, SPEC
from compose_rl.training.harness import train_stage

__all__ = ["run", "wilson_interval"]

_EVALUATED = {
    True: {
        "accuracy": "PairwiseRewardAccuracy",
        "margin": "PairwiseRewardMargin",
        "calibration_error": "PairwiseCalibrationError",
    },
    False: {"accuracy": "ClassifierRewardAccuracy", "calibration_error": "ClassifierCalibrationError"},
}
"""The manifest's name of each held-out metric, for pairwise losses and for classifiers."""


def run(job: Job) -> Result:
    """Train (:func:`compose_rl.training.harness.train_stage`); add what held-out data say of the judge."""
    model = job.config.model
    data = job.inputs["data"].info

    def amend(document: dict[str, Any]) -> None:
        for name in ("train_loader", "eval_loader"):
            if name in document:
                document[name]["name"] = LOADERS[data["dataset_type"]]

    result = train_stage(
        job,
        amend=amend,
        model_class=MODEL_CLASSES[model.head],
        peft=model.peft_config is not None,
        loss_type=model.loss_type,
        n_labels=model.n_labels,
    )
    names = _EVALUATED[is_pairwise(model)]
    labels = int(data["samples"].get("validation", 0)) * model.n_labels
    return replace(result, metrics={**result.metrics, **_held_out(result.metrics, names, labels)})


def _held_out(metrics: Mapping[str, float], names: Mapping[str, str], count: int) -> dict[str, float]:
    found = {
        name: metrics[f"metrics/eval/{logged}"]
        for name, logged in names.items()
        if f"metrics/eval/{logged}" in metrics
    }
    if "accuracy" in found:
        found["accuracy_low"], found["accuracy_high"] = wilson_interval(found["accuracy"], count)
    return found


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share of ``count`` independent trials (Wilson, 1927)."""
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return (centre - spread) / scale, (centre + spread) / scale


if __name__ == "__main__":
    main(SPEC, run)
