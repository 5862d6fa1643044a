"""What a rollout server with vLLM costs: start, tokens per second, a push of weights.

    .venvs/train/bin/python benchmarks/rollouts_vllm.py --model FOLDER

Prompts are random tokens, answers run to their full length.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from compose_rl.config.rollouts import RolloutEngine
from compose_rl.rollouts.client import ServerGenerator
from compose_rl.rollouts.supervisor import LocalServers
from compose_rl.rollouts.types import Request, Sampling

PROMPT, ANSWER, SEEDS = 64, 64, 4
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="folder of the Hugging Face model")
    parser.add_argument("--engine", default='{"kind": "vllm", "dtype": "bfloat16"}', help="as JSON")
    parser.add_argument("--answers", type=int, nargs="+", default=[16, 64])
    options = parser.parse_args()
    engine = RolloutEngine.model_validate_json(options.engine)
    model = AutoModelForCausalLM.from_pretrained(options.model)
    with tempfile.TemporaryDirectory() as logs:
        started = time.monotonic()
        servers = LocalServers(engine, options.model, logs=Path(logs), max_length=PROMPT + ANSWER)
        generator = ServerGenerator(servers)
        try:
            servers.url(0)
            measured: dict[str, Any] = {"start_seconds": round(time.monotonic() - started, 1)}
            pushed = [generator.push(model.named_parameters(), number) for number in range(1, REPEATS + 1)]
            measured["push_bytes"] = pushed[-1].bytes
            measured["push_seconds"] = spread([one.seconds for one in pushed])
            for answers in options.answers:
                rates = [rate(generator, answers, model.config.vocab_size) for _ in range(REPEATS)]
                measured[f"tokens_per_second_of_{answers}_answers"] = spread(rates)
        finally:
            generator.close()
    print(json.dumps(measured, indent=2))


def rate(generator: ServerGenerator, answers: int, vocab_size: int) -> float:
    """Tokens per second of ``answers`` answers, ``SEEDS`` to a prompt that is new."""
    draw = random.Random()
    requests = [
        Request(
            tuple(draw.randrange(vocab_size) for _ in range(PROMPT)),
            tuple(draw.randrange(1 << 60) for _ in range(SEEDS)),
        )
        for _ in range(answers // SEEDS)
    ]
    started = time.monotonic()
    generator.generate(requests, Sampling(max_new_tokens=ANSWER, temperature=1.0, stop=()))
    return answers * ANSWER / (time.monotonic() - started)


def spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
