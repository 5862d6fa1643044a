"""``compose-rl``: stages by hand, and what came out of them."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from compose_rl.errors import StageFailed, TransientError, UserError

__all__ = ["main"]

COMMANDS = {
    "stage": "run one stage, or answer from its stored result",
    "show": "print a manifest and its lineage",
    "rerun": "run one stage again with the recorded inputs and changed settings",
    "component": "run one stage as a step of a Kubeflow pipeline",
    "preflight": "look whether a cluster has what runs will need",
    "gc": "remove jobs, leases and attempts that no run stands for any more",
    "report": "say how a run of a pipeline ended",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exits with the codes of :mod:`compose_rl.errors`."""
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="compose-rl", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        module = importlib.import_module(f"compose_rl.commands.{name}")
        module.add(commands.add_parser(name, help=summary, description=module.__doc__))
    parsed = parser.parse_args(arguments)
    try:
        importlib.import_module(f"compose_rl.commands.{parsed.command}").run(parsed)
    except (UserError, TransientError, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    main()
