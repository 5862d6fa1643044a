"""The API client against a real API server, as a launcher under the Role that is shipped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from places import ADDRESS, ADMIN
from proxy import Proxy, kubeconfig_through
from space import Space

from compose_rl.errors import TransientError, UserError
from compose_rl.launch.kubernetes.api import (
    AlreadyExists,
    Api,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    NotServed,
)
from compose_rl.launch.kubernetes.resource import NODES, PODS, PYTORCHJOBS, SECRETS, Resource
from compose_rl.launch.kubernetes.watching import Selection, snapshots

API_PORT = 6443


def job(name: str, **labels: str) -> dict[str, Any]:
    """A job that starts suspended: the operator makes no pods."""
    container = {"name": "pytorch", "image": "docker.io/local/none:1"}
    master = {"replicas": 1, "restartPolicy": "Never", "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {"runPolicy": {"suspend": True}, "pytorchReplicaSpecs": {"Master": master}},
    }


def mended_kubeconfig(space: Space, path: Path, change: Any) -> Path:
    document = yaml.safe_load(space.kubeconfig.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture
def api(space: Space) -> Iterator[Api]:
    found = Api.connect()
    yield found
    found.close()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(ADDRESS, API_PORT) as proxy:
        yield proxy


@pytest.fixture
def through(
    api: Api, space: Space, proxy: Proxy, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Api]:
    """The same as ``api``, through the proxy."""

    monkeypatch.setenv("KUBECONFIG", str(kubeconfig_through(proxy, space.kubeconfig, tmp_path)))
    found = Api.connect(say=said.append)
    yield found
    found.close()


def test_objects_are_created_read_changed_and_deleted(api: Api, space: Space) -> None:
    assert api.namespace == space.namespace
    created = api.create(PYTORCHJOBS, job("a", team="x"))
    assert created["metadata"]["uid"]
    api.create(PYTORCHJOBS, job("b", team="y"))
    found, version = api.list(PYTORCHJOBS, "team=x")
    assert [each["metadata"]["name"] for each in found] == ["a"] and int(version) > 0
    found, _ = api.list(PYTORCHJOBS, fields="metadata.name=b")
    assert [each["metadata"]["name"] for each in found] == ["b"]
    patched = api.patch(PYTORCHJOBS, "a", {"metadata": {"annotations": {"x": "1"}}})
    assert patched["metadata"]["annotations"]["x"] == "1"
    patched["metadata"]["annotations"]["x"] = "2"
    assert api.replace(PYTORCHJOBS, patched)["metadata"]["annotations"]["x"] == "2"
    api.delete(PYTORCHJOBS, "a", uid=created["metadata"]["uid"])
    with pytest.raises(NotFound):
        api.get(PYTORCHJOBS, "a")
    with pytest.raises(NotFound):
        api.delete(PYTORCHJOBS, "a")


def test_changes_that_were_thought_over_with_an_old_version_conflict(api: Api) -> None:
    old = api.create(PYTORCHJOBS, job("a"))
    with pytest.raises(AlreadyExists):
        api.create(PYTORCHJOBS, job("a"))
    api.patch(PYTORCHJOBS, "a", {"metadata": {"annotations": {"x": "1"}}})
    with pytest.raises(Conflict):
        api.replace(PYTORCHJOBS, old)
    version = old["metadata"]["resourceVersion"]
    with pytest.raises(Conflict):
        api.patch(PYTORCHJOBS, "a", {"metadata": {"resourceVersion": version, "annotations": {"x": "2"}}})
    with pytest.raises(Conflict):
        api.delete(PYTORCHJOBS, "a", uid="00000000-0000-0000-0000-000000000000")
    assert api.get(PYTORCHJOBS, "a")["metadata"]["annotations"]["x"] == "1"


def test_what_is_not_allowed_names_the_right_and_the_role(api: Api, space: Space) -> None:
    with pytest.raises(Forbidden) as error:
        api.list(SECRETS)
    message = str(error.value)
    assert f"may not list secrets in namespace '{space.namespace}'" in message
    assert "manifests/base" in message and "\n" not in message
    with pytest.raises(Forbidden, match="may not list nodes"):
        api.list(NODES)


def test_what_the_cluster_does_not_know_is_not_taken_for_an_object_that_is_gone(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(ADMIN))
    admin = Api.connect(namespace="not-there")
    toys = Resource("toys.example.com", "v1", "toys", comes_with="the toy box")
    for ask in (lambda: admin.list(toys), lambda: admin.get(toys, "x"), lambda: admin.create(toys, {})):
        with pytest.raises(NotServed, match="install the toy box"):
            ask()
    with pytest.raises(NotServed, match="no such namespace"):
        admin.create(PYTORCHJOBS, job("a"))


def test_an_object_that_is_refused_is_one_line(api: Api) -> None:
    with pytest.raises(UserError) as error:
        api.create(PYTORCHJOBS, job("Not a name"))
    assert isinstance(error.value, Invalid)
    assert "Not a name" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c["users"][0].update(user={"token": "wrong"}), "does not accept the credentials"),
        (lambda c: c["clusters"][0]["cluster"].pop("certificate-authority-data"), "TLS"),
        # A name that the resolver refuses by itself, so that no name server is asked.
        (lambda c: c["clusters"][0]["cluster"].update(server="https://no-such-host!"), "no-such-host"),
        (lambda c: c["contexts"][0]["context"].pop("namespace"), "no namespace"),
        (lambda c: c.update({"current-context": "other"}), "other"),
    ],
)
def test_a_wrong_kubeconfig_is_one_line_at_once(
    space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, words: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(mended_kubeconfig(space, tmp_path / "wrong", change)))
    with pytest.raises(UserError) as error:
        Api.connect().list(PODS)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert "wrong'" not in str(error.value)  # the token


def test_no_kubeconfig_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match="set KUBECONFIG"):
        Api.connect()
    (tmp_path / "none").write_text("{ not yaml")
    with pytest.raises(UserError, match="set KUBECONFIG"):
        Api.connect()
    with pytest.raises(UserError, match="set KUBECONFIG"):
        Api.connect(context="staging")


def test_a_watch_brings_what_changes_and_ends_when_it_is_closed(api: Api) -> None:
    _, version = api.list(PYTORCHJOBS)
    api.create(PYTORCHJOBS, job("other", team="y"))
    api.create(PYTORCHJOBS, job("a", team="x"))
    session = api.fork()
    watch = session.watch(PYTORCHJOBS, version, "team=x")
    event = next(watch)
    assert (event.type, event.object["metadata"]["name"]) == ("ADDED", "a")
    api.delete(PYTORCHJOBS, "a")
    kinds = [next(watch).type]
    while kinds[-1] != "DELETED":
        kinds.append(next(watch).type)
    rest: list[Any] = []
    thread = threading.Thread(target=lambda: rest.extend(watch), daemon=True)
    thread.start()
    session.close()
    thread.join(10)
    assert not thread.is_alive() and rest == []
    assert api.list(PYTORCHJOBS)  # the other one goes on


def test_a_version_that_is_forgotten_is_expired_and_the_objects_are_listed_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.create(PYTORCHJOBS, job("a"))
    with pytest.raises(Expired):
        list(api.watch(PYTORCHJOBS, "1"))
    listed = api.list
    versions = ["1"]  # what a launcher knows that was asleep for an hour

    def late(*words: Any, **more: Any) -> Any:
        found, version = listed(*words, **more)
        return found, versions.pop() if versions else version

    monkeypatch.setattr(api, "list", late)
    seen = snapshots(api, Selection(PYTORCHJOBS))
    assert set(next(seen)) == {"a"}
    assert set(next(seen)) == {"a"}  # listed again
    api.create(PYTORCHJOBS, job("b"))
    assert set(next(seen)) == {"a", "b"}  # and watched


def test_a_server_that_is_away_is_waited_for_with_a_line_before_and_after(
    through: Api, proxy: Proxy, said: list[str]
) -> None:
    assert through.list(PODS)
    proxy.down()
    timer = threading.Timer(3, proxy.up)
    timer.start()
    assert through.list(PODS)
    timer.join()
    assert len(said) == 2
    assert "waiting for the Kubernetes API" in said[0] and "refused" in said[0]
    assert "answers again" in said[1]


def test_a_server_that_stays_away_is_transient(through: Api, proxy: Proxy) -> None:
    proxy.down()
    with pytest.raises(TransientError, match="did not answer"):
        through.fork(patience=2).list(PODS)


def test_a_connection_that_breaks_loses_no_change(through: Api, api: Api, proxy: Proxy) -> None:
    seen = snapshots(through, Selection(PYTORCHJOBS))
    assert next(seen) == {}
    names = set()
    for number in range(5):
        proxy.down()
        names.add(f"job-{number}")
        api.create(PYTORCHJOBS, job(f"job-{number}"))
        proxy.up()
        found: Any = {}
        while set(found) != names:
            found = next(seen)


def test_a_create_whose_answer_is_lost_meets_its_own_object(through: Api, proxy: Proxy) -> None:
    through.list(PYTORCHJOBS)  # the connection that is kept
    proxy.swallow = True
    with pytest.raises(AlreadyExists):
        through.create(PYTORCHJOBS, job("a", mine="yes"))
    assert through.get(PYTORCHJOBS, "a")["metadata"]["labels"]["mine"] == "yes"


def test_closing_ends_a_wait_for_a_server_that_is_away(through: Api, proxy: Proxy) -> None:
    proxy.down()
    session = through.fork()
    ended: list[list[Any]] = []
    thread = threading.Thread(target=lambda: ended.append(list(session.watch(PODS, "0"))), daemon=True)
    thread.start()
    threading.Event().wait(0.5)
    session.close()
    thread.join(10)
    assert ended == [[]]


def test_what_is_no_api_server_is_told(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>hello</html>")

        def log_message(self, *words: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def change(document: Any) -> None:
            document["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{server.server_port}"}

        monkeypatch.setenv("KUBECONFIG", str(mended_kubeconfig(space, tmp_path / "page", change)))
        with pytest.raises(UserError, match="does not answer like a Kubernetes API server"):
            Api.connect().list(PODS)
        server.shutdown()


def test_resources_have_the_paths_of_the_api() -> None:
    assert PODS.path("ml", "a", "log") == "/api/v1/namespaces/ml/pods/a/log"
    assert PYTORCHJOBS.path("ml") == "/apis/kubeflow.org/v1/namespaces/ml/pytorchjobs"
    assert NODES.path("ml", "n/../x") == "/api/v1/nodes/n%2F..%2Fx"
    assert replace(PODS, group="g", version="v2").api_version == "g/v2"
