"""What the PPO benchmark has beside prompts: policy, critic and a reward model that likes some tokens."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from benchmarks.dpo_data import MODEL, VOCAB

__all__ = ["SIZES"]

SIZES = {
    "small": MODEL,
    "tiny": {**MODEL, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2},
}
"""``small`` is the model of the other benchmarks, ``tiny`` one that learns in a few minutes."""

_CONSTANT, _SCALE = 8.0, 10.0


def token_points(prompts: list[list[int]], vocabulary: int) -> torch.Tensor:
    """float32 [V]: what a token is worth in an answer: 1 where its id is even, else -1; 0 in a prompt.

    A token that occurs in any prompt is worth nothing in answers either, so that a prompt has no part in the
    reward of its answers.
    """
    points = 1.0 - 2.0 * (torch.arange(vocabulary) % 2)
    points[list(set(itertools.chain.from_iterable(prompts)))] = 0.0
    return points


@torch.no_grad()
def reward_model(config: LlamaConfig, points: torch.Tensor) -> LlamaForSequenceClassification:
    """A Llama whose score is ``_SCALE`` times the mean of ``points`` [V] over all tokens so far.

    Coordinate 0 of a token's embedding is its points, the first layer's attention looks at all tokens alike
    and writes their mean to coordinate 1, which the head reads. All other layers add nothing, at full cost.
    The constant in coordinate 2 keeps the norms' denominators nearly the same for all tokens.
    """
    model = LlamaForSequenceClassification(config)
    body = model.model
    body.embed_tokens.weight.zero_()
    body.embed_tokens.weight[:, 0] = points
    body.embed_tokens.weight[:, 2] = _CONSTANT
    for layer in body.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    attention = body.layers[0].self_attn
    for projection in attention.q_proj, attention.k_proj, attention.v_proj:
        projection.weight.zero_()
    denominator = _CONSTANT / config.hidden_size**0.5
    attention.v_proj.weight[0, 0] = denominator
    attention.o_proj.weight[1, 0] = 1.0
    model.score.weight.zero_()
    model.score.weight[0, 1] = _SCALE * denominator
    return model


def critic(policy: LlamaForCausalLM) -> LlamaForSequenceClassification:
    """The policy's body with a fresh head."""
    model = LlamaForSequenceClassification(policy.config)
    model.model.load_state_dict(policy.model.state_dict())
    return model


def main() -> None:
    """Write ``model``, ``critic`` and ``reward`` to a folder that has ``tokenizer`` and ``pairs.jsonl``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=list(SIZES), required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.folder / "tokenizer")
    with (args.folder / "pairs.jsonl").open() as lines:
        prompts = [json.loads(line)["prompt_ids"] for line in lines]
    config = LlamaConfig(
        vocab_size=max(VOCAB, len(tokenizer)) if args.size == "small" else len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
        **SIZES[args.size],
    )
    torch.manual_seed(args.seed)
    policy = LlamaForCausalLM(config)
    models = {
        "model": policy,
        "critic": critic(policy),
        "reward": reward_model(config, token_points(prompts, config.vocab_size)),
    }
    for name, model in models.items():
        model.save_pretrained(args.folder / name)
        tokenizer.save_pretrained(args.folder / name)


if __name__ == "__main__":
    main()
