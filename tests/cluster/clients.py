"""The cluster as its administrator sees and changes it."""

from __future__ import annotations

from typing import Any

from kubernetes import client, config
from places import ADMIN

GROUP = ("kubeflow.org", "v1")
PYTORCHJOBS = "pytorchjobs"
Object = dict[str, Any]


class Admin:
    """``core``, ``rbac`` and ``custom`` are the client library's own; objects here are dictionaries."""

    def __init__(self) -> None:
        self._client = config.new_client_from_config(str(ADMIN))
        self.core = client.CoreV1Api(self._client)
        self.rbac = client.RbacAuthorizationV1Api(self._client)
        self.custom = client.CustomObjectsApi(self._client)
        self.definitions = client.ApiextensionsV1Api(self._client)

    def jobs(self, namespace: str) -> list[Object]:
        """The PyTorchJobs, oldest first."""
        found = self.custom.list_namespaced_custom_object(*GROUP, namespace, PYTORCHJOBS)["items"]
        return sorted(found, key=lambda job: (job["metadata"]["creationTimestamp"], job["metadata"]["name"]))

    def create_job(self, namespace: str, job: Object) -> Object:
        return self.custom.create_namespaced_custom_object(*GROUP, namespace, PYTORCHJOBS, job)

    def patch_job(self, namespace: str, name: str, patch: Object) -> None:
        self.custom.patch_namespaced_custom_object(*GROUP, namespace, PYTORCHJOBS, name, patch)

    def write_job_status(self, namespace: str, name: str, status: Object) -> None:
        body = {"status": status}
        self.custom.patch_namespaced_custom_object_status(*GROUP, namespace, PYTORCHJOBS, name, body)

    def delete_job(self, namespace: str, name: str) -> None:
        self.custom.delete_namespaced_custom_object(*GROUP, namespace, PYTORCHJOBS, name)

    def pods(self, namespace: str) -> list[Object]:
        """Every pod that is not on its way out."""
        return [pod for pod in self.all_pods(namespace) if "deletionTimestamp" not in pod["metadata"]]

    def all_pods(self, namespace: str) -> list[Object]:
        """Every pod that still takes room."""
        return self._client.sanitize_for_serialization(self.core.list_namespaced_pod(namespace).items)

    def write_pod_status(self, namespace: str, name: str, status: Object) -> None:
        self.core.patch_namespaced_pod_status(name, namespace, {"status": status})
