"""From rewarded answers and log-probabilities to what the update reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compose_rl.config.online_rl import OnlineRLSettings, OnlineVariables
from compose_rl.core.advantages import ADVANTAGES, gae, whiten
from compose_rl.core.aggregation import expand, token_weights
from compose_rl.core.kl import estimate_kl
from compose_rl.data.experience import Experience
from compose_rl.training.online.answers import Answers

__all__ = ["Needs", "build_experience", "kl_place", "needs_of"]


@dataclass(frozen=True)
class Needs:
    """Which passes an iteration needs, beside those of the update."""

    old: bool
    """Log-probabilities of the policy that the iteration begins with."""
    values: bool
    reference: bool

    @property
    def of_policy(self) -> tuple[str, ...]:
        return (("logps",) if self.old else ()) + (("values",) if self.values else ())


def kl_place(settings: OnlineRLSettings, variables: OnlineVariables) -> Literal["loss", "rewards"] | None:
    """Where KL to the reference goes; None where it plays no part."""
    controller = variables.kl_controller
    never = controller.kl_ctl_type == "fixed" and controller.init_kl_coef == 0
    return None if never else settings.kl_place


def needs_of(settings: OnlineRLSettings, variables: OnlineVariables, *, unmoved: bool) -> Needs:
    """What has to be computed, and nothing whose result is known.

    With one minibatch and one pass the update itself gives the old log-probabilities. An unmoved policy is
    its reference: their KL is 0, and so is its gradient (of k1, which compat alone allows in the loss, not),
    until a step of the iteration moves it.

    Args:
        unmoved: the policy is still its reference.
    """
    single = variables.num_batches_per_update * variables.epoch_per_iteration == 1
    place = kl_place(settings, variables)
    in_rewards = place == "rewards"
    old = variables.old_logprobs == "trainer" and (not single or (in_rewards and not unmoved))
    reference = place is not None or settings.loss_type == "apo"
    if unmoved and reference:
        at_once = single and settings.loss_type != "apo" and settings.kl_estimator in ("k2", "k3")
        zero = in_rewards or at_once
        old, reference = old or not zero, False
    return Needs(old=old, values=settings.has_critic, reference=reference)


def build_experience(
    answers: Answers,
    measured: Mapping[str, Tensor],
    settings: OnlineRLSettings,
    variables: OnlineVariables,
    *,
    kl_coef: float,
    vstar: Tensor | None,
) -> tuple[Experience, dict[str, Tensor]]:
    """The Experience, and per token what figures are made of.

    Args:
        measured: float32 [A] of ``old_logps``, ``ref_logps``, ``old_values`` what there is.
        vstar: [P], for ``apo``.
    """
    place = kl_place(settings, variables)
    from_engine = variables.old_logprobs == "engine"
    known = dict(measured) | ({"old_logps": answers.engine_logps.clone()} if from_engine else {})
    figures = {name: value for name, value in measured.items() if name != "ref_logps"}
    figures["engine_logps"] = answers.engine_logps
    rewards = answers.token_rewards
    if "ref_logps" in known:
        current = known.get("old_logps", answers.engine_logps)
        pair = (current, known["ref_logps"])
        # What is shown and what a controller steers by is a divergence, whatever the penalty is made of.
        figures["kl"] = estimate_kl(*pair, "k3", settings.kl_clip_range)
        if place == "rewards":
            rewards = rewards - kl_coef * estimate_kl(*pair, settings.kl_estimator, settings.kl_clip_range)
    learnt = answers.counted & (answers.finished | (not variables.mask_truncated))
    weights = learnt.float()
    advantages, returns = _advantages(answers, rewards, known, settings, variables, weights)
    if returns is not None:
        figures["returns"] = returns
    in_loss = place == "loss" and "ref_logps" in known
    keeps_reference = in_loss or settings.loss_type == "apo"
    capped = settings.importance_sampling_cap is not None
    experience = Experience(
        generations=answers.each,
        prompt_index=torch.tensor([prompt.index for prompt in answers.prompts]),
        prompt_lengths=torch.tensor([len(prompt.tokens) for prompt in answers.prompts]),
        prompt_tokens=torch.tensor([token for prompt in answers.prompts for token in prompt.tokens]),
        answer_lengths=answers.lengths,
        answer_tokens=torch.tensor([token for one in answers.completions for token in one.tokens]),
        answer_weights=weights,
        answer_rewards=answers.per_answer(rewards),
        engine_logps=answers.engine_logps if capped else None,
        old_logps=known.get("old_logps"),
        ref_logps=known.get("ref_logps") if keeps_reference else None,
        old_values=known.get("old_values"),
        returns=returns,
        advantages=advantages,
        token_weights=token_weights(answers.lengths, weights, settings.aggregation, variables.max_gen_len),
        vstar=vstar,
        kl_coef=kl_coef if in_loss else None,
        aggregation=settings.aggregation,
    )
    return experience, figures


def _advantages(
    answers: Answers,
    rewards: Tensor,
    known: Mapping[str, Tensor],
    settings: OnlineRLSettings,
    variables: OnlineVariables,
    weights: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Advantages [A] and, with a critic, returns [A]."""
    if settings.loss_type == "apo":
        return torch.zeros_like(rewards), None
    if not settings.has_critic:
        # An answer that was cut counts in its group's mean, whether it is learnt from or not.
        advantages = ADVANTAGES[settings.loss_type](
            answers.per_answer(rewards), answers.group_ids, answers.counted.float(), settings
        )
        return expand(advantages, answers.lengths), None
    advantages, returns = gae(
        rewards,
        known["old_values"],
        answers.lengths,
        gamma=variables.gamma,
        lambda_gae=variables.lambda_gae,
    )
    if settings.normalize_advantage:
        advantages = whiten(advantages, expand(weights, answers.lengths))
    return advantages, returns
