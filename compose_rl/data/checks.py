"""What can be known about a tokenizer's folder without importing anything heavy."""

from __future__ import annotations

import json
from pathlib import Path

from compose_rl.config.data import TokenizeOptions
from compose_rl.errors import UserError

__all__ = ["check_tokenizer_folder"]

_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")


def check_tokenizer_folder(folder: Path, options: TokenizeOptions) -> None:
    """Check that the folder holds a tokenizer, with a chat template where one is needed.

    Raises:
        UserError: it does not.
    """
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        raise UserError(f"{folder}: no tokenizer_config.json; give a folder that a tokenizer was saved to")
    try:
        document = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{config}: not JSON ({error}); save the tokenizer again") from None
    if options.template != "chat" or options.chat_template is not None:
        return
    if not document.get("chat_template") and not any((folder / name).exists() for name in _TEMPLATE_FILES):
        raise UserError(
            f"{folder}: its tokenizer has no chat template;"
            " set chat_template to one, or template: plain with a prompt_template"
        )
