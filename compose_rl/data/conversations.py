"""From rows of raw data, in the shapes in which they come, to prompts and answers."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from compose_rl.config.data import DATASET_TYPES, TokenizeOptions
from compose_rl.data.chat import Messages, RowError
from compose_rl.data.sources import Row
from compose_rl.errors import UserError

__all__ = ["Draft", "check_columns", "draft", "has_rewards"]

_ROLES = ("system", "user", "assistant", "tool")
_REWARDS = ("chosen_reward", "rejected_reward")
_NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "preference": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "unpaired_preference": (("prompt", "completion", "label"), ("completion", "label")),
    "instruction": (("messages",), ("prompt", "response")),
    "messages": (("messages",),),
    "single_prompt": (("prompt",),),
    "verifiable_answers": (("prompt", "answer"),),
    "classifier": (("text", "label"),),
}
"""Columns that a row must have, in each of the forms that a dataset type knows."""


@dataclass(frozen=True)
class Draft:
    """A row, understood but not yet tokenized."""

    prompt: Messages
    answers: tuple[str, ...] = ()
    conversation: Messages | None = None
    """In place of prompt and answers, for data made of whole conversations."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Shard columns that are not tokens."""

    def prompt_key(self) -> str:
        """What two rows with the same prompt have in common."""
        return json.dumps(self.prompt, sort_keys=True)


def check_columns(options: TokenizeOptions, row: Row, where: str) -> None:
    """Check that the source has the columns that the dataset type needs.

    Args:
        row: its first row.

    Raises:
        UserError: names the missing column, those there are, and the nearest.
    """
    names = list(row)
    for ours, theirs in options.columns.items():
        if theirs not in names:
            raise UserError(_missing(theirs, names, where, f"columns maps '{ours}' to it"))
    named = {name: options.columns.get(name, name) for name in DATASET_TYPES[options.dataset_type]}
    forms = _NEEDED[options.dataset_type]
    if any(_has_form(form, named, row) for form in forms):
        given = [name for name in _REWARDS if named.get(name) in names]
        if len(given) == 1:
            other = next(name for name in _REWARDS if name not in given)
            raise UserError(
                f"{where}: has '{named[given[0]]}' but no '{named[other]}'; rewards come in pairs"
            )
        return
    closest = max(forms, key=lambda form: (any(named[name] in names for name in form), len(form)))
    missing = next(named[name] for name in closest if named[name] not in names)
    raise UserError(_missing(missing, names, where, f"{options.dataset_type} data needs it"))


def _has_form(form: tuple[str, ...], named: Mapping[str, str], row: Row) -> bool:
    """Whether the row has these columns; answers without a prompt beside them must be lists of messages."""
    if not all(named[name] in row for name in form):
        return False
    answers = [name for name in form if name in ("chosen", "rejected", "completion")]
    return "prompt" in form or all(isinstance(row[named[name]], list) for name in answers)


def has_rewards(options: TokenizeOptions, names: Collection[str]) -> bool:
    """Whether the source has rewards of both answers."""
    if options.dataset_type != "preference":
        return False
    return all(options.columns.get(name, name) in names for name in _REWARDS)


def draft(row: Row, options: TokenizeOptions, rewards: bool) -> Draft:
    """The row's prompt and answers.

    Raises:
        RowError: the row has to be dropped; the message is the reason.
    """
    named = {ours: row.get(options.columns.get(ours, ours)) for ours in DATASET_TYPES[options.dataset_type]}
    return _DRAFTS[options.dataset_type](named, rewards)


def _preference(row: Mapping[str, Any], rewards: bool) -> Draft:
    chosen_prompt, chosen = _side(row, "chosen")
    rejected_prompt, rejected = _side(row, "rejected")
    if chosen_prompt != rejected_prompt:
        raise RowError("prompts of the two answers differ")
    if chosen.strip() == rejected.strip():
        raise RowError("identical pair")
    columns = {name: _number(row[name], name) for name in _REWARDS} if rewards else {}
    return Draft(chosen_prompt, (chosen, rejected), columns=columns)


def _unpaired(row: Mapping[str, Any], rewards: bool) -> Draft:
    prompt, completion = _side(row, "completion")
    return Draft(prompt, (completion,), columns={"label": int(_boolean(row["label"]))})


def _instruction(row: Mapping[str, Any], rewards: bool) -> Draft:
    if row["messages"] is not None:
        messages = _with_system(_messages(row["messages"], "messages"), row)
        answers = [message for message in messages if message["role"] == "assistant"]
        if not answers:
            raise RowError("no assistant message")
        if messages[-1]["role"] != "assistant":
            raise RowError("the last message is no answer")
        if any(not message["content"].strip() for message in answers):
            raise RowError("empty answer")
        return Draft(_opening(messages), conversation=messages)
    prompt = _prompt(row)
    answer = _text(row["response"], "response", "empty answer")
    return Draft(prompt, conversation=[*prompt, {"role": "assistant", "content": answer}])


def _conversation(row: Mapping[str, Any], rewards: bool) -> Draft:
    messages = _messages(row["messages"], "messages")
    metadata = row["metadata"]
    columns = {"messages": messages, "metadata": {} if metadata is None else metadata}
    return Draft(_opening(messages), conversation=messages, columns=columns)


def _single_prompt(row: Mapping[str, Any], rewards: bool) -> Draft:
    return Draft(_prompt(row))


def _verifiable(row: Mapping[str, Any], rewards: bool) -> Draft:
    answer = row["answer"]
    text = str(answer) if isinstance(answer, int | float) and not isinstance(answer, bool) else answer
    return Draft(_prompt(row), columns={"verified_answer": _text(text, "answer", "empty answer").strip()})


def _classifier(row: Mapping[str, Any], rewards: bool) -> Draft:
    label = row["label"]
    labels = label if isinstance(label, list) else [label]
    numbers = [int(_number(value, "label")) for value in labels]
    text = row["text"]
    if isinstance(text, list):
        messages = _messages(text, "text")
        return Draft(messages, conversation=messages, columns={"label": numbers})
    return Draft([], (_text(text, "text", "empty text"),), columns={"label": numbers})


_DRAFTS = {
    "preference": _preference,
    "unpaired_preference": _unpaired,
    "instruction": _instruction,
    "messages": _conversation,
    "single_prompt": _single_prompt,
    "verifiable_answers": _verifiable,
    "classifier": _classifier,
}


def _side(row: Mapping[str, Any], name: str) -> tuple[Messages, str]:
    """Prompt and text of an answer that is a text, or a list of messages with or without the prompt."""
    value = row[name]
    if not isinstance(value, list):
        return _prompt(row), _text(value, name, "empty answer")
    messages = _messages(value, name)
    if messages[-1]["role"] != "assistant":
        raise RowError(f"the last message of '{name}' is no answer")
    context, answer = messages[:-1], _text(messages[-1]["content"], name, "empty answer")
    if not context:
        return _prompt(row), answer
    return _with_system(context, row), answer


def _prompt(row: Mapping[str, Any]) -> Messages:
    value = row["prompt"]
    if isinstance(value, list):
        messages = _messages(value, "prompt")
        if messages[-1]["role"] == "assistant":
            raise RowError("the prompt ends with an answer")
    else:
        messages = [{"role": "user", "content": _text(value, "prompt", "empty prompt")}]
    return _with_system(messages, row)


def _with_system(messages: Messages, row: Mapping[str, Any]) -> Messages:
    system = row.get("system")
    if not system or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": _text(system, "system", "empty system message")}, *messages]


def _opening(messages: Messages) -> Messages:
    """The messages before the first answer."""
    size = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), len(messages))
    return messages[:size]


def _messages(value: Any, name: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise RowError(f"'{name}' is no list of messages")
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise RowError(f"'{name}' has a message without a role of {', '.join(_ROLES)}")
        if not isinstance(message.get("content"), str):
            raise RowError(f"'{name}' has a message whose content is no text")
    return value


def _text(value: Any, name: str, empty: str) -> str:
    if value is None:
        raise RowError(f"no '{name}'")
    if not isinstance(value, str):
        raise RowError(f"'{name}' is neither text nor messages")
    if not value.strip():
        raise RowError(empty)
    return value


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RowError(f"'{name}' is no number") from None
    if not math.isfinite(number):
        raise RowError(f"'{name}' is not finite")
    return number


_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _boolean(value: Any) -> bool:
    truth = _TRUTH.get(str(value).strip().lower())
    if truth is None:
        raise RowError("'label' is neither true nor false")
    return truth


def _missing(name: str, names: Collection[str], where: str, why: str) -> str:
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return (
        f"{where}: no column '{name}' ({why}); {hint}it has: {', '.join(sorted(names))};"
        " map columns with columns: {ours: theirs}"
    )
