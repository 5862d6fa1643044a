"""From messages to the texts that are tokenized: through a chat template, or plainly.

A conversation becomes pieces with exact boundaries: what the model is given (prompt, with the template's
opening of an answer) and what it has to say (the answer with the end-of-turn token, once, and nothing
behind it).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

from compose_rl.config.data import TokenizeOptions
from compose_rl.data.encoding import starting_text
from compose_rl.errors import UserError

__all__ = ["ChatRenderer", "Messages", "Piece", "PlainRenderer", "Renderer", "RowError", "renderer"]

Messages = list[dict[str, Any]]

_TELLING = (
    "a",
    " a ",
    "\n\na\n",
    "<think>\nb\n</think>\n\na",
    "b</think>a",
    "{{ a }} {% a %}",
    '{"a": [1]}',
    "a " * 5000,
)


class RowError(Exception):
    """A row that has to be dropped; the message is the reason, one of few."""


@dataclass(frozen=True)
class Piece:
    """A part of a conversation's text."""

    text: str
    answer: bool
    """Said by the assistant, with the end-of-turn token."""


class Renderer(Protocol):
    """How messages become text."""

    def prompt(self, messages: Messages) -> str:
        """The text that the model is given."""
        ...

    def answer(self, messages: Messages, prompt: str, answer: str) -> str:
        """What follows ``prompt`` (the text of ``messages``): the answer and the end-of-turn token."""
        ...

    def conversation(self, messages: Messages) -> list[Piece]:
        """All of a conversation whose last message is an answer (or that is a prompt alone)."""
        ...


def renderer(tokenizer: Any, options: TokenizeOptions) -> Renderer:
    """The renderer that the options ask for.

    Raises:
        UserError: the tokenizer has no chat template (or no end-of-sequence token) and one is needed.
    """
    if options.template == "plain":
        return PlainRenderer(tokenizer, options.prompt_template)
    return ChatRenderer(tokenizer, options.chat_template, options.template_date)


class ChatRenderer:
    """Through a chat template.

    Args:
        template: in place of the tokenizer's own.
        today: the date a template is told that asks for it .
    """

    def __init__(self, tokenizer: Any, template: str | None, today: date) -> None:
        if template is None and not tokenizer.chat_template:
            raise UserError(
                f"tokenizer '{tokenizer.name_or_path}' has no chat template;"
                " set chat_template to one, or template: plain with a prompt_template"
            )
        self._tokenizer = tokenizer
        self._template = template
        self._today = today
        self._tail, self.end, self._rest = self._end_of_turn()
        self._verbatim = self._keeps_answers()

    def prompt(self, messages: Messages) -> str:
        return self._render(messages, generation=True)

    def answer(self, messages: Messages, prompt: str, answer: str) -> str:
        if self._verbatim:
            return _once(answer, self.end)
        whole = self._render([*messages, {"role": "assistant", "content": answer}])
        if not whole.startswith(prompt):
            raise UserError(
                f"tokenizer '{self._tokenizer.name_or_path}': its chat template renders a prompt differently"
                " from the beginning of the conversation; set chat_template to one that does not"
            )
        return self._ended(whole[len(prompt) :])

    def conversation(self, messages: Messages) -> list[Piece]:
        pieces: list[Piece] = []
        done = 0
        whole = self._render(messages, generation=messages[-1]["role"] != "assistant")
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:number], generation=True)
            upto = self._render(messages[: number + 1])
            if not (whole.startswith(upto) and upto.startswith(prompt)):
                raise UserError(
                    f"tokenizer '{self._tokenizer.name_or_path}': its chat template changes earlier"
                    " turns once the conversation goes on; set chat_template to one that does not"
                )
            answer = self._ended(upto[len(prompt) :])
            pieces += [Piece(whole[done : len(prompt)], False), Piece(answer, True)]
            done = len(upto) - (len(self._rest) if upto.endswith(self._tail) else 0)
        if messages[-1]["role"] != "assistant":
            pieces.append(Piece(whole[done:], False))
        return pieces

    def _render(self, messages: Messages, *, generation: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            return self._tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=generation,
                chat_template=self._template,
                strftime_now=self._today.strftime,
            )
        except TemplateError as error:
            raise RowError(f"chat template refuses the messages ({' '.join(str(error).split())})") from None

    def _end_of_turn(self) -> tuple[str, str, str]:
        """What the template puts behind an answer; that up to the end-of-turn token; what is left of it."""
        question = [{"role": "user", "content": "question"}]
        whole = self._render([*question, {"role": "assistant", "content": "answer"}])
        _, found, tail = whole.rpartition("answer")
        if not found:
            raise UserError(
                f"tokenizer '{self._tokenizer.name_or_path}': its chat template leaves out the assistant's"
                " messages; set chat_template to one that does not"
            )
        special = {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        ends = [tail.index(token) + len(token) for token in special if token in tail]
        if ends:
            return tail, tail[: min(ends)], tail[min(ends) :]
        kept = tail.rstrip()
        return tail, kept + _end_of_sequence(self._tokenizer), tail[len(kept) :]

    def _keeps_answers(self) -> bool:
        """Whether answers stand in the text as they are, so that they need not be rendered (a third of the
        work).

        Tried with answers that templates are known to change: those with space around them, with thoughts
        in front, with braces.
        """
        opening = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
        talk = [*opening[1:], {"role": "assistant", "content": "a"}, *opening[1:]]
        for messages in (opening[1:], opening, talk):
            try:
                prompt = self._render(messages, generation=True)
                for answer in _TELLING:
                    whole = self._render([*messages, {"role": "assistant", "content": answer}])
                    if whole != prompt + answer + self._tail:
                        return False
            except RowError:
                return False
        return True

    def _ended(self, text: str) -> str:
        return _once(text.removesuffix(self._tail), self.end)


class PlainRenderer:
    """Without roles: ``prompt_template`` filled with the messages' texts, the answer, the end-of-sequence
    token."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._template = template
        self._end = _end_of_sequence(tokenizer)
        self._start = starting_text(tokenizer)

    def prompt(self, messages: Messages) -> str:
        text = "\n\n".join(message["content"] for message in messages)
        return self._start + self._template.replace("{prompt}", text)

    def answer(self, messages: Messages, prompt: str, answer: str) -> str:
        return _once(answer, self._end)

    def conversation(self, messages: Messages) -> list[Piece]:
        if messages[-1]["role"] != "assistant":
            return [Piece(self.prompt(messages), False)]
        if any(message["role"] == "assistant" for message in messages[:-1]):
            raise RowError("several answers, which only a chat template can tell apart")
        prompt = self.prompt(messages[:-1])
        return [Piece(prompt, False), Piece(self.answer([], prompt, messages[-1]["content"]), True)]


def _once(text: str, end: str) -> str:
    while text.endswith(end):
        text = text.removesuffix(end)
    return text + end


def _end_of_sequence(tokenizer: Any) -> str:
    if not tokenizer.eos_token:
        raise UserError(
            f"tokenizer '{tokenizer.name_or_path}' has no eos_token and its template ends no turn;"
            " set eos_token in its tokenizer_config.json"
        )
    return str(tokenizer.eos_token)
