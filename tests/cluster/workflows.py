"""Runs of pipelines as far as a launcher sees them: a Workflow, and the pod of a step that it owns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clients import Admin, Object
from kubernetes import client
from launching import Launcher, Launchers
from space import Space

GROUP = ("argoproj.io", "v1alpha1")
PLURAL = "workflows"
NAME = f"{PLURAL}.{GROUP[0]}"
SOMEBODY_ELSES = {"workflows.argoproj.io/controller-instanceid": "compose-rl-test"}
"""A controller that happens to run takes no notice of these."""
RUN = "pipeline/runid"


@contextmanager
def workflows_served(admin: Admin) -> Iterator[None]:
    """Argo's Workflows as a kind, without Argo; its own definition where that is installed."""
    installed = [found.metadata.name for found in admin.definitions.list_custom_resource_definition().items]
    if NAME in installed:
        yield
        return
    names = {"kind": "Workflow", "listKind": "WorkflowList", "plural": PLURAL, "singular": "workflow"}
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    version = {"name": GROUP[1], "served": True, "storage": True, "schema": schema}
    spec = {"group": GROUP[0], "scope": "Namespaced", "names": names, "versions": [version]}
    admin.definitions.create_custom_resource_definition({"metadata": {"name": NAME}, "spec": spec})
    try:
        yield
    finally:
        admin.definitions.delete_custom_resource_definition(NAME)


class Run:
    """A run of a pipeline."""

    def __init__(self, space: Space, name: str) -> None:
        self.space, self.name = space, name
        body = {
            "apiVersion": "/".join(GROUP),
            "kind": "Workflow",
            "metadata": {"name": name, "labels": {**SOMEBODY_ELSES, RUN: f"run-of-{name}"}},
            "spec": {},
        }
        found = self._until_served(body)
        self.uid: str = found["metadata"]["uid"]
        self._pods = 0

    def _until_served(self, body: Object) -> Object:
        end = time.monotonic() + 30
        while True:
            try:
                return self._custom.create_namespaced_custom_object(
                    *GROUP, self.space.namespace, PLURAL, body
                )
            except client.ApiException as error:
                if error.status != 404 or time.monotonic() > end:
                    raise
            time.sleep(0.1)

    @property
    def _custom(self) -> Any:
        return self.space.admin.custom

    @property
    def reference(self) -> Object:
        """As it stands among the owners of a job."""
        version = "/".join(GROUP)
        found = {"apiVersion": version, "kind": "Workflow", "name": self.name, "uid": self.uid}
        return {**found, "controller": False, "blockOwnerDeletion": False}

    def finish(self, phase: str = "Failed") -> None:
        place = (*GROUP, self.space.namespace, PLURAL, self.name)
        self._custom.patch_namespaced_custom_object(*place, {"status": {"phase": phase}})

    def remove(self) -> None:
        self._custom.delete_namespaced_custom_object(*GROUP, self.space.namespace, PLURAL, self.name)

    def pod(self) -> dict[str, str]:
        """A pod of the run; the environment that KFP gives its container."""
        self._pods += 1
        name = f"{self.name}-impl-{self._pods}"
        owner = {**self.reference, "controller": True}
        metadata = {"name": name, "labels": {RUN: f"run-of-{self.name}"}, "ownerReferences": [owner]}
        containers = [{"name": "main", "image": "docker.io/local/none:1"}]
        spec = {"schedulerName": "by-hand", "containers": containers}
        body = {"metadata": metadata, "spec": spec}
        found = self.space.admin.core.create_namespaced_pod(self.space.namespace, body)
        return {"KFP_POD_NAME": name, "KFP_POD_UID": found.metadata.uid}

    def step(self, launchers: Launchers, config: dict[str, Any] | None = None, **resources: Any) -> Launcher:
        """A step of the run, in a pod of its own: again, it is what KFP does when it tries again."""
        return launchers.toy(config, env=self.pod(), **resources)

    def killed_step(self, launchers: Launchers) -> None:
        """A step whose launcher has made a job and was killed."""
        launcher = self.step(launchers)
        launcher.until(lambda: self.space.jobs, "a job")
        launcher.kill()
