"""What is logged of an iteration, and its lines of samples.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compose_rl.core.aggregation import expand
from compose_rl.core.losses.value import explained_variance
from compose_rl.training.online.answers import Answers

__all__ = [
    "SAMPLE_COLUMNS",
    "iteration_figures",
    "iteration_line",
    "sample_lines",
    "write_samples",
]

_COMPONENT = "rollout/rewards/"
_SHARES = ("truncated", "lost", "without_signal")

SAMPLE_COLUMNS = ["iteration", "prompt", "answer", "rewards", "reward", "finished"]


def iteration_figures(answers: Answers, per_token: Mapping[str, Tensor]) -> dict[str, float]:
    """``rollout/...`` of all answers of an iteration.

    Args:
        per_token: float32 [A] of ``old_logps``, ``engine_logps``, ``kl``, ``old_values``, ``returns`` what
            there is.
    """
    counted = answers.counted.float()
    lengths = answers.lengths
    weights = expand(counted, lengths)
    rewards = answers.totals[answers.counted]
    figures = {
        "rollout/reward": float(rewards.mean()) if rewards.numel() else math.nan,
        "rollout/reward_std": float(rewards.std(unbiased=False)) if rewards.numel() else math.nan,
        "rollout/length": float(lengths.float().mean()),
        "rollout/truncated": float((~answers.finished).float().mean()),
        "rollout/lost": float((~answers.counted).float().mean()),
    }
    if answers.each > 1:
        silent = sum(not group.has_signal for group in answers.groups)
        figures["rollout/without_signal"] = silent / len(answers.groups)
    for name, points in answers.components.items():
        judged = points[~points.isnan()]
        figures[_COMPONENT + name] = float(judged.mean()) if judged.numel() else math.nan
    if "kl" in per_token:
        figures["rollout/kl"] = _mean(per_token["kl"], weights)
    if "old_logps" in per_token:
        gap = (per_token["old_logps"] - per_token["engine_logps"]).abs()
        figures["rollout/engine_gap"] = _mean(gap, weights)
    if "old_values" in per_token:
        figures["rollout/explained_variance"] = explained_variance(
            per_token["old_values"], per_token["returns"], weights
        )
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def iteration_line(iteration: int, figures: Mapping[str, float], spent: Mapping[str, float]) -> str:
    """What the log says of an iteration.

    Args:
        figures: of :func:`iteration_figures` and what else was logged; empty after a resume in its middle.
        spent: seconds by phase.
    """
    if not figures:
        return f"iteration {iteration}"
    reward = f"reward {figures.get('rollout/reward', math.nan):.4f}"
    rewards = {n.removeprefix(_COMPONENT): x for n, x in figures.items() if n.startswith(_COMPONENT)}
    if len(rewards) > 1:
        reward += f" ({', '.join(f'{name} {value:.4f}' for name, value in rewards.items())})"
    parts = [reward]
    if "rollout/kl" in figures:
        parts.append(f"KL {figures['rollout/kl']:.4f}")
    parts.append(f"length {figures.get('rollout/length', 0):.1f}")
    shares = {name.replace("_", " "): figures.get(f"rollout/{name}", 0.0) for name in _SHARES}
    parts += [f"{name} {share:.0%}" for name, share in shares.items() if share]
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in spent.items())
    return f"iteration {iteration}: {', '.join(parts)}; seconds: {seconds}"


def _mean(values: Tensor, weights: Tensor) -> float:
    return float((values * weights).sum() / weights.sum().clamp(min=1))


def sample_lines(answers: Answers, iteration: int, count: int) -> list[dict[str, Any]]:
    """The first ``count`` answers, evenly spread over the prompts."""
    total = len(answers.texts)
    chosen = torch.linspace(0, total - 1, min(count, total)).round().long().tolist() if count else []
    return [
        {
            "iteration": iteration,
            "prompt": answers.prompts[row // answers.each].text,
            "answer": answers.texts[row],
            "rewards": {
                name: None if math.isnan(points[row]) else round(float(points[row]), 6)
                for name, points in answers.components.items()
            },
            "reward": round(float(answers.totals[row]), 6),
            "finished": bool(answers.finished[row]),
        }
        for row in dict.fromkeys(chosen)
    ]


def write_samples(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """All lines so far, whole: a resumed run has those of the attempt before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
