"""The Role that is shipped: what a launcher may do with it, and what not."""

from __future__ import annotations

import pytest
from kubernetes import client, config
from space import Space

MAY = [
    ("pods", "list", ""),
    ("pods", "watch", ""),
    ("pods/log", "get", ""),
    ("events", "list", ""),
    *[
        ("pytorchjobs", verb, "kubeflow.org")
        for verb in ("get", "list", "watch", "create", "update", "patch")
    ],
    ("pytorchjobs", "delete", "kubeflow.org"),
    # Rollout servers beside trainers.
    ("jobs", "create", "batch"),
    ("jobs", "patch", "batch"),
    ("services", "create", ""),
    ("secrets", "create", ""),
]
MAY_NOT = [
    ("secrets", "get", ""),
    ("secrets", "list", ""),
    ("secrets", "patch", ""),
    ("services", "delete", ""),
    ("jobs", "delete", "batch"),
    ("pods", "create", ""),
    ("pods", "delete", ""),
    ("pods/exec", "create", ""),
    ("serviceaccounts/token", "create", ""),
    ("roles", "update", "rbac.authorization.k8s.io"),
]


def allowed(space: Space, resource: str, verb: str, group: str, namespace: str) -> bool:
    api = client.AuthorizationV1Api(config.new_client_from_config(str(space.kubeconfig)))
    name, _, sub = resource.partition("/")
    attributes = {"namespace": namespace, "group": group, "resource": name, "subresource": sub, "verb": verb}
    review = api.create_self_subject_access_review({"spec": {"resourceAttributes": attributes}})
    return bool(review.status.allowed)


@pytest.mark.scenario("least rights of the launcher")
def test_a_launcher_may_run_jobs_and_nothing_else(space: Space) -> None:
    assert [entry for entry in MAY if not allowed(space, *entry, space.namespace)] == []
    assert [entry for entry in MAY_NOT if allowed(space, *entry, space.namespace)] == []
    assert [entry for entry in MAY if allowed(space, *entry, "default")] == []
