"""docs/algorithms.md and docs/compose-rl-parity.md name what exists, and all of it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from compose_rl.config.offline_rl import OfflineLossName, OfflineRLSettings
from compose_rl.config.online_rl import KLEstimatorName, OnlineLossName, OnlineRLSettings
from compose_rl.config.reward_model import RewardLossName

ROOT = Path(__file__).parents[2]
ALGORITHMS = (ROOT / "docs/algorithms.md").read_text()
PARITY = (ROOT / "docs/compose-rl-parity.md").read_text()


@cache
def functions(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("name", [*get_args(OfflineLossName), *get_args(RewardLossName)])
def test_every_loss_has_its_row(name: str):
    path = f"compose_rl/core/losses/{name}.py:{name}"
    rows = [line for line in ALGORITHMS.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1 and f"`{path}`" in rows[0], f"docs/algorithms.md: one row of `{name}` with `{path}`"


@pytest.mark.parametrize("name", get_args(OnlineLossName))
def test_every_loss_of_the_policy_has_its_row(name: str):
    file = {"ppo": "clipped", "grpo": "clipped"}.get(name, name)
    path = f"compose_rl/core/losses/policy/{file}.py:{file}"
    rows = [line for line in ALGORITHMS.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1 and f"`{path}`" in rows[0], f"docs/algorithms.md: one row of `{name}` with `{path}`"


@pytest.mark.parametrize("name", get_args(KLEstimatorName))
def test_every_estimate_of_a_kl_has_its_row(name: str):
    rows = [line for line in ALGORITHMS.splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1 and f"`compose_rl/core/kl.py:{name}`" in rows[0]


@pytest.mark.parametrize("reference", re.findall(r"`([\w/]+\.py):(\w+)`", ALGORITHMS), ids=":".join)
def test_every_function_named_by_the_algorithms_exists(reference: tuple[str, str]):
    path, name = reference
    assert name in functions(ROOT / path)


@pytest.mark.parametrize("reference", re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PARITY), ids="::".join)
def test_every_test_named_by_the_parity_table_exists(reference: tuple[str, str]):
    path, name = reference
    assert name in functions(ROOT / path)


def test_every_defect_has_its_row():
    assert re.findall(r"^\| B(\d+) \|", PARITY, re.MULTILINE) == [str(i) for i in range(1, 21)]


def test_every_setting_is_explained():
    for name in OfflineRLSettings.model_fields | OnlineRLSettings.model_fields:
        assert f"`{name}" in ALGORITHMS + PARITY, f"neither document says what '{name}' does"
