"""Names, labels and annotations of a job's objects, and the digest of what was asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = [
    "APP",
    "APP_LABEL",
    "DIGEST",
    "END",
    "HOLDERS",
    "JOB",
    "KEY",
    "KEY_LABEL",
    "LEFT",
    "NUMBER_LABEL",
    "QUEUE_LABEL",
    "QUEUE_PRIORITY_LABEL",
    "SERVERS",
    "STAGE_LABEL",
    "TRIES",
    "digest",
    "job_name",
    "labels",
    "name_prefix",
    "number",
    "selector",
]

APP = "compose-rl"
APP_LABEL = "app.kubernetes.io/name"
STAGE_LABEL = "compose-rl/stage"
KEY_LABEL = "compose-rl/key"
NUMBER_LABEL = "compose-rl/number"

KEY = "compose-rl/key"
"""Annotation: the whole key."""
JOB = "compose-rl/job"
"""Annotation: the URI of the job file."""
DIGEST = "compose-rl/digest"
"""Annotation: SHA-256 of what was asked for."""
HOLDERS = "compose-rl/holders"
"""Annotation: a JSON list of the ids of the launchers that wait for the job."""
TRIES = "compose-rl/tries"
"""Annotation: the jobs in a row, up to this one, started since the one before ended by what may pass."""
LEFT = "compose-rl/left"
"""Annotation: why the job was given up, for instance by its last holder; such a job is never joined."""
END = "compose-rl/end"
"""Annotation: exit code and reason (JSON) of a job that was given up since a part of it had ended."""

SERVERS = "compose-rl/servers"
"""Annotation: the name of the Job of the rollout servers that the job owns."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"

_LABEL_KEY_DIGITS = 32  # a label's value has at most 63 characters, a key has 64


def name_prefix(stage: str, key: str) -> str:
    """What the names of all jobs at a key start with; a DNS label together with any number below 10^6."""
    return f"crl-{stage.replace('_', '-')}-{key[:10]}"


def job_name(stage: str, key: str, number: int) -> str:
    """``crl-<stage>-<first 10 hex of the key>-<number>``."""
    return f"{name_prefix(stage, key)}-{number}"


def labels(stage: str, key: str, number: int) -> dict[str, str]:
    """What a job and its pods are found by."""
    return {**selector(stage, key), NUMBER_LABEL: str(number)}


def selector(stage: str, key: str) -> dict[str, str]:
    """Labels that all jobs at a key have, and no others."""
    return {APP_LABEL: APP, STAGE_LABEL: stage, KEY_LABEL: key[:_LABEL_KEY_DIGITS]}


def number(labels: Mapping[str, str]) -> int:
    """Which of the jobs at its key an object with these labels is, or belongs to."""
    return int(labels[NUMBER_LABEL])


def digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document of JSON values, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
