"""The report of a run of online RL: one HTML file that needs nothing else, and its figures for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from compose_rl.evaluation.figures import Curve
from compose_rl.evaluation.online_figures import REWARD, TIMES, drawings, reward_names
from compose_rl.evaluation.report import template
from compose_rl.evaluation.table import Row

__all__ = ["online_headline", "read_iterations", "write_online_report"]

_STARTS = "rollout/reward"
"""In the first line of each iteration."""
_LAST = ("seconds/", "push/")
"""Logged as sums of the iteration so far: the last value counts; of all others the mean."""
_SHOWN = 6
"""Early and late answers shown."""
_FIGURES = (
    ("rollout/reward", "Reward", "{:.3f}"),
    ("rollout/kl", "KL to the reference, nats a token", "{:.4f}"),
    ("rollout/kl_coef", "Weight of KL", "{:.4f}"),
    ("loss/train/entropy", "Entropy, nats a token", "{:.3f}"),
    ("loss/train/clip_fraction", "Share of clipped tokens", "{:.1%}"),
    ("loss/train/policy_kl", "KL(old, new) of a step, nats a token", "{:.4f}"),
    ("rollout/explained_variance", "Explained variance of the critic", "{:.2f}"),
    ("rollout/length", "Answer length in tokens", "{:.1f}"),
    ("rollout/truncated", "Answers cut at the length limit", "{:.1%}"),
    ("rollout/lost", "Answers whose reward failed", "{:.1%}"),
    ("rollout/asked", "Prompts asked for groups with signal", "{:.1f}"),
    ("rollout/without_signal", "Groups without signal", "{:.1%}"),
    ("rollout/engine_gap", "Log-probs: engine against trainer, mean difference", "{:.5f}"),
    ("rollout/staleness", "Iterations behind", "{:.2f}"),
    ("push/bytes", "Bytes of weights handed to the engine", "{:,.0f}"),
    ("seconds/iteration", "Seconds of an iteration", "{:.2f}"),
)


def write_online_report(
    folder: Path, curves_path: Path, samples_path: Path, metrics: Mapping[str, float]
) -> None:
    """Write report.html and metrics.json into ``folder``.

    Args:
        curves_path: curves.jsonl of the run.
        samples_path: samples.jsonl of the run; may be missing.
        metrics: the final figures of the run, for metrics.json.
    """
    curves = read_iterations(curves_path)
    folder.mkdir(parents=True, exist_ok=True)
    page = template("online_report.html.j2").render(
        headline=online_headline(curves),
        times=_times(curves),
        drawings=[Markup(drawing) for drawing in drawings(curves)],
        samples=_early_and_late(_read_lines(samples_path)),
        iterations=len(curves.get(_STARTS, [])),
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    text = json.dumps(dict(metrics), indent=2, sort_keys=True) + "\n"
    (folder / "metrics.json").write_text(text, encoding="utf-8")


def read_iterations(path: Path) -> dict[str, Curve]:
    """The curves of curves.jsonl with a point per iteration, which are counted from 1."""
    values: dict[str, dict[int, list[float]]] = {}
    iteration = 0
    for row in _read_lines(path):
        iteration += _STARTS in row["metrics"]
        for name, value in row["metrics"].items():
            values.setdefault(name, {}).setdefault(max(iteration, 1), []).append(value)
    return {
        name: [
            (place, found[-1] if name.startswith(_LAST) else sum(found) / len(found))
            for place, found in rows.items()
        ]
        for name, rows in values.items()
    }


def online_headline(curves: Mapping[str, Curve]) -> list[tuple[str, str, str]]:
    """Label, figure of the first and of the last tenth of the iterations, of all that was logged."""
    components = [(REWARD + name, f"Reward '{name}'", "{:.3f}") for name in reward_names(curves)]
    rows = [*_FIGURES[:1], *components, *_FIGURES[1:]]
    return [
        (label, *(form.format(_mean(part)) for part in _ends(curves[name])))
        for name, label, form in rows
        if name in curves
    ]


def _ends(curve: Curve) -> tuple[Curve, Curve]:
    """The first and the last tenth."""
    count = max(1, len(curve) // 10)
    return curve[:count], curve[-count:]


def _mean(curve: Curve) -> float:
    return sum(value for _, value in curve) / len(curve)


def _times(curves: Mapping[str, Curve]) -> list[Row]:
    """Where the time went, of the whole run."""
    whole = sum(value for _, value in curves.get("seconds/iteration", []))
    if not whole:
        return []
    spent = {name: sum(value for _, value in curves.get(f"seconds/{name}", [])) for name in TIMES}
    spent["other"] = max(0.0, whole - sum(spent.values()))
    return [(name, f"{seconds:.1f} s ({seconds / whole:.0%})") for name, seconds in spent.items()]


def _early_and_late(lines: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Answers of the first and of the last iteration side by side; prompts differ."""
    if not lines:
        return []
    first, last = lines[0]["iteration"], lines[-1]["iteration"]
    early = [line for line in lines if line["iteration"] == first]
    late = [line for line in lines if line["iteration"] == last]
    return list(zip(early, late, strict=False))[:_SHOWN]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
