"""The kinds of objects that the launcher speaks of, and where the API has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

__all__ = [
    "EVENTS",
    "JOBS",
    "LOCAL_QUEUES",
    "NODES",
    "PODS",
    "PYTORCHJOBS",
    "SECRETS",
    "SELF_SUBJECT_ACCESS_REVIEWS",
    "SERVICES",
    "TRAINING_RUNTIMES",
    "TRAINJOBS",
    "WORKFLOWS",
    "WORKLOADS",
    "Object",
    "Resource",
]

Object = dict[str, Any]
"""An object as the API gives it."""


@dataclass(frozen=True)
class Resource:
    """A kind of object."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    namespaced: bool = True
    comes_with: str = "Kubernetes"
    """What has to be installed for the API to know it."""

    @property
    def full_name(self) -> str:
        """As RBAC and kubectl write it: ``pytorchjobs.kubeflow.org``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The path of a URL."""
        start = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced else ""
        rest = [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join([f"{start}{scope}/{self.plural}", *rest])


PODS = Resource("", "v1", "pods")
EVENTS = Resource("", "v1", "events")
SECRETS = Resource("", "v1", "secrets")
SERVICES = Resource("", "v1", "services")
JOBS = Resource("batch", "v1", "jobs")
NODES = Resource("", "v1", "nodes", namespaced=False)
PYTORCHJOBS = Resource("kubeflow.org", "v1", "pytorchjobs", comes_with="the Kubeflow training operator 1.9")
TRAINJOBS = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", comes_with="Kubeflow Trainer 2")
TRAINING_RUNTIMES = Resource(
    "trainer.kubeflow.org", "v1alpha1", "trainingruntimes", comes_with="Kubeflow Trainer 2"
)
WORKFLOWS = Resource("argoproj.io", "v1alpha1", "workflows", comes_with="Argo Workflows (Kubeflow Pipelines)")
LOCAL_QUEUES = Resource("kueue.x-k8s.io", "v1beta1", "localqueues", comes_with="Kueue")
WORKLOADS = Resource("kueue.x-k8s.io", "v1beta1", "workloads", comes_with="Kueue")
SELF_SUBJECT_ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", namespaced=False
)
