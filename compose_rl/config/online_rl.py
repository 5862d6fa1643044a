"""Settings of online RL: the policy's loss (``model:``) and the loop around it (``variables:``)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from compose_rl.config.rollouts import GenerationSettings, RolloutEngine
from compose_rl.config.schema import Config, problem

__all__ = [
    "CRITIC_LOSSES",
    "KLControllerSettings",
    "KLEstimatorName",
    "OnlineLossName",
    "OnlineRLSettings",
    "OnlineVariables",
]

OnlineLossName = Literal["ppo", "grpo", "gspo", "rloo", "cispo", "apo"]
KLEstimatorName = Literal["k1", "k2", "k3", "k3_offpolicy"]

CRITIC_LOSSES = frozenset({"ppo"})
"""Losses whose advantages come from a critic."""

_GRADIENT_LOSSES = frozenset({"ppo", "grpo", "gspo", "rloo", "cispo"})
"""All but regressions."""
_READERS = {
    "policy_clip_ratio": frozenset({"ppo", "grpo", "gspo", "cispo"}),
    "policy_clip_high_ratio": frozenset({"ppo", "grpo", "gspo", "cispo"}),
    "loss_aggregation": _GRADIENT_LOSSES,
    "normalize_advantage": frozenset({"ppo", "grpo", "gspo", "cispo"}),
    "importance_sampling_cap": _GRADIENT_LOSSES,
    "value_loss_weight": CRITIC_LOSSES,
    "value_clip_range": CRITIC_LOSSES,
    "joint_actor_critic": CRITIC_LOSSES,
    "critic_dropout": CRITIC_LOSSES,
    "beta": frozenset({"apo"}),
}
"""The only losses that read the setting."""

_USELESS = {
    "loss": {
        "k1": "has an expected gradient of zero",
        "k3_offpolicy": "drives the policy away from the reference",
    },
    "rewards": {
        "k2": "hardly holds a policy that is near the reference",
        "k3": "hardly holds a policy that is near the reference",
    },
}
"""Estimators whose gradient there does not lower the KL (``compose_rl/core/kl.py``)."""
_REMEDY = {
    "loss": "use k2 or k3, or put it into the rewards with compute_kl_loss: false",
    "rewards": "use k1 (the default there), or put it into the loss with compute_kl_loss: true",
}


def _estimator_of_its_place(settings: dict[str, Any]) -> KLEstimatorName:
    in_rewards = settings.get("compute_kl_loss") is False and settings.get("loss_type") != "apo"
    return "k1" if in_rewards else "k3"


class OnlineRLSettings(Config):
    """What the policy's loss needs beside log-probabilities; each loss says which of these it reads."""

    loss_type: OnlineLossName = "ppo"
    temperature: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Divides the logits of policy and reference; by default the temperature that answers are sampled at,
    and another one is refused."""

    policy_clip_ratio: float = Field(0.2, gt=0)
    """The ratio is clipped to [1 - this, 1 + high]; for ``gspo`` it is that of a whole answer."""
    policy_clip_high_ratio: float | None = Field(None, gt=0)
    """Upper clip (clip-higher of DAPO, the only one of ``cispo``); by default as the lower one."""
    loss_aggregation: Literal["sequence_mean", "token_mean", "constant"] = "sequence_mean"
    """Mean over answers of the mean over their tokens (GRPO); mean over all tokens of the batch (DAPO); sum
    over an answer's tokens divided by ``max_gen_len``, mean over answers (Dr. GRPO)."""
    length_normalize_policy_loss: bool | None = None
    """Compose RL's name: true is ``sequence_mean``, false is ``constant``."""
    normalize_advantage: bool = True
    """Divide group advantages by the group's standard deviation (not in Dr. GRPO); with a critic, bring
    the iteration's advantages to mean 0 and variance 1."""
    importance_sampling_cap: float | None = Field(None, gt=0)
    """Truncated importance sampling: weigh each token by min(pi_old / pi_engine, cap); null: not at all."""

    compute_kl_loss: bool = True
    """Where KL to the reference goes: in the loss (true), or into the rewards, token by token (false).
    ``apo`` has it in its equation, and reads neither this nor the controller."""
    kl_estimator: KLEstimatorName = Field(default_factory=_estimator_of_its_place)
    """By default ``k3`` in the loss and ``k1`` in the rewards."""
    kl_clip_range: float = Field(40.0, gt=0)
    """Log-ratios are clipped to +- this before an estimate."""
    target_kl: float | None = Field(None, gt=0)
    """The iteration's later passes are left out when KL(old || new) of a pass exceeds 1.5 times this."""
    entropy_loss_weight: float = Field(0.0, ge=0)
    """Weight of the mean entropy of a token's distribution, which the loss rewards."""

    value_loss_weight: float = Field(0.2, ge=0)
    value_clip_range: float = Field(0.2, gt=0)
    joint_actor_critic: bool = True
    """True: the critic is a linear layer on the policy's last hidden states. False: a model of its own, from
    the stage's input ``critic``; without it from its reward model, or else from the policy's start."""
    critic_dropout: float = Field(0.0, ge=0, lt=1)

    beta: float = Field(1e-3, gt=0)
    """``apo``: strength of the pull towards the reference."""

    compat: bool = False
    """Compose RL's numbers where this project mends them."""

    @model_validator(mode="after")
    def _consistent(self) -> OnlineRLSettings:
        if self.length_normalize_policy_loss is not None and "loss_aggregation" in self.model_fields_set:
            raise problem(
                "length_normalize_policy_loss is Compose RL's name for loss_aggregation; give one of the two"
            )
        place = self.kl_place
        if place is not None and not self.compat and self.kl_estimator in _USELESS[place]:
            fault, remedy = _USELESS[place][self.kl_estimator], _REMEDY[place]
            raise problem(f"kl_estimator='{self.kl_estimator}' in the {place} {fault}; {remedy}")
        return self

    @model_validator(mode="after")
    def _read(self) -> OnlineRLSettings:
        for field, readers in _READERS.items():
            value = getattr(self, field)
            default = type(self).model_fields[field].default
            if field in self.model_fields_set and self.loss_type not in readers and value != default:
                raise problem(
                    f"{field}={value!r}: loss_type='{self.loss_type}' does not read it, only"
                    f" {', '.join(sorted(readers))}; leave it at {default!r} or change loss_type"
                )
        return self

    @property
    def has_critic(self) -> bool:
        return self.loss_type in CRITIC_LOSSES

    @property
    def kl_place(self) -> Literal["loss", "rewards"] | None:
        """Where ``kl_coef`` times KL to the reference goes; ``apo`` has ``beta`` for it, and takes none."""
        if self.loss_type == "apo":
            return None
        return "loss" if self.compute_kl_loss else "rewards"

    @property
    def aggregation(self) -> Literal["sequence_mean", "token_mean", "constant"]:
        """``loss_aggregation``, under either of its names."""
        if self.length_normalize_policy_loss is None:
            return self.loss_aggregation
        return "sequence_mean" if self.length_normalize_policy_loss else "constant"

    @property
    def clip_high(self) -> float:
        return self.policy_clip_ratio if self.policy_clip_high_ratio is None else self.policy_clip_high_ratio


class KLControllerSettings(Config):
    """How the weight of KL to the reference moves; ``compose_rl/core/kl_controllers``."""

    kl_ctl_type: Literal["fixed", "adaptive", "pid", "ball"] = "fixed"
    init_kl_coef: float = Field(0.05, ge=0)
    """0 with ``fixed``: no KL term, and the reference is never run."""
    target: float = Field(0.1, gt=0)
    """KL of an answer's token, nats, that the others steer to."""
    horizon: float = Field(10000, gt=0)
    """Samples over which the weight moves."""
    kl_lr: float = Field(2e-3, gt=0)


class DynamicSampling(Config):
    """Ask more prompts instead of training on groups whose answers all have the same reward (DAPO)."""

    max_rounds: int = Field(4, ge=1)
    """Rounds of generation of an iteration, the first included; groups that are missing after that are
    filled up with those without signal, and counted."""


class OnlineVariables(Config):
    """``variables:`` of a document, with Compose RL's names."""

    gamma: float = Field(1.0, ge=0, le=1)
    lambda_gae: float = Field(1.0, ge=0, le=1)
    max_gen_len: int = Field(gt=0)
    """Tokens of an answer."""
    eos_token_ids: list[int] | None = None
    """Tokens that end an answer; by default the model's."""
    generation_kwargs: GenerationSettings = Field(
        default_factory=lambda: GenerationSettings.model_validate({})
    )
    device_generate_batch_size: int = Field(64, gt=0)
    """Answers that engine ``hf`` generates at once."""
    generations_per_prompt: int = Field(1, gt=0)
    num_unique_prompts_per_iter: int = Field(gt=0)
    """Times ``generations_per_prompt`` it is ``global_train_batch_size * num_batches_per_update``."""
    num_batches_per_update: int = Field(1, gt=0)
    """Optimizer steps of one pass over an iteration's answers."""
    epoch_per_iteration: int = Field(1, gt=0)
    """Passes over an iteration's answers."""
    kl_controller: KLControllerSettings = Field(
        default_factory=lambda: KLControllerSettings.model_validate({})
    )
    rewards: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    """By name: ``reward_type`` (of the registry ``rewards``), ``coefficient`` and the reward's own keys."""
    reward_clip: float | None = Field(None, gt=0)
    """The sum of an answer's rewards is clipped to +- this."""
    center_reward_mean: float | None = None
    """Subtracted from the sum of an answer's rewards."""
    reward_timeout: float = Field(30.0, gt=0)
    """Seconds that a reward has for one answer."""
    max_lost_fraction: float = Field(0.1, ge=0, le=1)
    """The run ends when a reward failed for a larger share of an iteration's answers."""
    mask_truncated: bool = False
    """Answers that were cut at ``max_gen_len`` are rewarded but not learnt from (DAPO)."""
    dynamic_sampling: DynamicSampling | None = None
    old_logprobs: Literal["trainer", "engine"] = "trainer"
    """Whose log-probabilities the ratio starts from: computed again by the trainer, where the update does
    not give them anyway, or as the engine gave them."""
    engine: RolloutEngine = Field(default_factory=lambda: RolloutEngine.model_validate({}))
    max_staleness: Literal[0, 1] = 0
    """1: the next iteration's answers are generated during training, with weights of one iteration before.
    What the policy has moved since counts with ``importance_sampling_cap`` or ``old_logprobs: engine``."""
    num_logged_samples: int = Field(8, ge=0)
    """Answers of an iteration kept for the samples table."""

    reference_model: dict[str, Any] | None = None
    """Compose RL's: ``model_config``, ``precision``, ``load_path``; by default the policy before training."""
    buffer: dict[str, Any] | None = None
    """Compose RL's; only its default ``name: MinibatchRolloutBuffer`` means anything."""
    non_train_fsdp_config: dict[str, Any] | None = None
    """Compose RL's; models that are not trained are whole on every rank."""
    vllm_tensor_parallel_size: int | None = Field(None, gt=0)
    """Compose RL's, as the next; ``engine`` says it, and these are not read."""
    vllm_enable_prefix_caching: bool | None = None
    vllm_generate_function: Literal["generate", "chat"] | None = None
    """Compose RL's; tokens are always sent, which is ``generate``."""
    vllm_sync_backend: str | None = None
    num_train_nodes: int | None = None

    @property
    def samples(self) -> int:
        """Answers of an iteration."""
        return self.num_unique_prompts_per_iter * self.generations_per_prompt
