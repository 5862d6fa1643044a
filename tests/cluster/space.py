"""A namespace as a user has it: the Role that is shipped, a launcher's token, storage and its secret."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from certificates import write_kubeconfig
from clients import Admin, Object

ROLE = Path(__file__).parents[2] / "manifests/base/launcher-role.yaml"
LAUNCHER = "compose-rl"


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a launcher needs, and the test's own eyes."""

    admin: Admin
    namespace: str
    kubeconfig: Path
    """The launcher's: a service account bound to the shipped Role, with this namespace as its own."""
    storage: str
    """An empty ``s3://`` prefix."""
    environment: dict[str, str] = field(repr=False)
    """Environment variables of a launcher: KUBECONFIG, S3, a cache of its own."""

    @property
    def jobs(self) -> list[Object]:
        """The PyTorchJobs, oldest first."""
        return self.admin.jobs(self.namespace)

    @property
    def pods(self) -> list[Object]:
        """Every pod that is not on its way out."""
        return self.admin.pods(self.namespace)


def make_space(admin: Admin, name: str, folder: Path, storage: dict[str, str], bucket: str) -> Space:
    """Create the namespace and what belongs into it.

    Args:
        name: of the test, for people.
        storage: what the storage secret holds.
    """
    short = re.sub(r"[^a-z0-9]+", "-", name.lower().removeprefix("test_"))[:40].strip("-")
    namespace = f"{short}-{secrets.token_hex(3)}"
    metadata = {"metadata": {"name": namespace, "labels": {"compose-rl/test": "true"}}}
    admin.core.create_namespace(metadata)
    secret = {"metadata": {"name": "compose-rl-storage"}, "stringData": storage}
    admin.core.create_namespaced_secret(namespace, secret)
    token = _launcher(admin, namespace)
    kubeconfig = write_kubeconfig(folder / "kubeconfig", {"token": token}, namespace)
    environment = {**storage, "KUBECONFIG": str(kubeconfig), "COMPOSE_RL_CACHE": str(folder / "cache")}
    return Space(
        admin=admin,
        namespace=namespace,
        kubeconfig=kubeconfig,
        storage=f"{bucket}/{namespace}",
        environment=environment,
    )


def _launcher(admin: Admin, namespace: str) -> str:
    """A service account under the shipped Role; its token."""
    admin.core.create_namespaced_service_account(namespace, {"metadata": {"name": LAUNCHER}})
    role = shipped_role()
    admin.rbac.create_namespaced_role(namespace, role)
    group = "rbac.authorization.k8s.io"
    binding = {
        "metadata": {"name": LAUNCHER},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": role["metadata"]["name"]},
        "subjects": [{"kind": "ServiceAccount", "name": LAUNCHER, "namespace": namespace}],
    }
    admin.rbac.create_namespaced_role_binding(namespace, binding)
    request = {"spec": {"expirationSeconds": 7200}}
    return admin.core.create_namespaced_service_account_token(LAUNCHER, namespace, request).status.token


def shipped_role() -> Object:
    """The launcher's Role of manifests/base, for whatever namespace."""
    documents = yaml.safe_load_all(ROLE.read_text())
    (role,) = [document for document in documents if document["kind"] == "Role"]
    return role
