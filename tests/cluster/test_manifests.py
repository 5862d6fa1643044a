"""The manifests as a real API server sees them: every overlay rendered, checked and applied."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from clients import Admin, Object
from crds import KUEUE, TRAINER, module
from places import BIN
from up import kubectl

MANIFESTS = Path(__file__).parents[2] / "manifests"
OVERLAYS = sorted(folder.name for folder in (MANIFESTS / "overlays").iterdir())
COMPONENTS = sorted(folder.name for folder in (MANIFESTS / "components").iterdir())
OPERATOR = "github.com/kubeflow/training-operator@v1.9.2"


@pytest.fixture
def namespace(admin: Admin, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace in which nothing runs that is not "restricted"; removed at the end."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:60]
    labels = {"pod-security.kubernetes.io/enforce": "restricted", "compose-rl/test": "true"}
    admin.core.create_namespace({"metadata": {"name": name, "labels": labels}})
    try:
        yield name
    finally:
        admin.core.delete_namespace(name, grace_period_seconds=0)


def kustomize(folder: Path) -> str:
    command = [str(BIN / "kubectl"), "kustomize", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def own(folder: Path, namespace: str | None = None, **parts: list[Path]) -> str:
    """What a user's own kustomization over folders gives."""
    content: dict[str, object] = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    if namespace:
        content["namespace"] = namespace
    # kustomize takes no absolute paths, and resolves links first.
    start = folder.resolve()
    for key, found in parts.items():
        content[key] = [os.path.relpath(part.resolve(), start) for part in found]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return kustomize(folder)


def objects(text: str) -> list[Object]:
    return [document for document in yaml.safe_load_all(text) if document]


def apply(text: str, kinds: set[str]) -> None:
    """Check on the server, then apply, then remove what lies in no namespace."""
    with ExitStack() as stack:
        if any(kind.startswith("kueue.") for kind in kinds):
            stack.enter_context(KUEUE.installed())
        if any(kind.startswith("trainer.") for kind in kinds):
            stack.enter_context(TRAINER.installed())
        words = ["apply", "--server-side", "--force-conflicts", "-f", "-"]
        kubectl(*words, "--dry-run=server", text=text)
        kubectl(*words, text=text)
        kubectl("delete", "--ignore-not-found", "-f", "-", text=text)


def kinds_of(text: str) -> set[str]:
    return {document["apiVersion"] for document in objects(text)}


@pytest.mark.scenario("manifests on the API server")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_taken_by_the_api_server(overlay: str, namespace: str, tmp_path: Path) -> None:
    text = own(tmp_path, namespace, resources=[MANIFESTS / "overlays" / overlay])
    found = objects(text)
    assert {"ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"} <= {item["kind"] for item in found}
    apply(text, kinds_of(text))


@pytest.mark.scenario("manifests on the API server")
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_is_taken_by_the_api_server(component: str, namespace: str, tmp_path: Path) -> None:
    text = own(
        tmp_path, namespace, resources=[MANIFESTS / "base"], components=[MANIFESTS / "components" / component]
    )
    apply(text, kinds_of(text))


@pytest.mark.scenario("manifests on the API server")
@pytest.mark.parametrize("example", sorted(path.name for path in (MANIFESTS / "examples").iterdir()))
def test_an_example_is_taken_by_the_api_server(example: str, namespace: str) -> None:
    text = (MANIFESTS / "examples" / example).read_text()
    for document in objects(text):
        if document["apiVersion"] == "v1":
            document["metadata"]["namespace"] = namespace
        apply(yaml.safe_dump(document), {document["apiVersion"]})


def binds_its_own_accounts(text: str) -> str:
    """The one namespace of the objects, which is also that of every account that gets rights."""
    found = objects(text)
    (namespace,) = {item["metadata"]["namespace"] for item in found if "namespace" in item["metadata"]}
    subjects = [subject for item in found for subject in item.get("subjects", [])]
    assert subjects
    assert {subject["namespace"] for subject in subjects} == {namespace}
    return namespace


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_binds_its_own_namespace_s_accounts(overlay: str) -> None:
    binds_its_own_accounts(kustomize(MANIFESTS / "overlays" / overlay))


# That of OpenShift binds an account of somebody else's, and says that the name stands there twice.
@pytest.mark.parametrize("overlay", sorted(set(OVERLAYS) - {"openshift"}))
def test_an_overlay_in_another_namespace_binds_the_accounts_there(overlay: str, tmp_path: Path) -> None:
    text = own(tmp_path, "team-a", resources=[MANIFESTS / "overlays" / overlay])
    assert binds_its_own_accounts(text) == "team-a"


@pytest.mark.scenario("manifests on the API server")
def test_the_pod_that_removes_old_jobs_is_restricted(namespace: str, tmp_path: Path) -> None:
    text = own(tmp_path, namespace, resources=[MANIFESTS / "base"], components=[MANIFESTS / "components/gc"])
    (job,) = [item for item in objects(text) if item["kind"] == "CronJob"]
    spec = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "gc", "namespace": namespace},
        "spec": spec,
    }
    kubectl("apply", "--server-side", "-f", "-", text=text)
    kubectl("create", "--dry-run=server", "-f", "-", text=yaml.safe_dump(pod))
    del spec["containers"][0]["securityContext"]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kubectl("create", "--dry-run=server", "-f", "-", text=yaml.safe_dump(pod))
    assert 'violates PodSecurity "restricted' in refused.value.stderr


@pytest.mark.scenario("manifests on the API server")
def test_the_operator_takes_the_shipped_init_container(tmp_path: Path) -> None:
    text = own(
        tmp_path,
        resources=[module(OPERATOR) / "manifests/overlays/standalone"],
        components=[MANIFESTS / "operator"],
    )
    found = objects(text)
    (deployment,) = [item for item in found if item["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/etc/config"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    (config,) = [item for item in found if item["metadata"]["name"] == volume["configMap"]["name"]]
    shipped = (MANIFESTS / "operator/init-container.yaml").read_text()
    # Where the operator looks by default.
    assert config["data"] == {"initContainer.yaml": shipped}
    kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", text=yaml.safe_dump(deployment))
