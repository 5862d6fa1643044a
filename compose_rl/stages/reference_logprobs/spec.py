"""Log-probabilities of answers under the reference policy: what the stage takes and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from compose_rl.config.schema import Config
from compose_rl.errors import UserError
from compose_rl.stages.checks import check_types, check_vocabulary
from compose_rl.stages.spec import Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["DATASET_TYPES", "SPEC", "ReferenceConfig"]

DATASET_TYPES = ("preference", "unpaired_preference")


class ReferenceConfig(Config):
    """All that shapes the log-probabilities, beside model and data."""

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Divides the logits; the same as ``model.temperature`` of offline_rl."""
    precision: Literal["fp32", "amp_bf16"] = "fp32"
    mismatched: bool = False
    """Also of each prompt with another prompt's answer, which KTO needs."""
    token_budget: int = Field(8192, gt=0)
    """Tokens run at once: as many as fit into memory."""
    packed: bool = True
    """False: padded rows, for architectures that cannot run packed."""
    trust_remote_code: bool = False


def _check(config: ReferenceConfig, inputs: Mapping[str, Manifest]) -> None:
    check_types("reference_logprobs", inputs, DATASET_TYPES)
    check_vocabulary("reference_logprobs", inputs)
    samples = inputs["data"].info.get("samples", {})
    if not samples.get("train"):
        raise UserError(
            f"reference_logprobs: input 'data' has no training samples ({inputs['data'].uri});"
            " tokenize data with rows"
        )


SPEC = StageSpec(
    name="reference_logprobs",
    version=1,
    doc="Compute the log-probabilities of answers under the reference policy, once for every loss and beta.",
    config=ReferenceConfig,
    inputs={
        "model": Slot(stages=("resolve", "export"), doc="the reference, usually the policy's starting point"),
        "data": Slot(stages=("tokenize",), doc="preference or unpaired_preference data"),
    },
    outputs={"logprobs": "train.safetensors and validation.safetensors: float32 sums in dataset order"},
    accelerated=True,
    check=_check,
)
