"""Optimal values of prompts for A*-PO: what the stage takes and what it makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.config.rewards import parse_rewards, reward_code
from compose_rl.config.rollouts import GenerationSettings, RolloutEngine, ServerPlan
from compose_rl.config.schema import Config, neutral
from compose_rl.stages.checks import check_reward_model
from compose_rl.stages.online_checks import (
    check_engine,
    check_prompts,
    check_rewards,
    server_plan,
)
from compose_rl.stages.spec import Slot, StageSpec
from compose_rl.store.manifest import Manifest

__all__ = ["SPEC", "VStarConfig"]


class VStarConfig(Config):
    """All that shapes the values, beside model and prompts; names as in ``variables`` of online_rl."""

    answers: int = Field(8, gt=0)
    """Answers of the reference to each prompt."""
    beta: float = Field(0.5, gt=0)
    """V* = beta * log(mean(exp(reward / beta))): near the best answer's reward where it is small, near their
    mean where it is large. The paper's beta_1; its beta_2 is ``model.beta`` of online_rl, far smaller."""
    max_gen_len: int = Field(gt=0)
    eos_token_ids: list[int] | None = None
    generation_kwargs: GenerationSettings = Field(
        default_factory=lambda: GenerationSettings.model_validate({})
    )
    rewards: dict[str, dict[str, Any]] = Field(default_factory=dict)
    reward_clip: float | None = Field(None, gt=0)
    center_reward_mean: float | None = None
    max_lost_fraction: float = Field(0.1, ge=0, le=1)
    seed: int = 17
    precision: Literal["fp32", "amp_bf16"] = "fp32"
    trust_remote_code: bool = False
    engine: RolloutEngine = Field(default_factory=lambda: RolloutEngine.model_validate({}))
    reward_timeout: float = neutral(30.0, "seconds that a reward has for one answer")
    device_generate_batch_size: int = neutral(64, "answers that engine hf generates at once")

    def variables(self) -> OnlineVariables:
        """The same as online RL's settings."""
        shared = self.model_dump(
            exclude={"answers", "beta", "seed", "precision", "trust_remote_code"}, exclude_none=True
        )
        return OnlineVariables.model_validate(
            shared | {"generations_per_prompt": self.answers, "num_unique_prompts_per_iter": 1}
        )


def _check(config: VStarConfig, inputs: Mapping[str, Manifest]) -> None:
    check_prompts("vstar", inputs, None, config.max_gen_len)
    check_rewards("vstar", config.rewards, None, inputs)
    check_reward_model("vstar", "reward_model", inputs)
    check_engine("vstar", config.engine)


def _servers(config: VStarConfig, inputs: Mapping[str, Manifest]) -> ServerPlan | None:
    return server_plan(config.engine, inputs, None, config.max_gen_len)


SPEC = StageSpec(
    name="vstar",
    version=1,
    doc="Estimate the optimal value of each prompt from answers of the reference, for loss_type apo.",
    config=VStarConfig,
    inputs={
        "model": Slot(stages=("resolve", "export"), doc="the reference: what online_rl starts from"),
        "prompts": Slot(stages=("tokenize",), doc="the prompts that online_rl trains on"),
        "reward_model": Slot(stages=("resolve", "export"), doc="a reward model", optional=True),
    },
    outputs={"vstar": "vstar.safetensors: float32 `vstar` and int64 `answers` by index of the prompt"},
    accelerated=True,
    check=_check,
    code=lambda config: reward_code(parse_rewards(config.rewards)),
    servers=_servers,
)
