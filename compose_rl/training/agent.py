"""torchrun, which tells :mod:`compose_rl.launch.trainer` which process failed first, and how.

``python -m compose_rl.training.agent`` takes torchrun's arguments. It imports torch and nothing else that is
heavy.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous.api import RendezvousError
from torch.distributed.run import parse_args, run

from compose_rl.errors import EXIT_TRANSIENT

__all__ = ["main"]


def main(words: list[str]) -> int:
    """Start the processes of this node and wait for them; returns the exit code of the first that failed."""
    try:
        run(parse_args(words))
    except ChildFailedError as error:
        rank, first = error.get_first_failure()
        # Without a message of its own, torch makes one of the exit code, which says nothing new.
        message = first.message if first.error_file_data.get("message") == first.message else ""
        return _report(first.exitcode, f"rank {rank}", message)
    except (DistError, RendezvousError) as error:
        text = " ".join(str(error).split())
        return _report(EXIT_TRANSIENT, "torchrun", f"the nodes did not find each other: {text}")
    return 0


def _report(code: int, who: str, message: str) -> int:
    path = os.environ.get("COMPOSE_RL_AGENT_REPORT")
    if path:
        Path(path).write_text(json.dumps({"exit_code": code, "who": who, "message": message}))
    return code if code > 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
