"""The headline of an evaluation as rows of text: for the terminal, Markdown and the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from compose_rl.progress import duration
from compose_rl.store.manifest import Manifest

__all__ = ["Row", "headline", "markdown", "show", "timings"]

Row = tuple[str, str]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _nats(value: float) -> str:
    return f"{value:.2f} nats"


def _plain(value: float) -> str:
    return f"{value:.2f}"


_SINGLE = (
    ("reward_model/accuracy", "Reward model: accuracy on held-out pairs", _percent),
    ("policy/accuracy", "Policy: accuracy on held-out pairs (implicit reward)", _percent),
    ("policy/margin", "Policy: margin on held-out pairs (log-ratio)", _nats),
)
_INTERVALS = (
    ("win_rate/reward_model", "Win rate over the start, by the reward model", _percent),
    ("win_rate/verifier", "Win rate over the start, by the verifier", _percent),
    ("kl/policy_baseline", "KL(policy ‖ start) of an answer", _nats),
)
_BEFORE_AND_AFTER = (
    ("verifier", "Verifier's score", _percent),
    ("reward_model", "Mean reward", _plain),
    ("length", "Answer length in tokens", _plain),
    ("truncated", "Answers cut at the length limit", _percent),
)


def headline(metrics: Mapping[str, float]) -> list[Row]:
    """What an evaluation found, in reading order; what was not measured is left out."""
    rows = [(label, form(metrics[name])) for name, label, form in _SINGLE if name in metrics]
    for name, label, form in _INTERVALS:
        if name in metrics:
            low, high = form(metrics[f"{name}_low"]), form(metrics[f"{name}_high"])
            rows.append((label, f"{form(metrics[name])}  [{low}, {high}]"))
    for name, label, form in _BEFORE_AND_AFTER:
        if f"{name}/policy" in metrics:
            before, after = form(metrics[f"{name}/baseline"]), form(metrics[f"{name}/policy"])
            rows.append((f"{label}, start → policy", f"{before} → {after}"))
    return rows


def timings(manifests: Iterable[Manifest]) -> list[Row]:
    """The stages that took time, and the sum."""
    spent = [(_name(m), m.seconds) for m in manifests if m.stage != "resolve"]
    rows = [(stage, duration(seconds)) for stage, seconds in spent]
    return [*rows, ("together", duration(sum(seconds for _, seconds in spent)))]


def _name(manifest: Manifest) -> str:
    """The stage, and of which of several it is: what it tokenized, what it exported."""
    of = manifest.info.get("dataset_type") or next((i.stage for i in manifest.inputs.values()), "")
    return f"{manifest.stage} ({of})" if manifest.stage in ("tokenize", "export") and of else manifest.stage


def markdown(title: str, rows: Iterable[Row]) -> str:
    """A Markdown table of two columns."""
    lines = [f"| {title} | |", "|---|---|", *(f"| {label} | {value} |" for label, value in rows)]
    return "\n".join(lines) + "\n"


def show(title: str, rows: Iterable[Row]) -> None:
    """Print a table of two columns on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
