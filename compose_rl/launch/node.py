"""Where a trainer pod's node stands in its job, and what that means for the processes it starts."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

from compose_rl.errors import TransientError, UserError
from compose_rl.lifeline import PARENT_VARIABLE

__all__ = ["Node", "command", "environment", "this_node", "wait_for_master"]

AGENT = "compose_rl.training.agent"
"""Starts and watches the processes of a node (torchrun)."""
_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONUNBUFFERED": "1"}
_OPERATOR = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK")
"""What an operator says of nodes and torchrun says of processes, under the same names."""
_RENDEZVOUS_SECONDS = 1800.0
"""How long nodes wait for each other: one may pull its image while the others are there."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """Where this node stands among the nodes of the job."""

    nodes: int = 1
    procs: str = "1"
    """Processes on each node; also ``auto``, ``gpu``, ``cpu`` as torchrun takes them."""
    node_rank: int = 0
    master: str = ""
    port: int = 0

    @property
    def single(self) -> bool:
        """One process in all."""
        return self.nodes == 1 and self.procs == "1"


def this_node(nodes: int | None, procs: str | None, environ: Mapping[str, str]) -> Node:
    """From arguments and the operator's environment.

    Raises:
        UserError: several nodes, and the environment does not say which this is or where the first one is.
    """

    def given(*names: str) -> str | None:
        return next((environ[name] for name in names if environ.get(name)), None)

    number = nodes or _whole("PET_NNODES", given("PET_NNODES") or "1")
    each = procs or given("PET_NPROC_PER_NODE") or "1"
    if number == 1:
        return Node(procs=each)
    master, port = given("PET_MASTER_ADDR", "MASTER_ADDR"), given("PET_MASTER_PORT", "MASTER_PORT")
    rank = given("PET_NODE_RANK", "RANK")
    if master is None or port is None or rank is None:
        raise UserError(
            f"trainer: nodes={number}, but MASTER_ADDR, MASTER_PORT and RANK (or PET_MASTER_ADDR,"
            " PET_MASTER_PORT and PET_NODE_RANK) are not all set; start it by a training operator"
        )
    found = Node(
        nodes=number,
        procs=each,
        node_rank=_whole("PET_NODE_RANK or RANK", rank),
        master=master,
        port=_whole("MASTER_PORT", port),
    )
    if found.node_rank >= number:
        raise UserError(f"trainer: node rank {found.node_rank}, but there are {number} nodes; mend --nodes")
    return found


def _whole(name: str, value: str) -> int:
    if not value.isdecimal():
        raise UserError(f"trainer: {name}='{value}' is not a whole number")
    return int(value)


def command(node: Node, module: str, job: str) -> list[str]:
    """The command line of this node's processes."""
    python = [sys.executable, "-m"]
    if node.single:
        return [*python, module, "--job", job]
    nodes = ["--standalone"]
    if node.nodes > 1:
        attempt = job.rpartition("/")[0].rpartition("/")[2]
        nodes = [
            f"--nnodes={node.nodes}",
            f"--node-rank={node.node_rank}",
            f"--master-addr={node.master}",
            f"--master-port={node.port}",
            f"--rdzv-id={attempt}",
            f"--rdzv-conf=timeout={_rendezvous_seconds():.0f}",
        ]
    return [*python, AGENT, *nodes, f"--nproc-per-node={node.procs}", "-m", module, "--job", job]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the processes: the operator's words are arguments by now, and would be misread."""
    kept = {
        name: value
        for name, value in environ.items()
        if name not in _OPERATOR and not name.startswith("PET_")
    }
    return {**_DEFAULTS, **kept, PARENT_VARIABLE: str(os.getpid())}


def _rendezvous_seconds() -> float:
    return float(os.environ.get("COMPOSE_RL_RENDEZVOUS_SECONDS", _RENDEZVOUS_SECONDS))


def wait_for_master(node: Node) -> None:
    """Until the first node's name is known here; on the first node itself, until its port is free.

    Raises:
        TransientError: it took too long.
    """
    if node.nodes == 1:
        return
    end = time.monotonic() + _rendezvous_seconds()
    told = False
    while True:
        try:
            if node.node_rank == 0:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("", node.port))
            else:
                socket.getaddrinfo(node.master, node.port)
            return
        except OSError as error:
            what = f"{node.master}:{node.port}: {error.strerror or error}"
        if time.monotonic() > end:
            raise TransientError(f"trainer: the nodes did not find each other ({what})")
        if not told:
            print(f"trainer: waiting for {what}", file=sys.stderr, flush=True)
            told = True
        time.sleep(1)
