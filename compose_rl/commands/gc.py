"""``compose-rl gc``: take off the cluster and out of the storage what no run stands for any more.

Safe next to running launchers, at any time: whoever still renews a lease keeps what it holds, and nothing
that a manifest names is touched.
"""

from __future__ import annotations

import argparse

__all__ = ["add", "run", "seconds"]

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", required=True, metavar="URI", help="folder or s3://bucket/prefix")
    parser.add_argument(
        "--older-than", default="7d", metavar="TIME", help="leave alone what changed since: 7d, 12h, 30m, 10s"
    )
    parser.add_argument(
        "--wait", default="90s", metavar="TIME", help="at least how long to see whether leases are renewed"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, change nothing")
    parser.add_argument("--store-only", action="store_true", help="look at no cluster: none has jobs for it")
    parser.add_argument("--namespace", help="of the jobs; by default that of the kubeconfig's context")
    parser.add_argument("--context", help="of the kubeconfig; by default its current one")


def run(arguments: argparse.Namespace) -> None:
    from compose_rl.commands.show import size
    from compose_rl.launch.kubernetes.api import Api
    from compose_rl.launch.sweep import Sweep
    from compose_rl.store import open_store

    older_than, wait = seconds(arguments.older_than, "--older-than"), seconds(arguments.wait, "--wait")
    api = None if arguments.store_only else Api.connect(arguments.context, arguments.namespace)
    dry = arguments.dry_run
    sweep = Sweep(open_store(arguments.storage), api, older_than=older_than, dry_run=dry)
    freed = 0
    for gone in sweep.run(wait):
        freed += gone.size
        amount = f", {size(gone.size)}" if gone.size else ""
        print(f"{'would be ' if dry else ''}{gone.verb}: {gone.what}{amount}", flush=True)
    counted = ", ".join(f"{number} {what}" for what, number in sweep.counts.items())
    print(f"gc: {counted}, {size(freed)} freed" + (" (dry run: nothing was changed)" if dry else ""))


def seconds(text: str, flag: str) -> float:
    """``7d`` → 604800.

    Raises:
        UserError: not a number with a unit.
    """
    from compose_rl.errors import UserError

    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.replace(".", "", 1).isdecimal():
        raise UserError(f"{flag} {text}: not a time; write a number with d, h, m or s, for instance 7d")
    return float(number) * _UNITS[unit]
