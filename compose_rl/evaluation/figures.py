"""Drawings of the report, as SVG to stand in a page."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "INK",
    "SOFT",
    "STYLE",
    "Curve",
    "curve_figure",
    "interval_figure",
    "read_curves",
    "select_curves",
    "svg",
]

Curve = list[tuple[int, float]]
"""Batch and value."""

INK, ACCENT, SOFT = "#1f2933", "#2563a8", "#9db8d6"
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#b7c1cc",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "compose-rl",
}
_AT_MOST = 6
"""Curves shown of a stage."""
_FIRST = ("loss/train", "loss/eval", "metrics/eval", "metrics/train", "accuracy", "margin", "kl")
"""What is shown first, by part of its name."""


def read_curves(path: Path) -> dict[str, Curve]:
    """The curves of a training stage's ``curves.jsonl``, by name."""
    curves: dict[str, Curve] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row["metrics"].items():
            curves.setdefault(name, []).append((row["batch"], value))
    return curves


def select_curves(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """The curves worth a look: those that move, losses and held-out figures first, at most six."""

    def rank(name: str) -> tuple[int, str]:
        return next((place for place, part in enumerate(_FIRST) if part in name.lower()), len(_FIRST)), name

    moving = [name for name, curve in curves.items() if len({value for _, value in curve}) > 1]
    return {name: curves[name] for name in sorted(moving, key=rank)[:_AT_MOST]}


def curve_figure(name: str, curve: Curve) -> str:
    """One curve: the values faint, a running mean over a tenth of them on top where they are many."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.1), layout="constrained")
        axes = figure.add_subplot()
        steps = [step for step, _ in curve]
        values = [value for _, value in curve]
        if len(values) >= 30:
            axes.plot(steps, values, color=SOFT, linewidth=0.8)
            axes.plot(steps, _running_mean(values, len(values) // 10), color=ACCENT, linewidth=1.8)
        else:
            axes.plot(steps, values, color=ACCENT, linewidth=1.8, marker="o", markersize=3)
        axes.set_title(name)
        axes.set_xlabel("batch")
        axes.grid(axis="y", color="#e5eaf0", linewidth=0.8)
        return svg(figure)


def interval_figure(rates: Mapping[str, tuple[float, float, float]]) -> str:
    """Win rates (mean, low, high), each with its interval, against one half."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 0.7 + 0.45 * len(rates)), layout="constrained")
        axes = figure.add_subplot()
        for place, (mean, low, high) in enumerate(reversed(rates.values())):
            axes.plot([low, high], [place, place], color=SOFT, linewidth=7, solid_capstyle="round")
            axes.plot([mean], [place], color=ACCENT, marker="o", markersize=8)
            axes.annotate(
                f"{100 * mean:.1f} %", (mean, place), xytext=(0, 8), textcoords="offset points", ha="center"
            )
        axes.axvline(0.5, color=INK, linewidth=1, linestyle=":")
        axes.set_yticks(range(len(rates)), list(reversed(rates)))
        axes.set_xlim(0, 1)
        axes.set_ylim(-0.6, len(rates) - 0.2)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        return svg(figure)


def _running_mean(values: list[float], width: int) -> list[float]:
    result: list[float] = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - width) : end]
        result.append(sum(window) / len(window))
    return result


def svg(figure: Figure) -> str:
    """The drawing as an element to stand in a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
