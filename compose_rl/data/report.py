"""The data report: what came in, what was kept, what was dropped and why, how long samples are."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compose_rl.data.tokenizing import TokenizedChunk
from compose_rl.errors import UserError

__all__ = ["DataReport", "SplitReport", "check_dropped", "write_report"]

_EXAMPLES = 5
_QUANTILES = (0.5, 0.9, 0.95, 0.99)
_BAR = 40


@dataclass
class SplitReport:
    """Samples of one split."""

    lengths: list[int] = field(default_factory=list)
    """Tokens of each sample's longest sequence, in the order of the shards."""
    tokens: int = 0
    cut_rows: int = 0
    cut_tokens: int = 0
    duplicates: int = 0
    """Samples that are equal to an earlier one of this split."""
    shown: list[dict[str, Any]] = field(default_factory=list)
    """The first samples, decoded."""

    def summary(self) -> dict[str, Any]:
        """Numbers and histogram (powers of two) as plain JSON values."""
        lengths = np.array(self.lengths)
        result: dict[str, Any] = {
            "samples": len(self.lengths),
            "tokens": self.tokens,
            "duplicates": self.duplicates,
            "cut_rows": self.cut_rows,
            "cut_tokens": self.cut_tokens,
        }
        if len(lengths):
            quantiles = {
                f"p{round(q * 100)}": int(np.quantile(lengths, q, method="higher")) for q in _QUANTILES
            }
            result["length"] = {
                "min": int(lengths.min()),
                "mean": round(float(lengths.mean()), 1),
                **quantiles,
                "max": int(lengths.max()),
            }
            edges = 1 << np.arange(0, int(lengths.max()).bit_length() + 1)
            counts, _ = np.histogram(lengths, np.append(edges, edges[-1] * 2))
            result["histogram"] = [
                {"from": int(edge), "below": int(edge) * 2, "samples": int(count)}
                for edge, count in zip(edges, counts, strict=True)
                if count
            ]
        return result


@dataclass
class DataReport:
    """Everything that is told about a run of tokenizing."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[int]] = field(default_factory=dict)
    """Numbers (from 1) of the first rows dropped for each reason."""
    splits: dict[str, SplitReport] = field(default_factory=dict)

    def add(self, chunk: TokenizedChunk) -> None:
        """Count a chunk's rows and what was dropped of them."""
        self.rows += chunk.rows
        for row, reason in chunk.dropped:
            self.dropped[reason] += 1
            examples = self.examples.setdefault(reason, [])
            if len(examples) < _EXAMPLES:
                examples.append(row + 1)

    def summary(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "rows": self.rows,
            "kept": sum(len(split.lengths) for split in self.splits.values()),
            "dropped": [
                {"reason": reason, "rows": count, "examples": self.examples[reason]}
                for reason, count in self.dropped.most_common()
            ],
            "identical_pairs": self.dropped.get("identical pair", 0),
            "splits": {name: split.summary() for name, split in self.splits.items()},
            "samples": {name: split.shown for name, split in self.splits.items()},
        }


def check_dropped(report: DataReport, limit: float, where: str) -> None:
    """Refuse a source of which too much had to be dropped.

    Raises:
        UserError: names the biggest reason and rows it struck.
    """
    if not report.rows:
        raise UserError(f"{where}: no rows; give a source, split or subset that has some")
    dropped = sum(report.dropped.values())
    if not dropped or (dropped / report.rows <= limit and dropped < report.rows):
        return
    reason, count = report.dropped.most_common(1)[0]
    rows = ", ".join(map(str, report.examples[reason]))
    raise UserError(
        f"{where}: {dropped} of {report.rows} rows dropped, over max_dropped_fraction={limit:g};"
        f" biggest reason: {reason} ({count} rows, for instance {rows});"
        " mend the data or raise max_dropped_fraction"
    )


def write_report(report: DataReport, folder: Path, facts: dict[str, Any]) -> None:
    """Write report.json and report.md.

    Args:
        facts: what else is told, above the numbers: source, tokenizer, options.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {**facts, **report.summary()}
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "report.md").write_text(_markdown(document, facts), encoding="utf-8")


def _markdown(document: dict[str, Any], facts: dict[str, Any]) -> str:
    lines = ["# Data report", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += [f"- rows: {document['rows']}, kept: {document['kept']}", "", "## Dropped", ""]
    if document["dropped"]:
        lines += ["| reason | rows | for instance |", "|---|---|---|"]
        for entry in document["dropped"]:
            examples = ", ".join(map(str, entry["examples"]))
            lines.append(f"| {entry['reason']} | {entry['rows']} | {examples} |")
    else:
        lines.append("None.")
    for name, split in document["splits"].items():
        lines += ["", f"## {name}", "", *_split_lines(split)]
        for shown in document["samples"][name]:
            lines += ["", f"### row {shown['row']}", ""]
            lines += [
                f"**{part}**\n\n```text\n{value}\n```" for part, value in shown.items() if part != "row"
            ]
    return "\n".join(lines) + "\n"


def _split_lines(split: dict[str, Any]) -> list[str]:
    lines = [
        f"{split['samples']} samples, {split['tokens']} tokens, {split['duplicates']} duplicates,"
        f" {split['cut_rows']} prompts cut by {split['cut_tokens']} tokens in all."
    ]
    if "length" not in split:
        return lines
    lines += [
        "",
        "Length: " + ", ".join(f"{name} {value}" for name, value in split["length"].items()) + ".",
        "",
    ]
    most = max(entry["samples"] for entry in split["histogram"])
    lines.append("```text")
    for entry in split["histogram"]:
        bar = "#" * max(1, round(_BAR * entry["samples"] / most))
        lines.append(f"{entry['from']:>7} to {entry['below'] - 1:<7} {entry['samples']:>8} {bar}")
    return [*lines, "```"]
