"""Steps that several pipelines have: data, where the policy starts, the judge, the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.evaluate.component import evaluate
from components.export.component import export
from components.resolve.component import resolve
from components.reward_model.component import reward_model
from components.sft.component import sft
from components.tokenize.component import tokenize
from pipelines.wiring import Wiring

__all__ = ["Steps"]


@dataclass(frozen=True)
class Steps:
    """Adds groups of steps to a pipeline; each method returns a manifest. A source of "" is not given."""

    step: Wiring
    base: Any
    """The base model."""
    max_length: Any
    """Tokens of a sample."""

    @classmethod
    def of(cls, step: Wiring, base_model: Any, max_length: Any) -> Steps:
        """Those of a pipeline that starts from the model ``base_model``."""
        return cls(step, step("resolve_model", resolve, kind="model", uri=base_model), max_length)

    def data(self, name: str, dataset_type: Any, uri: Any, *, validation: Any = None) -> Any:
        """A source's rows as shards, in the base model's tokens.

        Args:
            validation: source of held-out rows, where the pipeline takes one.
        """
        sources = {"source": self.step(f"resolve_{name}", resolve, kind="dataset", uri=uri)}
        if validation is not None:
            sources["validation"] = self.step("resolve_validation", resolve, kind="dataset", uri=validation)
        return self.step(
            f"tokenize_{name}",
            tokenize,
            dataset_type=dataset_type,
            max_length=self.max_length,
            tokenizer=self.base,
            **sources,
        )

    def fine_tuned(self, instructions: Any) -> Any:
        """The base model after supervised fine-tuning, or itself where there are no instructions."""
        data = self.data("instructions", "instruction", instructions)
        tuned = self.step("sft", sft, model=self.base, data=data)
        return self.step("export_sft", export, checkpoint=tuned, otherwise=self.base)

    def judge(self, start: Any, preferences: Any, given: Any) -> Any:
        """The reward model ``given``, pinned as it is; else the one that ``preferences`` train."""
        pinned = self.step("resolve_reward_model", resolve, kind="model", uri=given)
        trained = self.step("reward_model", reward_model, existing=given, model=start, data=preferences)
        return self.step("export_reward_model", export, checkpoint=trained, otherwise=pinned)

    def judged(self, aligned: Any, start: Any, **held_out: Any) -> Any:
        """Export what was trained, and compare it with its start."""
        policy = self.step("export_policy", export, checkpoint=aligned)
        return self.step("evaluate", evaluate, policy=policy, baseline=start, **held_out)
