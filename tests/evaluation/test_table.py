"""The headline rows of an evaluation."""

from __future__ import annotations

from compose_rl.evaluation.table import headline, markdown, timings
from compose_rl.store.manifest import Input, Manifest


def manifest(stage: str, seconds: float, parent: str = "", **info: str) -> Manifest:
    inputs = {"x": Input(stage=parent, key="k", uri="u")} if parent else {}
    return Manifest(
        stage=stage,
        version=1,
        key=stage,
        uri="u",
        attempt="1",
        config={},
        seconds=seconds,
        info=info,
        inputs=inputs,
    )


def test_what_was_not_measured_has_no_row() -> None:
    assert headline({}) == []
    assert headline({"reward_model/accuracy": 0.9}) == [
        ("Reward model: accuracy on held-out pairs", "90.0 %")
    ]


def test_rates_come_with_their_interval_and_sides_before_and_after() -> None:
    metrics = {"win_rate/verifier": 0.75, "win_rate/verifier_low": 0.7, "win_rate/verifier_high": 0.8}
    rows = headline({**metrics, "verifier/baseline": 0.4, "verifier/policy": 0.9})
    assert rows == [
        ("Win rate over the start, by the verifier", "75.0 %  [70.0 %, 80.0 %]"),
        ("Verifier's score, start → policy", "40.0 % → 90.0 %"),
    ]


def test_times_name_the_stages_and_add_up() -> None:
    stages = [
        manifest("resolve", 1),
        manifest("tokenize", 5, dataset_type="preference"),
        manifest("export", 60, "sft"),
    ]
    assert timings(stages) == [
        ("tokenize (preference)", "0:05"),
        ("export (sft)", "1:00"),
        ("together", "1:05"),
    ]


def test_markdown_is_a_table() -> None:
    assert markdown("T", [("a", "1")]) == "| T | |\n|---|---|\n| a | 1 |\n"
