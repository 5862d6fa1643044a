"""Configuration of tokenizing and of the dataloaders."""

from __future__ import annotations

import hashlib
from datetime import date
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from compose_rl.config.schema import Config, neutral

__all__ = [
    "DATASET_TYPES",
    "DatasetType",
    "LoaderConfig",
    "LoaderDataset",
    "PromptDataset",
    "PromptLoaderConfig",
    "TokenizeConfig",
    "TokenizeOptions",
]

_XXHASHES = ("xxh32", "xxh64", "xxh128")

DatasetType = Literal[
    "preference",
    "unpaired_preference",
    "instruction",
    "messages",
    "single_prompt",
    "verifiable_answers",
    "classifier",
]

DATASET_TYPES: dict[str, tuple[str, ...]] = {
    "preference": ("prompt", "chosen", "rejected", "chosen_reward", "rejected_reward", "system"),
    "unpaired_preference": ("prompt", "completion", "label", "system"),
    "instruction": ("prompt", "response", "messages", "system"),
    "messages": ("messages", "metadata"),
    "single_prompt": ("prompt", "system"),
    "verifiable_answers": ("prompt", "answer", "system"),
    "classifier": ("text", "label"),
}
"""The columns that rows of a dataset type may have; ``columns`` maps them to the source's."""


class TokenizeOptions(Config):
    """What becomes of a row: everything that tokenizing needs besides rows and a tokenizer."""

    dataset_type: DatasetType
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name of a column to the source's, for instance ``{prompt: question}``."""
    max_length: int = Field(2048, gt=1)
    """Tokens of a sample: of the prompt with its longer answer."""
    truncation: Literal["drop", "truncate_prompt"] = "drop"
    """A sample over ``max_length`` is dropped, or loses the start of its prompt. An answer is never cut."""
    chat_template: str | None = None
    """A Jinja template in place of the tokenizer's own."""
    template: Literal["chat", "plain"] = "chat"
    """``plain``: ``prompt_template`` with the prompt filled in, the answer, the end-of-sequence token."""
    prompt_template: str = "{prompt}"
    """Used with ``template: plain``."""
    template_date: date = date(2024, 7, 26)
    """What a chat template that asks for today's date is told, so that the same rows give the same tokens."""
    loss_on: Literal["answers", "all"] = "answers"
    """Tokens with loss in ``instruction`` data."""

    @model_validator(mode="after")
    def _consistent(self) -> TokenizeOptions:
        known = DATASET_TYPES[self.dataset_type]
        for name in self.columns:
            if name not in known:
                raise ValueError(
                    f"columns: '{name}' is no column of {self.dataset_type} data; it has: {', '.join(known)}"
                )
        if self.prompt_template != "{prompt}" and self.template != "plain":
            raise ValueError("prompt_template is used only with template: plain; set that or leave it out")
        if "{prompt}" not in self.prompt_template:
            raise ValueError(f"prompt_template {self.prompt_template!r} lacks the place '{{prompt}}'")
        return self


class TokenizeConfig(TokenizeOptions):
    """Configuration of the ``tokenize`` stage."""

    validation_fraction: float = Field(0.05, ge=0.0, lt=1.0)
    """Share of prompts (by hash, so a prompt is never on both sides) held out; not used where the stage is
    given a ``validation`` source."""
    validation_seed: int = 17
    limit: int | None = Field(None, gt=0)
    """Read at most this many rows of the source."""
    max_dropped_fraction: float = Field(0.1, ge=0.0, le=1.0)
    """The stage refuses when a larger share of the rows had to be dropped."""
    compression: str | None = Field(None, pattern=r"^(br|bz2|gz|snappy|zstd)(:\d+)?$")
    """Of the shards: for instance ``zstd``, or ``zstd:7`` with a level."""
    hashes: tuple[str, ...] = ()
    """Of the shards: for instance ``sha1``, ``xxh64``."""
    shard_bytes: int = Field(1 << 26, gt=0, lt=1 << 32)

    @field_validator("hashes")
    @classmethod
    def _known_hashes(cls, hashes: tuple[str, ...]) -> tuple[str, ...]:
        for name in hashes:
            if name not in hashlib.algorithms_guaranteed and name not in _XXHASHES:
                known = ", ".join(["sha1", "sha256", *_XXHASHES])
                raise ValueError(f"'{name}' is no hash that shards can have; for instance: {known}")
        return hashes

    workers: int | None = neutral(
        None, "Processes; as many as there are cores by default. Same bytes for any number."
    )


class LoaderDataset(Config):
    """The ``dataset`` part of a dataloader: LLM Foundry's keys, and those of ``StreamingDataset``."""

    local: str | None = None
    remote: str | None = None
    checksums: dict[str, str] | None = None
    """SHA-256 of each file in ``remote`` by its path: what is downloaded is compared with it."""
    split: str | None = None
    streams: dict[str, dict[str, Any]] | None = None
    max_seq_len: int = Field(gt=1)
    """A longer sample is refused, not cut."""
    shuffle: bool = False
    shuffle_seed: int = Field(9176, ge=0)
    shuffle_algo: str = "py1e"
    shuffle_block_size: int | None = None
    num_canonical_nodes: int | None = 1
    """1 gives the same order on any number of nodes."""
    partition_algo: str = "relaxed"
    sampling_method: str = "balanced"
    sampling_granularity: int = 1
    batching_method: str = "random"
    epoch_size: int | str | None = None
    predownload: int | None = None
    cache_limit: int | str | None = None
    download_retry: int = 2
    download_timeout: float = 60
    validate_hash: str | None = None
    keep_zip: bool = False

    @model_validator(mode="after")
    def _located(self) -> LoaderDataset:
        if not (self.local or self.remote or self.streams):
            raise ValueError("set 'local' (a folder of shards), 'remote' or 'streams'")
        return self

    def streaming(self) -> dict[str, Any]:
        """The keyword arguments of ``StreamingDataset``, without ``streams``."""
        return self.model_dump(exclude={"max_seq_len", "streams", "checksums"})


class LoaderConfig(Config):
    """A dataloader of the LLM Foundry registry, without its ``name``."""

    dataset: LoaderDataset
    drop_last: bool = False
    num_workers: int = Field(0, ge=0)
    pin_memory: bool = True
    prefetch_factor: int = 2
    persistent_workers: bool = True
    timeout: float = 0
    token_budget: int | None = Field(None, gt=0)
    """Tokens of a microbatch; without it microbatches are ``device_train_microbatch_size`` rows."""
    reference: str | None = None
    """Folder (or file) of the ``reference_logprobs`` stage."""
    kl_pairs: bool = False
    """Give each sample the answer of the next one, for KTO's KL term."""
    loss_on: Literal["answers", "all"] = "answers"
    """Tokens with loss in ``messages`` data, which is tokenized on the fly."""


class PromptDataset(LoaderDataset):
    """The ``dataset`` part of the dataloaders ``prompt`` and ``messages``."""

    max_gen_len: int = Field(gt=0)
    """Tokens of an answer: a prompt has at most ``max_seq_len`` less these."""
    shuffle: bool = True
    """Each pass over the prompts has an order of its own; false: that of the data."""

    def streaming(self) -> dict[str, Any]:
        return {key: value for key, value in super().streaming().items() if key != "max_gen_len"}


class PromptLoaderConfig(Config):
    """The dataloaders ``prompt`` and ``messages``, without ``name``.

    Prompts are read where they are needed, so keys that say how a dataset is iterated are taken, for
    Compose RL's documents, and mean nothing.
    """

    dataset: PromptDataset
    drop_last: bool = True
    num_workers: int = Field(0, ge=0)
    pin_memory: bool = True
    prefetch_factor: int = 2
    persistent_workers: bool = True
    timeout: float = 0
    token_budget: int | None = Field(None, gt=0)
    """Tokens of a microbatch; without it microbatches are ``device_train_microbatch_size`` rows."""
    drop_long: bool = False
    """Leave out prompts that are too long, and count them, instead of refusing them."""
    curriculum: str | None = None
    """A column with numbers: the first pass goes from the smallest to the greatest."""
    longest: int | None = Field(None, gt=0)
    """Tokens of the longest prompt, or more, where that is known and none is empty: of data that ``tokenize``
    made. Prompts are then not read before they are asked, if all of them fit and there is no curriculum."""
    minibatches: int | None = Field(None, gt=0)
    """``variables.num_batches_per_update``: what Composer takes for the length of an epoch, where
    ``max_duration`` or the scheduler counts epochs."""
