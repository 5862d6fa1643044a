"""The keys that are checked before LLM Foundry is imported are LLM Foundry's."""

from __future__ import annotations

import inspect

import pytest

pytest.importorskip("torch")

from compose_rl.config.foundry_keys import OPTIMIZERS, SCHEDULERS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(("kind", "table"), [("optimizers", OPTIMIZERS), ("schedulers", SCHEDULERS)])
def test_the_tables_are_the_signatures(kind: str, table: dict[str, tuple[str, ...]]) -> None:
    from llmfoundry import registry

    for name, keys in table.items():
        parameters = inspect.signature(getattr(registry, kind).get(name).__init__).parameters
        assert set(parameters) - {"self", "params"} == set(keys), name
