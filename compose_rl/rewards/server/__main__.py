"""Serve an exported reward model: ``python -m compose_rl.rewards.server --model DIR --port N``.

Where the environment variable COMPOSE_RL_REWARD_TOKEN is set, requests must bear it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from compose_rl.errors import UserError

TOKEN = "COMPOSE_RL_REWARD_TOKEN"


def main(words: list[str] | None = None) -> int:
    """Serve until SIGTERM or an interrupt; returns the exit code."""
    options = _options(words)
    try:
        return _serve(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _options(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compose_rl.rewards.server", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of an exported reward model")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 for all")
    parser.add_argument("--port", type=int, default=8080, help="0: any that is free")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--token-budget", type=int, default=16384, help="tokens of a forward pass")
    return parser.parse_args(words)


def _serve(options: argparse.Namespace) -> int:
    import torch

    from compose_rl.data.encoding import load_tokenizer, tokenizer_digest
    from compose_rl.rewards.reward_model.loading import load_scoring_model
    from compose_rl.rewards.server.app import RewardServer
    from compose_rl.rewards.server.scorer import Scorer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_scoring_model(options.model, options.precision, device)
    tokenizer = load_tokenizer(options.model)
    health = {"status": "ok", "tokenizer_sha256": tokenizer_digest(tokenizer)}
    scorer = Scorer(model, tokenizer, options.token_budget)
    try:
        server = RewardServer((options.host, options.port), scorer, health, os.environ.get(TOKEN, ""))
    except OSError as error:
        raise UserError(
            f"--host {options.host} --port {options.port}: {error.strerror}; choose another"
        ) from None

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"reward server: {options.model} at http://{options.host}:{server.server_address[1]}", flush=True)
    with server:
        server.serve_forever(poll_interval=0.1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
