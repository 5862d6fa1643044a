"""A real one-node Kubernetes with the training operator and an S3 server, as processes of this machine.

``python tests/cluster/tools build|up|images|down [api|node]``. Level ``api`` is the control plane alone: no
pod ever runs, a test writes the status of pods itself. Level ``node`` (the default) runs pods too.
"""

from __future__ import annotations

import argparse
import sys

import archives
import building
import down
import up
from places import ADMIN

COMMANDS = {
    "build": building.build,
    "up": up.up,
    "images": lambda level: archives.load(),
    "down": lambda level: down.down(),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python tests/cluster/tools", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("level", nargs="?", choices=["api", "node"], default="node")
    options = parser.parse_args()
    try:
        COMMANDS[options.command](options.level)
    except building.CannotError as reason:
        sys.exit(f"error: {reason}")
    if options.command == "up":
        print(f"export KUBECONFIG={ADMIN}")


if __name__ == "__main__":
    main()
