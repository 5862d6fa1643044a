"""Which token pads the texts of a sequence classifier, which scores the last token that is no padding."""

from __future__ import annotations

import logging

from transformers import PreTrainedTokenizerBase

from compose_rl.errors import UserError

__all__ = ["set_padding_token"]

_log = logging.getLogger(__name__)
_NAMED_FOR_IT = ("pad", "reserved", "unused")
"""What the names of spare tokens say, the best first."""


def set_padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Give ``tokenizer`` a padding token that no text ends in; its id.

    Its own is kept where it does. Else a special token that it has already takes the place (Llama 3.1's
    ``<|finetune_right_pad_id|>``, Llama 3's first reserved token), so that the vocabulary stays as it is.

    Raises:
        UserError: there is no such token.
    """
    own = tokenizer.pad_token
    if own is not None and not _may_end_a_text(own, tokenizer):
        return int(tokenizer.pad_token_id)
    special = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    spare = [token for token in special if not _may_end_a_text(token, tokenizer)]
    if not spare:
        raise UserError(
            f"tokenizer: its pad_token is {own!r}, its end {tokenizer.eos_token!r}, and a sequence classifier"
            " scores the last token that is not padding; give it a pad_token of its own, or set"
            " model.head: value_head"
        )
    tokenizer.pad_token = min(spare, key=lambda token: (_rank(token), special[token]))
    _log.warning("No padding token that is not a text's end: '%s' becomes it.", tokenizer.pad_token)
    return int(tokenizer.pad_token_id)


def _may_end_a_text(token: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether it is the end, or the chat template has it: most end an answer in a token of their own."""
    return token in (tokenizer.eos_token, tokenizer.bos_token) or token in str(tokenizer.chat_template or "")


def _rank(token: str) -> int:
    return next((i for i, word in enumerate(_NAMED_FOR_IT) if word in token.lower()), len(_NAMED_FOR_IT))
