"""Pairs, tokenizer and initial model of the DPO benchmark, written to a folder that both sides read."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["generated_pairs", "prepare"]

VOCAB = 49_152
MODEL = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
"""15.5M parameters, four fifths of them the embedding: as in a small chat model, the output layer
dominates.
"""

_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_WORDS = (
    "the a of to and in that one sum price box apple train hour day each total half twice more left sells"
    " buys walks shares counts then so therefore because first second finally question answer step check"
)


def generated_pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Chat-like pairs: a prompt of 60 to 120 words, two different answers of 60 to 160."""
    rng = random.Random(seed)
    vocabulary = _WORDS.split()

    def text(low: int, high: int) -> str:
        words = (
            rng.choice(vocabulary) if rng.random() < 0.8 else str(rng.randrange(1000)) for _ in range(10**6)
        )
        return " ".join(next(words) for _ in range(rng.randint(low, high))) + "."

    return [
        {"prompt": text(60, 120), "chosen": text(60, 160), "rejected": text(60, 160)} for _ in range(count)
    ]


def _generated_tokenizer(pairs: list[dict[str, str]]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator((text for pair in pairs for text in pair.values()), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=_CHAT_TEMPLATE,
    )


def prepare(folder: Path, *, pairs_file: Path | None, tokenizer_folder: Path | None, count: int) -> None:
    """Write `tokenizer/`, `model/` (random weights, seed 0) and `pairs.jsonl` (`messages` and token ids) to
    `folder`.
    """
    if pairs_file:
        with pairs_file.open() as lines:
            rows = [json.loads(line) for _, line in zip(range(count), lines, strict=False)]
    else:
        rows = generated_pairs(count)
    if len(rows) < count:
        raise SystemExit(f"{pairs_file} has {len(rows)} pairs, {count} are needed: give fewer --steps")
    tokenizer = (
        AutoTokenizer.from_pretrained(tokenizer_folder) if tokenizer_folder else _generated_tokenizer(rows)
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=max(VOCAB, len(tokenizer)),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **MODEL,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    with (folder / "pairs.jsonl").open("w") as out:
        for row in rows:
            out.write(json.dumps(_tokenized(row, tokenizer)) + "\n")


def _tokenized(row: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    def chat(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    def ids(messages: list[dict[str, str]], *, ask: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    messages = {"prompt": chat("user", row["prompt"])}
    prompt_ids = ids(messages["prompt"], ask=True)
    out: dict[str, Any] = {"prompt_ids": prompt_ids}
    for side in ("chosen", "rejected"):
        messages[side] = chat("assistant", row[side])
        whole = ids(messages["prompt"] + messages[side], ask=False)
        if whole[: len(prompt_ids)] != prompt_ids:
            raise SystemExit("the prompt is no prefix of its conversation: use another tokenizer")
        out[f"{side}_ids"] = whole[len(prompt_ids) :]
    return {**messages, **out}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    args = parser.parse_args()
    prepare(args.folder, pairs_file=args.pairs, tokenizer_folder=args.tokenizer, count=args.count)


if __name__ == "__main__":
    main()
