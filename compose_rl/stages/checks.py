"""Checks that stages share, on configuration and manifests alone."""

from __future__ import annotations

from collections.abc import Mapping

from compose_rl.config.reward_model import model_class
from compose_rl.config.training import TrainingConfig
from compose_rl.errors import UserError
from compose_rl.store.manifest import Manifest

__all__ = ["check_data", "check_reward_model", "check_types", "check_vocabulary", "reward_model_class"]


def check_data(
    stage: str, config: TrainingConfig, inputs: Mapping[str, Manifest], dataset_types: tuple[str, ...]
) -> None:
    """The data is of a type that the stage trains on and fits ``max_seq_len``; the model knows its tokens.

    Raises:
        UserError: names what does not fit, and the remedy.
    """
    check_types(stage, inputs, dataset_types)
    check_vocabulary(stage, inputs)
    data = inputs["data"].info
    longest = data.get("longest")
    if config.max_seq_len is not None and longest is not None and longest > config.max_seq_len:
        raise UserError(
            f"{stage}: max_seq_len={config.max_seq_len} but the longest sample has {longest} tokens;"
            " raise it, or tokenize with a smaller max_length"
        )
    samples = int(data.get("samples", {}).get("train", 0))
    if samples < config.global_train_batch_size:
        raise UserError(
            f"{stage}: global_train_batch_size={config.global_train_batch_size} but there are only"
            f" {samples} training samples; lower it"
        )


def check_types(stage: str, inputs: Mapping[str, Manifest], dataset_types: tuple[str, ...]) -> None:
    """The input ``data`` is of one of ``dataset_types``.

    Raises:
        UserError: it is not.
    """
    given = inputs["data"].info.get("dataset_type")
    if given not in dataset_types:
        raise UserError(
            f"{stage}: input 'data' holds '{given}' samples ({inputs['data'].uri});"
            f" tokenize with dataset_type {' or '.join(dataset_types)}"
        )


def check_vocabulary(stage: str, inputs: Mapping[str, Manifest]) -> None:
    """The input ``model`` has an embedding for every token of the input ``data``, where both sizes are known.

    Raises:
        UserError: it has not.
    """
    known = inputs["model"].info.get("vocab_size")
    tokens = inputs["data"].info.get("vocab_size")
    if known is not None and tokens is not None and tokens > known:
        raise UserError(
            f"{stage}: the model's vocabulary has {known} tokens and the data's tokenizer {tokens};"
            " tokenize with this model's tokenizer"
        )


def reward_model_class(manifest: Manifest) -> str | None:
    """The class of a reward model that was exported, or pinned as it is; None: it is none."""
    if manifest.stage == "resolve":
        return model_class(manifest.info)
    found = manifest.info.get("model_class")
    return found if found in ("sequence_classification", "reward_value_head") else None


def check_reward_model(stage: str, slot: str, inputs: Mapping[str, Manifest]) -> None:
    """The input ``slot``, where it is given, scores texts, and knows the tokens of the data that it is shown.

    One that was not trained here may have a tokenizer of its own: it reads texts in that.

    Raises:
        UserError: it does not.
    """
    if slot not in inputs:
        return
    given = inputs[slot]
    if reward_model_class(given) is None:
        kind = given.info.get("model_class") or (given.info.get("architectures") or [""])[0]
        raise UserError(
            f"{stage}: input '{slot}' ({given.uri}) is a '{kind}'; give the export of a reward model, or a"
            " model of a class ...ForSequenceClassification"
        )
    if (labels := given.info.get("num_labels", 1)) != 1:
        raise UserError(
            f"{stage}: input '{slot}' ({given.uri}) gives {labels} scores for a text;"
            " give a reward model of one"
        )
    if given.stage == "resolve":
        return
    known = given.info.get("vocab_size")
    for name, tokens in ((n, m.info.get("vocab_size")) for n, m in inputs.items() if m.stage == "tokenize"):
        if known is not None and tokens is not None and tokens > known:
            raise UserError(
                f"{stage}: the vocabulary of input '{slot}' has {known} tokens and the tokenizer of '{name}'"
                f" {tokens}; train it from the model that the policy starts from"
            )
