"""``python -m compose_rl.rollouts.server``: an engine behind HTTP."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from pydantic import ValidationError

from compose_rl.config.rollouts import RolloutEngine
from compose_rl.errors import UserError
from compose_rl.lifeline import die_with_parent
from compose_rl.rollouts.server.backend import Backend
from compose_rl.rollouts.server.safetensors_headers import folder_shapes
from compose_rl.rollouts.server.service import RolloutServer


def _backend(name: str, model: Path, engine: RolloutEngine, max_length: int | None) -> Backend:
    # Each needs libraries that only its own environment has.
    if name == "vllm":
        from compose_rl.rollouts.server.vllm_backend import VLLMBackend

        return VLLMBackend(model, engine, max_length)
    from compose_rl.rollouts.server.hf_backend import HFBackend

    return HFBackend(model, engine, max_length)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m compose_rl.rollouts.server", description=__doc__)
    parser.add_argument("--backend", choices=("hf", "vllm"), required=True)
    parser.add_argument("--model", type=Path, required=True, help="folder of the Hugging Face model")
    parser.add_argument("--engine", default="{}", help="settings (engine: of a document) as JSON")
    parser.add_argument("--max-length", type=int, help="tokens of a prompt and its answer together")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: one that is free")
    parser.add_argument("--ready-file", type=Path, help='written when it serves: {"url", "pid"}')
    parser.add_argument("--idle-minutes", type=float, default=0, help="ends when unused so long; 0: never")
    parser.add_argument(
        "--drain-seconds", type=float, default=0, help="told to stop, it ends when unused so long; 0: at once"
    )
    return parser.parse_args()


def _write_ready(path: Path, server: RolloutServer, host: str) -> None:
    ready = {"url": f"http://{host}:{server.server_port}", "pid": os.getpid()}
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(ready))
    draft.replace(path)


def main() -> int:
    """Serve until told to stop; the exit code (``compose_rl.errors``)."""
    arguments = _arguments()
    die_with_parent()
    try:
        try:
            engine = RolloutEngine.model_validate_json(arguments.engine)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UserError(f"--engine: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if not (arguments.model / "config.json").is_file():
            raise UserError(f"--model {arguments.model}: has no config.json; give a Hugging Face folder")
        folder_shapes(arguments.model)  # before the engine takes its time
        backend = _backend(arguments.backend, arguments.model, engine, arguments.max_length)
        address = (arguments.host, arguments.port)
        server = RolloutServer(address, backend, arguments.model, arguments.idle_minutes * 60)
    except UserError as error:
        print(f"rollout server: {error}", file=sys.stderr, flush=True)
        return error.exit_code

    def stop(*_: object) -> None:
        if arguments.drain_seconds:
            server.drain(arguments.drain_seconds)
        else:
            threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"rollout server: {arguments.backend} at port {server.server_port}", flush=True)
    if arguments.ready_file is not None:
        _write_ready(arguments.ready_file, server, arguments.host)
    with server:
        server.serve_forever()
    backend.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
