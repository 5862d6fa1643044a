"""From messages to texts: boundaries, ends of turns, templates."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

pytest.importorskip("torch")

from compose_rl.config.data import TokenizeOptions
from compose_rl.data.chat import ChatRenderer, PlainRenderer, RowError, renderer
from compose_rl.data.encoding import load_tokenizer
from compose_rl.errors import UserError

DAY = date(2024, 7, 26)
ASK = [{"role": "user", "content": "the cat"}]


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer: Path):
    return load_tokenizer(small_tokenizer)


def test_an_answer_ends_with_the_end_of_turn_token_once_and_nothing_behind_it(tokenizer) -> None:
    chat = ChatRenderer(tokenizer, None, DAY)
    prompt = chat.prompt(ASK)
    assert prompt == "<|start|>user\nthe cat<|end|>\n<|start|>assistant\n"
    assert chat.answer(ASK, prompt, "sat") == "sat<|end|>"
    assert chat.answer(ASK, prompt, "sat<|end|>") == "sat<|end|>"
    assert chat.answer(ASK, prompt, "sat \n") == "sat \n<|end|>"


def test_a_template_without_an_end_of_turn_token_gets_the_end_of_sequence(tokenizer) -> None:
    template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat = ChatRenderer(tokenizer, template, DAY)
    assert chat.answer(ASK, chat.prompt(ASK), "sat") == "sat<|eos|>"


def test_pieces_of_a_conversation_are_its_text_with_the_answers_marked(tokenizer) -> None:
    talk = [
        {"role": "system", "content": "the"},
        *ASK,
        {"role": "assistant", "content": "sat"},
        {"role": "user", "content": "on"},
        {"role": "assistant", "content": "mat"},
    ]
    pieces = ChatRenderer(tokenizer, None, DAY).conversation(talk)
    assert [(piece.text, piece.answer) for piece in pieces] == [
        ("<|start|>system\nthe<|end|>\n<|start|>user\nthe cat<|end|>\n<|start|>assistant\n", False),
        ("sat<|end|>", True),
        ("\n<|start|>user\non<|end|>\n<|start|>assistant\n", False),
        ("mat<|end|>", True),
    ]
    whole = tokenizer.apply_chat_template(talk, tokenize=False)
    assert "".join(piece.text for piece in pieces) + "\n" == whole


def test_a_conversation_without_an_answer_at_its_end_is_a_prompt(tokenizer) -> None:
    chat = ChatRenderer(tokenizer, None, DAY)
    assert [piece.text for piece in chat.conversation(ASK)] == [chat.prompt(ASK)]


def test_a_template_that_asks_for_the_date_is_told_the_configured_one(tokenizer) -> None:
    template = "{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m.content }}<|end|>{% endfor %}"
    assert ChatRenderer(tokenizer, template, DAY).prompt(ASK) == "26 Jul 2024 the cat<|end|>"


def test_a_template_that_opens_generation_with_what_answers_lack_is_refused(tokenizer) -> None:
    template = (
        "{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|><think>{% endif %}"
    )
    chat = ChatRenderer(tokenizer, template, DAY)
    with pytest.raises(UserError, match="renders a prompt differently"):
        chat.answer(ASK, chat.prompt(ASK), "sat")


def test_a_template_that_changes_earlier_turns_is_refused(tokenizer) -> None:
    template = (
        "{{ messages | length }}{% for m in messages %}<|start|>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>{% endif %}"
    )
    talk = [*ASK, {"role": "assistant", "content": "sat"}, *ASK, {"role": "assistant", "content": "mat"}]
    with pytest.raises(UserError, match="changes earlier turns"):
        ChatRenderer(tokenizer, template, DAY).conversation(talk)


def test_a_template_without_answers_is_refused(tokenizer) -> None:
    with pytest.raises(UserError, match="leaves out the assistant's messages"):
        ChatRenderer(tokenizer, "{{ messages[0].content }}", DAY)


@pytest.mark.parametrize("content", ["m.content | trim", "m.content.split('</think>')[-1]", "m.content"])
def test_answers_are_what_the_template_makes_of_them(tokenizer, content: str) -> None:
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}\n{{ CONTENT }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
    ).replace("CONTENT", content)
    chat = ChatRenderer(tokenizer, template, DAY)
    prompt = chat.prompt(ASK)
    for answer in ("sat", " sat\n", "<think>on</think> sat"):
        talk = [*ASK, {"role": "assistant", "content": answer}]
        whole = tokenizer.apply_chat_template(talk, tokenize=False, chat_template=template)
        assert prompt + chat.answer(ASK, prompt, answer) + "\n" == whole


def test_a_template_that_refuses_a_role_drops_the_row(tokenizer) -> None:
    template = "{{ raise_exception('no system') if messages[0].role == 'system' }}{{ messages[-1].content }}"
    chat = ChatRenderer(tokenizer, template, DAY)
    with pytest.raises(RowError, match="no system"):
        chat.prompt([{"role": "system", "content": "the"}, *ASK])


def test_without_a_chat_template_the_user_is_told_what_to_set(small_tokenizer: Path) -> None:
    bare = load_tokenizer(small_tokenizer)
    bare.chat_template = None
    with pytest.raises(
        UserError, match=r"has no chat template; set chat_template to one, or template: plain"
    ):
        renderer(bare, TokenizeOptions(dataset_type="preference"))


def test_plain_text_has_the_prompt_in_its_template_and_the_end_of_sequence(small_tokenizer: Path) -> None:
    bare = load_tokenizer(small_tokenizer)
    bare.chat_template = None
    plain = renderer(
        bare, TokenizeOptions(dataset_type="preference", template="plain", prompt_template="Q: {prompt}\nA:")
    )
    assert isinstance(plain, PlainRenderer)
    prompt = plain.prompt(ASK)
    assert prompt == "Q: the cat\nA:"
    assert plain.answer(ASK, prompt, " sat") == " sat<|eos|>"
    with pytest.raises(RowError, match="several answers"):
        plain.conversation([*ASK, {"role": "assistant", "content": "a"}] * 2)


def test_a_tokenizer_without_an_end_of_sequence_is_refused_where_one_is_needed(small_tokenizer: Path) -> None:
    bare = load_tokenizer(small_tokenizer)
    bare.eos_token = None
    with pytest.raises(UserError, match="no eos_token"):
        PlainRenderer(bare, "{prompt}")
