"""Who holds a job: what joining, leaving and giving up write on it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.differences import differences
from compose_rl.launch.kubernetes.holders import (
    given_up,
    held,
    holders,
    is_left,
    joined,
    leaving,
    stopping,
    tries,
)
from compose_rl.launch.kubernetes.identity import Identity
from compose_rl.launch.kubernetes.kinds import KINDS

PYTORCHJOB = KINDS["pytorchjob"]


def launcher(workflow: str, step: str = "sft") -> Identity:
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": workflow, "uid": workflow}
    return Identity(holder=f"{workflow}.{step}", owner=owner)


A, A2, B = launcher("a"), launcher("a", "twin"), launcher("b")
HOME = Identity(holder="laptop-1f")
"""Outside KFP."""


def job(*held_by: Identity, **metadata: Any) -> dict[str, Any]:
    """A job as the API would give it after each of them joined."""
    first, *others = held_by
    found = {
        "metadata": {"name": "j", "resourceVersion": "7", **held(first), **metadata},
        "spec": {"runPolicy": {"suspend": False}},
    }
    for other in others:
        found = merged(found, joined(found, other))
    return found


def merged(target: Any, patch: Any) -> Any:
    """RFC 7386, but for null."""
    if not isinstance(patch, dict):
        return patch
    result = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        result[name] = merged(result.get(name), value)
    return result


def owners(found: dict[str, Any]) -> list[str]:
    return [owner["uid"] for owner in found["metadata"]["ownerReferences"]]


def suspended(found: dict[str, Any]) -> bool:
    return found["spec"]["runPolicy"]["suspend"]


def after(found: dict[str, Any], *gone: Identity) -> dict[str, Any]:
    change = leaving(found, {each.holder for each in gone}, kind=PYTORCHJOB, why="told to")
    assert change is not None
    return merged(found, change[0])


def test_each_holder_adds_itself_and_its_run_once() -> None:
    found = job(A, A2, HOME, B)
    assert holders(found) == ["a.sft", "a.twin", "laptop-1f", "b.sft"]
    assert owners(found) == ["a", "b"]
    assert joined(found, B) is None


def test_a_holder_whose_run_was_taken_off_puts_it_back() -> None:
    patch = joined(job(A, ownerReferences=[]), A)
    assert patch is not None
    assert owners(merged(job(A), patch)) == ["a"]


def test_one_of_several_takes_itself_away_and_its_run_with_its_last_step() -> None:
    found = after(job(A, A2, B), A)
    assert (holders(found), owners(found)) == (["a.twin", "b.sft"], ["a", "b"])
    found = after(found, A2)
    assert (holders(found), owners(found)) == (["b.sft"], ["b"])
    assert not suspended(found)
    assert not is_left(found)


@pytest.mark.parametrize("last", [A, HOME])
def test_the_last_one_out_suspends_the_job_and_leaves_it_to_its_run(last: Identity) -> None:
    before = job(last)
    found = after(before, last)
    assert holders(found) == []
    assert suspended(found)
    assert is_left(found)
    assert found["metadata"]["annotations"][naming.LEFT] == "told to"
    assert owners(found) == owners(before)


def test_several_that_are_gone_leave_together() -> None:
    assert suspended(after(job(A, A2, B), A, A2, B))
    assert holders(after(job(A, A2, B), A, B)) == ["a.twin"]


def test_whoever_does_not_hold_a_job_changes_nothing() -> None:
    assert leaving(job(A), {B.holder}, kind=PYTORCHJOB, why="") is None


def test_every_change_is_bound_to_what_was_read() -> None:
    found = job(A)
    change = leaving(found, {A.holder}, kind=PYTORCHJOB, why="")
    assert change is not None
    stop = stopping(found, kind=PYTORCHJOB, exit_code=1, reason="")
    for patch in (joined(found, B), change[0], stop):
        assert patch is not None
        assert patch["metadata"]["resourceVersion"] == "7"


def test_a_job_that_is_given_up_keeps_its_holders_and_its_end() -> None:
    found = merged(
        job(A, B), stopping(job(A, B), kind=PYTORCHJOB, exit_code=75, reason="pod x: its node is gone")
    )
    assert given_up(job(A)) is None
    assert given_up(found) == (75, "pod x: its node is gone")
    assert holders(found) == ["a.sft", "b.sft"]
    assert suspended(found)
    assert is_left(found)


def test_a_job_that_is_being_removed_is_left() -> None:
    assert is_left(job(A, deletionTimestamp="2026-01-01T00:00:00Z"))
    assert not is_left(job(A))


def test_a_job_says_which_try_it_is() -> None:
    found = job(A)
    assert tries(found) == 1
    found["metadata"]["annotations"][naming.TRIES] = "3"
    assert tries(found) == 3


def test_the_switch_of_each_kind_is_set_where_that_kind_has_it() -> None:
    for kind in KINDS.values():
        found = job(A)
        change = leaving(found, {A.holder}, kind=kind, why="")
        assert change is not None
        assert kind.suspended(merged(found, change[0]))


def test_differences_name_the_field_and_both_values() -> None:
    wanted = {"replicas": 4, "template": {"containers": [{"name": "main", "image": "new"}]}, "queue": "q"}
    found = {
        "replicas": 2,
        "template": {"containers": [{"name": "x", "image": "new"}, {"name": "main", "image": "old"}]},
        "defaulted": True,
    }
    assert differences(wanted, found) == [
        "replicas: 2, yours 4",
        "containers.main.image: old, yours new",
        "queue: unset, yours q",
    ]
    assert differences(json.loads(json.dumps(wanted)), wanted) == []
