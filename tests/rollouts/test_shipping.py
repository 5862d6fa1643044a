"""Weights on their way: what is sent, and where it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from compose_rl.rollouts import shipping  # noqa: E402


def test_weights_that_are_made_where_the_last_one_lay_all_go():
    """LoRA's sums and FSDP's gathered tensors are gone before the next ones, which then have their place."""
    place = torch.empty(8, 8)
    found = shipping.cast(((str(value), place.fill_(value)) for value in range(5)), torch.bfloat16)
    assert {name: tensor.unique().tolist() for name, tensor in found.items()} == {
        str(v): [v] for v in range(5)
    }


def test_what_killed_trainers_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shipping, "_SHARED_MEMORY", tmp_path)
    dead = tmp_path / "compose-rl-weights-99999999-abc"
    other = tmp_path / "something-else"
    dead.mkdir()
    other.mkdir()
    shipment = shipping.Shipment({"a": torch.zeros(3)}, 1)
    assert sorted(tmp_path.iterdir()) == sorted([shipment.folder, other])
    shipment.close()
    assert list(tmp_path.iterdir()) == [other]
