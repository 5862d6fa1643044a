"""Answers as an API server gives them, and the exceptions that they become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from compose_rl.errors import UserError
from compose_rl.launch.kubernetes import refusals
from compose_rl.launch.kubernetes.refusals import refusal
from compose_rl.launch.kubernetes.resource import NODES, PODS, PYTORCHJOBS, Resource


def answered(status: int, verb: str = "create", resource: Resource = PYTORCHJOBS, **body: Any) -> Exception:
    whole = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, **body}
    data = json.dumps(whole).encode()
    return refusal(status, data, verb=verb, resource=resource, name="crl-1", namespace="ml", retry_after=3)


@pytest.mark.parametrize(
    "status, body, kind, words",
    [
        (404, {"details": {"name": "crl-1", "kind": "pytorchjobs"}}, refusals.NotFound, "crl-1"),
        (404, {"details": {}}, refusals.NotServed, "install the Kubeflow training operator"),
        (404, {"details": {"name": "ml", "kind": "namespaces"}}, refusals.NotServed, "no such namespace"),
        (409, {"reason": "AlreadyExists"}, refusals.AlreadyExists, "crl-1"),
        (409, {"reason": "Conflict"}, refusals.Conflict, "crl-1"),
        (410, {"reason": "Expired"}, refusals.Expired, "crl-1"),
        (401, {}, refusals.Unauthorized, "renew the kubeconfig's login"),
        (422, {"message": "spec.x:\n  Required"}, refusals.Invalid, "spec.x: Required"),
        (400, {"message": "bad"}, refusals.Invalid, "bad"),
    ],
)
def test_every_refusal_is_an_exception_of_its_own(status: int, body: Any, kind: type, words: str):
    error = answered(status, **body)
    assert type(error) is kind and isinstance(error, UserError)
    assert words in str(error) and "\n" not in str(error)


def test_what_rbac_denies_names_verb_resource_namespace_and_role():
    message = (
        'pytorchjobs.kubeflow.org "crl-1" is forbidden: User "system:serviceaccount:ml:x" cannot patch'
        ' resource "pytorchjobs" in API group "kubeflow.org" in the namespace "ml"'
    )
    error = answered(403, verb="patch", message=message)
    assert type(error) is refusals.Forbidden
    for words in ("may not patch pytorchjobs.kubeflow.org", "namespace 'ml'", "Role of manifests/base"):
        assert words in str(error)
    nodes = 'nodes is forbidden: User "u" cannot list resource "nodes" in API group "" at the cluster scope'
    assert "namespace 'ml'" not in str(answered(403, verb="list", resource=NODES, message=nodes))


def test_a_quota_is_not_taken_for_a_missing_role():
    error = answered(403, resource=PODS, message='pods "a" is forbidden: exceeded quota: gpus, used: 8')
    assert type(error) is refusals.Forbidden
    assert "exceeded quota: gpus" in str(error) and "Role" not in str(error)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_server_that_cannot_now_is_unavailable(status: int):
    error = answered(status, message="etcd leader changed")
    assert isinstance(error, refusals.Unavailable)
    assert (error.retry_after, error.reached) == (3, True)
    assert "etcd leader changed" in str(error)


def test_an_answer_that_is_no_json_is_shown():
    error = refusal(502, b"<html>bad\ngateway</html>", verb="get", resource=PODS)
    assert "<html>bad gateway</html>" in str(error)


def test_a_long_message_is_cut():
    assert len(str(answered(422, message="x" * 10_000))) < 600
