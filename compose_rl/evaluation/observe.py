"""What each model says: log-probabilities of held-out pairs, and answers of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from compose_rl.config.evaluate import Evaluate
from compose_rl.data.encoding import load_tokenizer, same_tokens
from compose_rl.evaluation.answers import answer_prompts
from compose_rl.evaluation.held_out import Pair, Prompt
from compose_rl.evaluation.scoring import answer_logprobs, rewards
from compose_rl.models.loading import load_policy, load_reward_model
from compose_rl.progress import Progress
from compose_rl.rewards.reward_model.reading import answer_tokens, prompt_tokens
from compose_rl.rollouts.types import Completion

__all__ = ["HeldOut", "Observation", "RewardObservation", "observe", "observe_rewards"]


@dataclass(frozen=True)
class HeldOut:
    """What every model is shown."""

    pairs: list[Pair]
    prompts: list[Prompt]
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Observation:
    """What a policy said."""

    chosen: Tensor
    """log p of the pairs' chosen answers, float64 [pairs]."""
    rejected: Tensor
    answers: list[Completion]
    """Its own, one per prompt."""
    policy_answers: Tensor | None
    """log p of the policy's answers at the sampling temperature, float64 [prompts]; None if greedy."""


@dataclass(frozen=True)
class RewardObservation:
    """What a reward model said."""

    chosen: Tensor
    rejected: Tensor
    answers: list[Tensor]
    """Rewards of each model's answers, float64 [prompts]."""


def observe(
    name: str,
    folder: Path,
    config: Evaluate,
    held_out: HeldOut,
    progress: Progress,
    policy_answers: list[Completion] | None = None,
) -> Observation:
    """Load the model in ``folder`` and ask it everything.

    Args:
        name: what progress is shown under.
        policy_answers: the judged policy's answers; the model's own if None.
    """
    model = load_policy(folder, config.precision)
    pairs, prompts = held_out.pairs, [prompt.tokens for prompt in held_out.prompts]
    questions = [pair.prompt for pair in pairs]
    with progress.phase(f"{name}: score pairs", total=2 * len(pairs), unit="answers") as phase:
        chosen = answer_logprobs(model, questions, [pair.chosen for pair in pairs], done=phase.advance)
        rejected = answer_logprobs(model, questions, [pair.rejected for pair in pairs], done=phase.advance)
    with progress.phase(f"{name}: answer prompts", total=len(prompts), unit="answers") as phase:
        answers = answer_prompts(model, prompts, config, held_out.tokenizer, phase.advance)
    logprobs = None
    if config.temperature > 0:
        tokens = [list(answer.tokens) for answer in (policy_answers or answers)]
        with progress.phase(f"{name}: score answers", total=len(tokens), unit="answers") as phase:
            logprobs = answer_logprobs(
                model, prompts, tokens, temperature=config.temperature, done=phase.advance
            )
    return Observation(chosen, rejected, answers, logprobs)


def observe_rewards(
    folder: Path,
    model_class: str,
    config: Evaluate,
    held_out: HeldOut,
    answers: list[list[Completion]],
    progress: Progress,
) -> RewardObservation:
    """Load the reward model in ``folder`` and ask it about the pairs and about each model's ``answers``.

    One with a tokenizer of its own reads the texts in that.
    """
    model = load_reward_model(folder, model_class, config.precision)
    asked = [[(pair.prompt, pair.chosen) for pair in held_out.pairs]]
    asked += [[(pair.prompt, pair.rejected) for pair in held_out.pairs]]
    for given in answers:
        asked += [[(p.tokens, list(a.tokens)) for p, a in zip(held_out.prompts, given, strict=True)]]
    own = load_tokenizer(folder)
    if same_tokens(own, held_out.tokenizer):
        sequences = [[prompt + answer for prompt, answer in batch] for batch in asked]
    else:
        sequences = [[_read(own, held_out.tokenizer, *texts) for texts in batch] for batch in asked]
    with progress.phase("reward model", total=sum(map(len, sequences)), unit="answers") as phase:
        scores = [rewards(model, batch, phase.advance) for batch in sequences]
    return RewardObservation(scores[0], scores[1], scores[2:])


def _read(own: Any, policy: Any, prompt: list[int], answer: list[int]) -> list[int]:
    """The tokens of ``policy`` as those of a reward model's own tokenizer."""
    question, text = (policy.decode(tokens, skip_special_tokens=True) for tokens in (prompt, answer))
    finished = not answer or answer[-1] in policy.all_special_ids
    return [*prompt_tokens(own, question), *answer_tokens(own, text, finished)]
