"""Drawings of a run of online RL: a point per iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from compose_rl.evaluation.figures import ACCENT, INK, SOFT, STYLE, Curve, svg

__all__ = ["REWARD", "TIMES", "drawings", "reward_names"]

_COLOURS = (ACCENT, "#c2571a", "#2f8f5b", "#8a4fa3", "#b08900", "#5f6c7b")
REWARD = "rollout/rewards/"
"""Before the name of a reward."""
TIMES = ("generate", "score", "logprobs", "push", "train")
"""What an iteration's time is spent on: ``seconds/<name>``; the rest of it is ``other``."""
_FAINT = {"color": "#e5eaf0", "linewidth": 0.8}


@dataclass(frozen=True)
class _Panel:
    """A drawing of up to two kinds of curves."""

    title: str
    left: Mapping[str, str]
    """Curve by label."""
    right: Mapping[str, str]
    """Those on an axis of their own."""
    quiet: bool = False
    """Left out where every value is 0."""


_PANELS = (
    _Panel(
        "KL to the reference, nats a token",
        {"KL": "rollout/kl"},
        {"weight": "rollout/kl_coef"},
    ),
    _Panel("entropy, nats a token", {"entropy": "loss/train/entropy"}, {}),
    _Panel(
        "change of the policy",
        {"clipped share": "loss/train/clip_fraction"},
        {"KL(old, new)": "loss/train/policy_kl"},
    ),
    _Panel("explained variance of the critic", {"explained variance": "rollout/explained_variance"}, {}),
    _Panel(
        "answers",
        {"tokens": "rollout/length"},
        {"truncated share": "rollout/truncated"},
    ),
    _Panel(
        "losses",
        {"policy": "loss/train/policy_loss", "KL": "loss/train/kl_loss"},
        {"value": "loss/train/value_loss"},
    ),
    _Panel("log-probs: engine against trainer", {"mean difference": "rollout/engine_gap"}, {}),
    _Panel(
        "answers that do not count",
        {"lost share": "rollout/lost", "groups without signal": "rollout/without_signal"},
        {"iterations behind": "rollout/staleness"},
        quiet=True,
    ),
)


def reward_names(curves: Mapping[str, Curve]) -> list[str]:
    """The rewards that were given, by name."""
    return sorted(name.removeprefix(REWARD) for name in curves if name.startswith(REWARD))


def drawings(curves: Mapping[str, Curve]) -> list[str]:
    """SVGs of whatever was logged: the reward first, the time last."""
    found = [_reward(curves), _components(curves)]
    found += [_panel(panel, curves) for panel in _PANELS]
    found += [_time(curves)]
    return [drawing for drawing in found if drawing]


def _reward(curves: Mapping[str, Curve]) -> str:
    """The mean reward, and the spread of the answers' rewards around it."""
    if "rollout/reward" not in curves:
        return ""

    def draw(axes: Any) -> None:
        places, values = _columns(curves["rollout/reward"])
        spread = dict(curves.get("rollout/reward_std", []))
        low = [value - spread.get(place, 0.0) for place, value in zip(places, values, strict=True)]
        high = [value + spread.get(place, 0.0) for place, value in zip(places, values, strict=True)]
        axes.fill_between(places, low, high, color=SOFT, alpha=0.35, linewidth=0)
        axes.plot(places, values, color=ACCENT, linewidth=1.8)

    return _drawn("reward, and its standard deviation", draw)


def _components(curves: Mapping[str, Curve]) -> str:
    names = reward_names(curves)
    if len(names) < 2:
        return ""  # the sum says the same
    return _drawn("rewards", lambda axes: _lines(axes, {name: curves[REWARD + name] for name in names}))


def _panel(panel: _Panel, curves: Mapping[str, Curve]) -> str:
    left = {label: curves[name] for label, name in panel.left.items() if name in curves}
    right = {label: curves[name] for label, name in panel.right.items() if name in curves}
    if not left or (
        panel.quiet and not any(value for curve in (*left.values(), *right.values()) for _, value in curve)
    ):
        return ""

    def draw(axes: Any) -> None:
        drawn = _lines(axes, left, legend=False)
        if right:
            other = axes.twinx()
            other.spines["right"].set_visible(True)
            drawn += _lines(other, right, first=len(left), legend=False, linestyle="--")
        if len(drawn) > 1:
            axes.figure.legend(handles=drawn, **_LEGEND)

    return _drawn(panel.title, draw)


def _time(curves: Mapping[str, Curve]) -> str:
    """Where an iteration's time goes, stacked."""
    if "seconds/iteration" not in curves:
        return ""
    places, whole = _columns(curves["seconds/iteration"])
    parts: dict[str, list[float]] = {}
    for name in TIMES:
        if f"seconds/{name}" in curves:
            spent = dict(curves[f"seconds/{name}"])
            parts[name] = [spent.get(place, 0.0) for place in places]
    parts["other"] = [
        max(0.0, total - sum(part[index] for part in parts.values())) for index, total in enumerate(whole)
    ]

    def draw(axes: Any) -> None:
        axes.stackplot(places, *parts.values(), labels=list(parts), colors=_COLOURS, alpha=0.8, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.figure.legend(**_LEGEND)

    return _drawn("seconds of an iteration", draw)


_LEGEND: Mapping[str, Any] = {"fontsize": 7, "frameon": False, "loc": "outside lower left", "ncols": 3}


def _lines(
    axes: Any, curves: Mapping[str, Curve], *, first: int = 0, legend: bool = True, linestyle: str = "-"
) -> list[Any]:
    """Draw the curves; returns what a legend needs.

    Args:
        first: place of the first colour.
    """
    drawn: list[Any] = []
    for number, (label, curve) in enumerate(curves.items(), start=first):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn += axes.plot(*_columns(curve), color=colour, linewidth=1.6, linestyle=linestyle, label=label)
    if legend:
        axes.figure.legend(handles=drawn, **_LEGEND)
    return drawn


def _columns(curve: Curve) -> tuple[Sequence[int], Sequence[float]]:
    return [place for place, _ in curve], [value for _, value in curve]


def _drawn(title: str, draw: Callable[[Any], None]) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.5, 2.5), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title, color=INK)
        axes.set_xlabel("iteration")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", **_FAINT)
        axes.set_axisbelow(True)
        return svg(figure)
