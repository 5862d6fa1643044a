"""``compose-rl preflight`` as a launcher's service account runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import archives
import pytest
import yaml
from places import BUSYBOX, IMAGES
from space import LAUNCHER, Space

FITTING = "docker.io/local/fitting:1"
"""An image whose ``compose-rl`` does nothing."""
SIGNS = ("ok", "no", "? ")


class Ran:
    """What it said and how it ended."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        command = [str(Path(sys.executable).parent / "compose-rl"), "preflight", *arguments]
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
        )
        self.exit_code = done.returncode
        self.output = done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if line[:2] in SIGNS]
        assert lines == done.stdout.splitlines(), self.output
        self.findings = [(line[:2].strip(), *re.split(r"\s{2,}", line[4:], maxsplit=1)) for line in lines]

    def __getitem__(self, what: str) -> tuple[str, str]:
        """Verdict and line of a check."""
        (found,) = [(verdict, said) for verdict, name, said in self.findings if name == what]
        return found

    @property
    def wrong(self) -> list[str]:
        return [name for verdict, name, _ in self.findings if verdict == "no"]


@pytest.mark.scenario("preflight: all there")
def test_under_the_shipped_role_nothing_is_missing(space: Space) -> None:
    ran = Ran("--storage", space.storage)
    assert (ran.exit_code, ran.wrong) == (0, []), ran.output
    verdict, said = ran["Kubernetes API"]
    assert verdict == "ok"
    assert re.match(r"v1\.\d+", said) and f"system:serviceaccount:{space.namespace}:{LAUNCHER}" in said
    assert ran["pytorchjob"] == ("ok", "kubeflow.org/v1")
    assert ran["right to pytorchjobs"] == ("ok", "get, list, watch, create, patch, delete")
    assert ran["right to pods/log"] == ("ok", "get")
    assert ran["storage"] == ("ok", f"{space.storage}: write, read, list, delete")
    assert ran["storage: clock"][0] == "ok"
    assert ran["right to nodes"][0] == "?"
    assert space.environment["AWS_SECRET_ACCESS_KEY"] not in ran.output


@pytest.mark.scenario("preflight: RBAC denied")
def test_a_right_that_is_missing_is_named_with_its_verbs(space: Space) -> None:
    role = {
        "metadata": {"name": "half"},
        "rules": [{"apiGroups": ["kubeflow.org"], "resources": ["pytorchjobs"], "verbs": ["get", "list"]}],
    }
    for binding in space.admin.rbac.list_namespaced_role_binding(space.namespace).items:
        space.admin.rbac.delete_namespaced_role_binding(binding.metadata.name, space.namespace)
    space.admin.rbac.create_namespaced_role(space.namespace, role)
    group = "rbac.authorization.k8s.io"
    bound = {
        "metadata": {"name": "half"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "half"},
        "subjects": [{"kind": "ServiceAccount", "name": LAUNCHER, "namespace": space.namespace}],
    }
    space.admin.rbac.create_namespaced_role_binding(space.namespace, bound)
    ran = Ran("--storage", space.storage)
    assert ran.exit_code == 2
    verdict, said = ran["right to pytorchjobs"]
    assert verdict == "no"
    assert said.startswith("may not watch, create, patch, delete pytorchjobs.kubeflow.org in namespace")
    assert "bind the Role of manifests/base" in said
    assert ran["right to pods"][0] == "no"


@pytest.mark.scenario("preflight: bucket missing, wrong key")
def test_a_storage_that_cannot_be_used_is_named(space: Space) -> None:
    ran = Ran("--storage", "s3://no-such-bucket/runs")
    assert ran["storage"] == ("no", ran["storage"][1]) and "does not exist" in ran["storage"][1]
    wrong = "not-the-secret-key"
    ran = Ran("--storage", space.storage, AWS_SECRET_ACCESS_KEY=wrong)
    assert ran.wrong == ["storage", "storage: manifests"]
    assert "secret key is wrong" in ran["storage"][1] and wrong not in ran.output


@pytest.mark.scenario("preflight: what the resources name is not there")
def test_what_the_resources_name_must_be_there(space: Space) -> None:
    resources = {"backend": "trainjob", "queue": "team", "priority_class": "none", "run_as_user": None}
    ran = Ran("--storage", space.storage, "--resources", json.dumps(resources))
    assert ran["trainjob"][0] == "no" and "install Kubeflow Trainer 2" in ran["trainjob"][1]
    assert ran["pytorchjob"][0] == "ok"
    assert ran["Kueue"][0] == "no" and "install Kueue" in ran["Kueue"][1]
    assert ran["priority class"][0] == "?"  # the shipped Role may not look


@pytest.mark.scenario("preflight: no cluster")
def test_without_a_cluster_the_storage_is_looked_at_nevertheless(space: Space, tmp_path: Path) -> None:
    kubeconfig = yaml.safe_load(space.kubeconfig.read_text())
    kubeconfig["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    away = tmp_path / "away"
    away.write_text(yaml.safe_dump(kubeconfig))
    ran = Ran("--storage", space.storage, KUBECONFIG=str(away))
    assert ran.wrong == ["Kubernetes API"]
    assert ran["storage"][0] == "ok"


@pytest.mark.scenario("preflight: an image that the launcher may not try")
def test_a_launcher_that_may_not_make_pods_says_so(space: Space) -> None:
    ran = Ran("--storage", space.storage, "--image", BUSYBOX)
    verdict, said = ran["image"]
    assert verdict == "?" and "may not create pods" in said
    assert "image" not in [name for _, name, _ in Ran("--storage", space.storage, "--no-pod").findings]


@pytest.fixture
def pod_maker(space: Space) -> Space:
    """The launcher may make pods, where "restricted" is enforced."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    space.admin.core.patch_namespace(space.namespace, {"metadata": {"labels": labels}})
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete"]}]
    space.admin.rbac.create_namespaced_role(space.namespace, {"metadata": {"name": "pods"}, "rules": rules})
    bound = {
        "metadata": {"name": "pods"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "pods"},
        "subjects": [{"kind": "ServiceAccount", "name": LAUNCHER, "namespace": space.namespace}],
    }
    space.admin.rbac.create_namespaced_role_binding(space.namespace, bound)
    return space


@pytest.fixture
def fitting() -> str:
    path = IMAGES / "fitting.tar"
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "bin" / "compose-rl"
        program.parent.mkdir()
        program.write_bytes(Path("/bin/busybox").read_bytes())
        program.rename(program.with_name("busybox"))
        program.write_text("#!/bin/busybox sh\nexit 0\n")
        for file in program.parent.iterdir():
            file.chmod(0o755)
        archives.archive(path, FITTING, Path(folder))
    archives.load_one(path)
    return FITTING


@pytest.mark.node
@pytest.mark.scenario("preflight: images are pulled and started under restricted")
def test_images_are_tried_in_a_pod_that_is_gone_afterwards(pod_maker: Space, fitting: str) -> None:
    missing = "docker.io/local/missing:1"
    images = [word for image in (fitting, missing, BUSYBOX) for word in ("--image", image)]
    never = '{"image_pull_policy": "Never"}'
    ran = Ran("--storage", pod_maker.storage, "--resources", never, *images)
    found = [(verdict, said) for verdict, name, said in ran.findings if name == "image"]
    assert [verdict for verdict, _ in found] == ["ok", "no", "no"], ran.output
    assert found[0][1].startswith(f"{fitting}: pulled and started")
    assert found[1][1].startswith(f"{missing}: ErrImageNeverPull") and "load the image" in found[1][1]
    assert found[2][1].startswith(f"{BUSYBOX}: ") and "compose-rl" in found[2][1]
    assert pod_maker.pods == []
