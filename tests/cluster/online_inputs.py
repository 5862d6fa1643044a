"""A tiny policy and its prompts as finished stages in a storage: ``python online_inputs.py FOLDER STORAGE``.

Run in the training environment; prints the places of the two manifests.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import online_toy
import tiny_training as tiny
from tiny_inputs import stored


def write_policy(folder: Path) -> Path:
    """The tiny model with heads of 32 dimensions: vLLM on CPU takes none that are smaller."""
    from transformers import AutoConfig, LlamaForCausalLM

    tiny.write_model(folder)
    config = AutoConfig.from_pretrained(folder, num_attention_heads=2, head_dim=32)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def main() -> None:
    folder, storage = Path(sys.argv[1]), sys.argv[2]
    print(stored(tiny.model_manifest(write_policy(folder / "model")), storage))
    print(stored(online_toy.prompts(folder / "prompts"), storage))


if __name__ == "__main__":
    main()
