"""Answers of both models side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compose_rl.evaluation.measures import Sides

__all__ = ["Samples"]


@dataclass(frozen=True)
class Samples:
    """Texts, one of each per prompt."""

    prompts: list[str]
    references: list[str]
    """Known or chosen answers; empty where there are none."""
    policy: list[str]
    baseline: list[str]

    def rows(self, judgements: Mapping[str, Sides]) -> Iterator[dict[str, Any]]:
        """A row per prompt: the texts, and what each judge said of both answers."""
        texts = zip(self.prompts, self.references, self.baseline, self.policy, strict=True)
        for index, (prompt, reference, baseline, policy) in enumerate(texts):
            scores = {
                name: {"baseline": sides.baseline[index].item(), "policy": sides.policy[index].item()}
                for name, sides in judgements.items()
            }
            yield {
                "prompt": prompt,
                "reference": reference,
                "baseline": baseline,
                "policy": policy,
                "scores": scores,
            }

    def write(self, path: Path, judgements: Mapping[str, Sides]) -> None:
        """Write the rows as jsonl."""
        with path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows(judgements))
