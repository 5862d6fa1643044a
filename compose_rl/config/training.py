"""The document of a training stage: LLM Foundry's YAML, checked before LLM Foundry is imported.

The schema holds the keys of LLM Foundry's ``TrainConfig`` that a stage takes. Its sections (``optimizer``,
``scheduler``, ``algorithms``, ...) stay plain mappings, which LLM Foundry's registries read; ``model`` and
the loaders of this project are checked key by key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import Field, model_validator

from compose_rl.config.data import LoaderConfig, PromptLoaderConfig
from compose_rl.config.document import merge, recipe
from compose_rl.config.foundry_keys import check_section
from compose_rl.config.schema import Config, canonical, neutral, parse
from compose_rl.errors import UserError

__all__ = ["MONITORS", "HFModel", "TrainingConfig", "canonical_training", "code_files"]

MONITORS = frozenset(
    {
        "env_logging",
        "hf_checkpointer",
        "loss_perp_v_len",
        "lr_monitor",
        "memory_monitor",
        "memory_snapshot",
        "oom_observer",
        "optimizer_monitor",
        "run_timeout",
        "runtime_estimator",
        "scheduled_gc",
        "speed_monitor",
        "system_metrics_monitor",
    }
)
"""Callbacks that watch and cannot change the weights, and so are no part of a stage's key."""

LOADER_RESOURCES = frozenset({"persistent_workers", "pin_memory", "prefetch_factor", "timeout"})
"""Loader keys that say how fast samples come, not which. ``num_workers`` is not among them: streaming shares
samples out to workers."""

SET_BY_STAGE = frozenset(
    {
        "autoresume",
        "device_train_batch_size",
        "load_ignore_keys",
        "load_path",
        "load_strict_model_weights",
        "load_weights_only",
        "save_filename",
        "save_folder",
        "save_ignore_keys",
        "save_latest_filename",
        "save_overwrite",
        "save_weights_only",
    }
)
"""Keys of LLM Foundry's that the stage fills in itself."""

LOADERS: dict[str, type[Config]] = {
    "packed_instruction": LoaderConfig,
    "pairwise_preference": LoaderConfig,
    "unpaired_preference": LoaderConfig,
    "finegrained_preference": LoaderConfig,
    "prompt": PromptLoaderConfig,
    "messages": PromptLoaderConfig,
}
"""This project's dataloaders and their keys."""

Section = dict[str, Any]


class HFModel(Config):
    """``model:`` of a Hugging Face causal model, as LLM Foundry's ``hf_causal_lm`` takes it.

    ``pretrained_model_name_or_path`` is missing on purpose: the stage's ``model`` input gives it.
    """

    name: str
    """A name in LLM Foundry's model registry."""
    pretrained: bool = True
    """False: start from random weights of the input's architecture."""
    config_overrides: Section | None = None
    peft_config: Section | None = None
    """LoRA: ``peft_type: LORA, task_type: CAUSAL_LM, r, lora_alpha, target_modules, ...``."""
    attn_implementation: str | None = None
    init_device: str = "cpu"
    trust_remote_code: bool = False
    allow_embedding_resizing: bool = False
    use_train_metrics: bool = True
    additional_train_metrics: list[str] | None = None
    additional_eval_metrics: list[str] | None = None
    should_save_peft_only: bool = False
    """False: a checkpoint holds base and adapter, and stands for itself."""
    master_weights_dtype: str | None = None


class TrainingConfig(Config):
    """A training stage's configuration: the document given, laid over the stage's recipe."""

    recipe: ClassVar[str]
    """Name of the file in ``compose_rl/recipes`` without its suffix."""

    model: HFModel
    tokenizer: Section = Field(default_factory=dict)
    """Only ``kwargs``: the ``model`` input brings the tokenizer."""
    train_loader: Section
    eval_loader: Section | None = None
    optimizer: Section
    scheduler: Section
    algorithms: Section | None = None
    callbacks: Section | None = None
    max_duration: int | str
    """``2ep``, ``300ba``, ``100000tok``; a bare number is epochs."""
    max_seq_len: int | None = Field(default=None, gt=0)
    """Tokens; the data's own limit where it is not given."""
    seed: int = 17
    precision: str
    global_train_batch_size: int = Field(gt=0)
    """Samples a step, over all processes."""
    device_train_microbatch_size: int = Field(gt=0)
    """Samples, at most, that a process holds at once."""
    device_eval_batch_size: int = Field(gt=0)
    accumulate_train_batch_on_tokens: bool = True
    fsdp_config: Section | None = None
    """Given: the model is sharded over the processes (FSDP2). Otherwise each process holds it whole (DDP)."""
    tp_config: Section | None = None
    compile_config: Section | None = None
    code_paths: list[str] | None = None
    """Python files that register things with LLM Foundry; their content is part of the key."""
    train_subset_num_batches: int = -1
    eval_subset_num_batches: int = -1
    variables: Section | None = None

    eval_interval: int | str = neutral(1, "how often to evaluate")
    eval_first: bool = neutral(False, "evaluate before the first step")
    save_interval: int | str = neutral("1ep", "how often training state is kept, to resume from")
    save_num_checkpoints_to_keep: int = neutral(1, "how many of them")
    loggers: Section | None = neutral(None, "LLM Foundry loggers: tensorboard, mlflow, wandb, ...")
    run_name: str | None = neutral(None, "name in the loggers")
    metadata: Section | None = neutral(None, "for the loggers")
    flatten_metadata: bool = neutral(True, "for the loggers")
    log_config: bool = neutral(False, "print the document and log it")
    log_to_console: bool = neutral(False, "Composer's console logger")
    progress_bar: bool = neutral(False, "Composer's progress bar")
    console_log_interval: int | str = neutral("1ba", "of Composer's console logger")
    python_log_level: str | None = neutral("warning", "of LLM Foundry and Composer")
    dist_timeout: float = neutral(600.0, "seconds a collective may take")
    max_split_size_mb: int | None = neutral(None, "of the CUDA allocator")
    expandable_segments: bool = neutral(True, "of the CUDA allocator")
    cuda_load_lazy: bool = neutral(False, "CUDA_MODULE_LOADING=LAZY")

    @model_validator(mode="before")
    @classmethod
    def _over_recipe(cls, document: Any) -> Any:
        if not isinstance(document, Mapping):
            return document
        given = cast(Mapping[str, Any], document)
        for key in given:
            if key in SET_BY_STAGE:
                raise ValueError(f"'{key}' is set by the stage itself; take it out")
        return merge(recipe(cls.recipe), given)

    @model_validator(mode="after")
    def _sections_parse(self) -> TrainingConfig:
        for where, loader in (("train_loader", self.train_loader), ("eval_loader", self.eval_loader)):
            if loader and loader.get("name") in LOADERS:
                _check_loader(where, loader)
        check_section("optimizer", self.optimizer)
        check_section("scheduler", self.scheduler)
        return self

    def document(self) -> dict[str, Any]:
        """The document for LLM Foundry; what is None is left to LLM Foundry's defaults."""
        return self.model_dump(mode="json", exclude_none=True)


def _check_loader(where: str, loader: Section) -> None:
    """Refuse unknown keys; the place of the data and its lengths are filled in by the stage."""
    schema = LOADERS[loader["name"]]
    filled: Section = {"local": "set by the stage", "max_seq_len": 2}
    if schema is PromptLoaderConfig:
        filled["max_gen_len"] = 1
    keys = {key: value for key, value in loader.items() if key != "name"}
    parse(schema, keys | {"dataset": filled | loader.get("dataset", {})}, where)


def canonical_training(config: TrainingConfig) -> dict[str, Any]:
    """The part of the document that can change the weights or what is measured of them."""
    result = canonical(config)
    result.pop("code_paths", None)
    callbacks = cast(Section, result["callbacks"] or {})
    result["callbacks"] = {name: value for name, value in callbacks.items() if name not in MONITORS}
    for loader in ("train_loader", "eval_loader"):
        section = cast(Section, result[loader] or {})
        result[loader] = {key: value for key, value in section.items() if key not in LOADER_RESOURCES}
    return result


def code_files(config: TrainingConfig) -> dict[str, str]:
    """SHA-256 of each of the document's ``code_paths``, by file name.

    Raises:
        UserError: a file cannot be read.
    """
    digests: dict[str, str] = {}
    for path in config.code_paths or []:
        try:
            digests[Path(path).name] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(
                f"code_paths={path!r}: {error.strerror or error}; give a readable Python file"
            ) from None
    return digests
