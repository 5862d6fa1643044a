"""The planner that starts an actor with a critic from a sharded checkpoint without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

pytestmark = pytest.mark.filterwarnings("ignore")


def planner(name: str = "actor_critic_load_planner") -> Any:
    """As LLM Foundry builds it from a document's ``fsdp_config.load_planner``."""
    from llmfoundry.utils.builders import build_load_planner

    return build_load_planner(name)


def state(names: dict[str, float]) -> dict[str, Any]:
    """Composer's training state with a tensor of one value under each name."""
    return {"state": {"model": {f"model.{name}": torch.full((3,), value) for name, value in names.items()}}}


def load(saved: dict[str, float], wanted: dict[str, float], folder: Path, name: str) -> dict[str, float]:
    dcp.save(state(saved), checkpoint_id=folder, no_dist=True)
    into = state(wanted)
    dcp.load(into, checkpoint_id=folder, planner=planner(name), no_dist=True)
    found = into["state"]["model"]
    return {key.removeprefix("model."): float(tensor[0]) for key, tensor in found.items()}


@pytest.mark.parametrize("name", ["actor_critic_load_planner", "ppo_load_planner"])
@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ({"model.embed": 1, "lm_head": 2}, {"model.embed": 1, "lm_head": 2, "critic_head.weight": -3}),
        (
            {"lm_backbone.model.embed": 1, "lm_backbone.lm_head": 2, "critic_head.weight": 3},
            {"model.embed": 1, "lm_head": 2, "critic_head.weight": 3},
        ),
        (
            {"model.embed": 1, "lm_head": 2, "critic_head.weight": 3},
            {"model.embed": 1, "lm_head": 2, "critic_head.weight": 3},
        ),
    ],
    ids=["foundry", "compose_rl", "own"],
)
def test_what_there_is_is_loaded(
    saved: dict[str, float], expected: dict[str, float], tmp_path: Path, name: str
) -> None:
    fresh = {"model.embed": -1.0, "lm_head": -2.0, "critic_head.weight": -3.0}
    assert load(saved, fresh, tmp_path, name) == expected


@pytest.mark.parametrize(
    "saved",
    [{"model.embed": 1}, {"model.embed": 1, "lm_head": 2, "critic_head.bias": 3}],
    ids=["policy", "critic"],
)
def test_anything_else_that_is_missing_is_an_error(saved: dict[str, float], tmp_path: Path) -> None:
    fresh = {"model.embed": -1.0, "lm_head": -2.0, "critic_head.weight": -3.0, "critic_head.bias": -4.0}
    with pytest.raises(CheckpointException, match="Missing key"):
        load(saved, fresh, tmp_path, "ppo_load_planner")
