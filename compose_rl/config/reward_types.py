"""The keys of each reward of online RL."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import AliasChoices, ConfigDict, Field, field_validator, model_validator

from compose_rl.config.schema import Config, problem

__all__ = [
    "REWARDS",
    "BadGenerationEnd",
    "ComposerRewardModel",
    "Endpoint",
    "Function",
    "InferenceRewardModel",
    "LLMJudge",
    "OutputLength",
    "Plain",
    "Registered",
    "RewardModel",
    "RewardSettings",
    "ShortResponse",
    "Verifier",
]


class RewardSettings(Config):
    """What every reward has."""

    reward_type: str
    """A name in :data:`REWARDS`, one that a file in ``code_paths`` registers, or a function's dotted path."""
    coefficient: float = Field(1.0, allow_inf_nan=False)
    """Its points count this many times in the sum."""
    clip: float | None = Field(None, gt=0)
    """Its points are clipped to +- this first."""

    @property
    def needs_answer(self) -> bool:
        """Whether it compares with the known answer of the data's column ``verified_answer``."""
        return False


class Plain(RewardSettings):
    """No keys of its own."""


class OutputLength(RewardSettings):
    """Tokens of the answer / ``max_gen_len``."""

    max_gen_len: int = Field(gt=0)


class ShortResponse(RewardSettings):
    """``reward`` where the answer has at most ``len_threshold`` tokens, else 0."""

    reward: float = Field(allow_inf_nan=False)
    len_threshold: int = Field(ge=0)


class BadGenerationEnd(RewardSettings):
    """``reward``, in place of all others, where the answer does not end as it should."""

    reward: float = Field(allow_inf_nan=False)
    """Negative to punish."""
    eos_penalty: bool = True
    """An end token is a good end."""
    extra_special_tokens: list[str] | None = None
    """Other tokens that are."""

    @model_validator(mode="after")
    def _can_end_well(self) -> BadGenerationEnd:
        if not self.eos_penalty and not self.extra_special_tokens:
            raise problem(
                "eos_penalty=False without extra_special_tokens: every answer would be punished; name tokens"
            )
        return self


class Verifier(RewardSettings):
    """``reward`` where the check holds, else 0."""

    reward: float = Field(1.0, gt=0, allow_inf_nan=False)
    num_workers: int | None = None
    """Compose RL's; all rewards share one pool of processes."""

    @property
    def needs_answer(self) -> bool:
        return "format" not in self.reward_type


class ModelRewardSettings(RewardSettings):
    """A reward model's points, at the answer's end or at each of its sentences' ends."""

    granularity: Literal["document", "sentence"] = "document"

    @field_validator("granularity", mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if given == "subsentence":
            raise problem("granularity='subsentence' is not there; give sentence")
        return given


class RewardModel(ModelRewardSettings):
    """A trained reward model, run here."""

    model: str | None = None
    """Folder of an exported reward model; by default the stage's input ``reward_model``."""
    precision: Literal["float32", "bfloat16"] = "float32"
    token_budget: int = Field(16384, gt=0)
    """Tokens of a forward pass."""


class ComposerRewardModel(ModelRewardSettings):
    """Compose RL's ``hf_pairwise`` and ``mpt_pairwise``: a reward model built by LLM Foundry."""

    composer_model: dict[str, Any] = Field(alias="model_config")
    """``name`` and keys of a model in LLM Foundry's registry."""
    load_path: str | None = None
    """Composer checkpoint on this machine whose weights it takes."""
    tokenizer: dict[str, Any] | None = None
    """``name`` and ``kwargs``; by default that of ``pretrained_model_name_or_path``, else the policy's."""
    precision: Literal["fp32", "amp_fp32", "amp_bf16"] = "fp32"
    token_budget: int = Field(16384, gt=0)
    non_train_fsdp_config: dict[str, Any] | None = None
    """Compose RL's; a reward model is whole on every rank."""


class Endpoint(RewardSettings):
    """Something that is asked over HTTP."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the credential, sent as a bearer token."""
    timeout: float = Field(60.0, gt=0)
    """Seconds for one request."""
    max_retries: int = Field(5, ge=0)
    """Further tries when the server is away, slow or overloaded."""
    max_wait: float = Field(30.0, gt=0)
    """Seconds, at most, between two tries; the first wait is half a second, each next twice as long."""
    concurrency: int = Field(8, gt=0)
    """Requests at a time."""


class InferenceRewardModel(Endpoint, ModelRewardSettings):
    """A reward model behind ``POST <url>``: see ``compose_rl/rewards/server``."""

    url: str = Field(validation_alias=AliasChoices("url", "deployment"))
    """Of the server; where it has no path, it is this project's: ``/health`` and ``/score``."""
    batch_size: int = Field(32, gt=0)
    """Answers of a request."""
    send: Literal["tokens", "text"] = "tokens"
    """``tokens`` needs a model with the policy's tokenizer."""

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        return _http_url("url", url)


class LLMJudge(Endpoint):
    """A language model that is asked for a score, over OpenAI's chat protocol."""

    base_url: str
    """Up to and with ``/v1``; ``/chat/completions`` is added."""
    model: str
    template: str
    """The question; ``{prompt}``, ``{answer}`` and ``{reference}`` are filled in."""
    system: str | None = None
    score_regex: str | None = None
    """Its first group, in the last match, is the score. By default the reply is JSON with ``score_key``."""
    score_key: str = "score"
    scale: float = Field(1.0, gt=0)
    """The score is divided by this."""
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(512, gt=0)

    @field_validator("base_url")
    @classmethod
    def _http(cls, url: str) -> str:
        return _http_url("base_url", url)

    @field_validator("score_regex")
    @classmethod
    def _has_a_group(cls, pattern: str | None) -> str | None:
        return pattern if pattern is None else _one_group(pattern)

    @field_validator("template")
    @classmethod
    def _shows_the_answer(cls, template: str) -> str:
        if "{answer}" not in template:
            raise problem("template lacks {answer}; put it where the judge shall read the answer")
        return template

    @property
    def needs_answer(self) -> bool:
        return "{reference}" in self.template


class Function(RewardSettings):
    """A user's function ``(prompt, answer, reference) -> float``, by its dotted path."""


class Registered(RewardSettings):
    """A reward that a file in ``code_paths`` registers; it checks its own keys."""

    model_config = ConfigDict(frozen=True, extra="allow")


REWARDS: dict[str, type[RewardSettings]] = {
    "increasing_numbers": Plain,
    "output_length": OutputLength,
    "short_response_reward": ShortResponse,
    "bad_generation_end": BadGenerationEnd,
    "gsm8k_verifier": Verifier,
    "gsm8k_format_verifier": Verifier,
    "math_verifier": Verifier,
    "math_format_verifier": Verifier,
    "mcqa_verifier": Verifier,
    "reward_model": RewardModel,
    "hf_pairwise": ComposerRewardModel,
    "mpt_pairwise": ComposerRewardModel,
    "inference_reward_model": InferenceRewardModel,
    "llm_judge": LLMJudge,
}
"""By ``reward_type``: this project's rewards and their keys."""


def _http_url(field: str, url: str) -> str:
    if not re.match(r"https?://[^/@\s]+(/|$)", url):
        # It may hold a credential, so it is not shown.
        raise problem(f"{field} is no http address without user and password; give http://HOST:PORT")
    return url.rstrip("/")


def _one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise problem(f"score_regex={pattern!r} is no regular expression ({error})") from None
    if groups < 1:
        raise problem(f"score_regex={pattern!r} has no group; put the number in parentheses")
    return pattern
