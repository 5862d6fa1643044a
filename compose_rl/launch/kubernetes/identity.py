"""Who a launcher is: the holder that it puts on a job, and what owns the job on its behalf."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from compose_rl.launch.kubernetes.api import Api
from compose_rl.launch.kubernetes.resource import PODS, Object

__all__ = ["RUN_LABEL", "Identity", "identify", "in_pipeline"]

RUN_LABEL = "pipeline/runid"
"""KFP's label on all that belongs to a run."""
_POD, _POD_UID = "KFP_POD_NAME", "KFP_POD_UID"
"""What KFP tells every step's container."""
_LONGEST_HOST = 40


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A launcher."""

    holder: str
    """Its id: letters, digits, dots and dashes."""
    owner: Object | None = None
    """A reference to the Workflow that it belongs to; None outside KFP."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """What its jobs are labelled with besides."""


def in_pipeline(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a step of a pipeline on a cluster."""
    return _POD in environ


def identify(api: Api, *, namespace: str, step: str, environ: Mapping[str, str] = os.environ) -> Identity:
    """This launcher: in KFP ``<workflow uid>.<step>``, else ``<host>-<chance>``.

    A pod that KFP starts again is the same holder, so it goes on where the one before it was.

    Args:
        api: the namespace of the launcher's own pod.
        namespace: that of its jobs.

    Raises:
        UserError: the pod may not be read (RBAC).
    """
    if not in_pipeline(environ):
        return Identity(holder=f"{_plain(socket.gethostname())[:_LONGEST_HOST]}-{secrets.token_hex(5)}")
    metadata: Object = api.get(PODS, environ[_POD])["metadata"]
    labels: Mapping[str, str] = metadata.get("labels") or {}
    run = {RUN_LABEL: labels[RUN_LABEL]} if RUN_LABEL in labels else {}
    owners: list[Object] = metadata.get("ownerReferences") or []
    workflows = [owner for owner in owners if owner["kind"] == "Workflow"]
    if not workflows:
        return Identity(holder=f"{environ.get(_POD_UID) or metadata['uid']}.{_plain(step)}", labels=run)
    reference: Object = {name: workflows[0][name] for name in ("apiVersion", "kind", "name", "uid")}
    reference |= {"controller": False, "blockOwnerDeletion": False}
    return Identity(
        holder=f"{reference['uid']}.{_plain(step)}",
        # To Kubernetes an owner in another namespace is one that is gone, and it removes what it owned.
        owner=reference if namespace == api.namespace else None,
        labels=run,
    )


def _plain(text: str) -> str:
    """As part of an id: of a holder, and so of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
