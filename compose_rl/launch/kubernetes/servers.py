"""The rollout servers beside a job's trainers, as objects that the job owns. Pure.

An indexed Job of pods that are replaced when they are lost, a headless Service that gives each its name, and
a Secret with the token that trainers show them. docs/decisions/0007-servers-follow-their-trainers.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from compose_rl.config.resources import SHARED_MEMORY, Resources, RolloutResources
from compose_rl.config.rollouts import SERVER_BACKENDS, ServerPlan
from compose_rl.errors import EXIT_USER, UserError
from compose_rl.launch.backend import JobRequest
from compose_rl.launch.kubernetes import naming
from compose_rl.launch.kubernetes.pods import Trainer, template
from compose_rl.launch.kubernetes.resource import JOBS, SECRETS, SERVICES, Object, Resource

__all__ = ["CONTAINER", "PORT", "Servers", "server_plan", "server_resources"]

CONTAINER = "server"
PORT = 8000
_TOKEN, _URLS = "COMPOSE_RL_ROLLOUT_TOKEN", "COMPOSE_RL_ROLLOUT_URLS"
"""As :mod:`compose_rl.rollouts` reads them, which is too heavy to import here."""
_FOR_EVER = 2**31 - 1
"""How often Kubernetes may replace a pod: trainers decide when there is no use in waiting."""
_IN_VAIN = (EXIT_USER, 126, 127)
"""Exit codes with which every replacement would end."""
_START_PERIOD, _PERIOD = 5, 30
"""Seconds between two looks at a server that starts, and at one that serves."""
_NAME_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Servers:
    """The servers of one job."""

    name: str
    plan: ServerPlan
    pod: Trainer
    """What their pods have in common with the trainers', with resources of their own."""

    @classmethod
    def of(cls, request: JobRequest, trainer: Trainer) -> Servers | None:
        """The servers that go with the trainers of a request; None where it needs none.

        Raises:
            UserError: no image is known for them, or their GPUs do not fit their engine.
        """
        plan = server_plan(request)
        if plan is None:
            return None
        resources = server_resources(trainer.resources, plan)
        pod = replace(trainer, resources=resources, image=_image(resources, plan, trainer.image))
        name = f"{naming.job_name(pod.stage, pod.key, pod.number)}-rollout"
        # A job of the same name, deleted by hand, may have left its own, which go with it.
        suffix = trainer.job.rpartition("/")[0][-_NAME_DIGITS:]
        return cls(name=f"{name}-{suffix}" if suffix else name, plan=plan, pod=pod)

    def trainer_environment(self) -> list[Object]:
        """Variables with which trainers find their servers."""
        count = self.plan.engine.servers
        urls = ",".join(f"http://{self.name}-{index}.{self.name}:{PORT}" for index in range(count))
        return [{"name": _URLS, "value": urls}, self._token()]

    def objects(self, token: str, owner: Object, *, suspend: bool) -> list[tuple[Resource, Object]]:
        """What is to be created, in order.

        Args:
            owner: a reference to the trainers' job.
            suspend: start none yet.
        """
        secret: Object = {"type": "Opaque", "stringData": {"token": token}}
        service: Object = {
            "spec": {
                "clusterIP": "None",
                # Who asks looks whether a server is ready; a name that is not there is remembered for long.
                "publishNotReadyAddresses": True,
                "selector": {"batch.kubernetes.io/job-name": self.name},
                "ports": [{"name": "http", "port": PORT}],
            }
        }
        job: Object = {"spec": {**self.job_spec(), "suspend": suspend}}
        bodies = ((SECRETS, "Secret", secret), (SERVICES, "Service", service), (JOBS, "Job", job))
        metadata = {"name": self.name, "labels": self.pod.labels, "ownerReferences": [owner]}
        return [
            (resource, {"apiVersion": resource.api_version, "kind": kind, "metadata": metadata, **body})
            for resource, kind, body in bodies
        ]

    def job_spec(self) -> Object:
        """The Job's ``spec``, but for the switch that suspends it."""
        count = self.plan.engine.servers
        lost = [{"type": "DisruptionTarget", "status": "True"}]
        in_vain = {"containerName": CONTAINER, "operator": "In", "values": list(_IN_VAIN)}
        return {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": count,
            "backoffLimit": _FOR_EVER,
            # Two servers with one name would be asked in turn.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": in_vain},
                    {"action": "Ignore", "onPodConditions": lost},
                ]
            },
            "template": self._template(),
        }

    def _template(self) -> Object:
        found = template(self.pod, CONTAINER)
        found["spec"]["subdomain"] = self.name
        container = found["spec"]["containers"][0]
        words = ["python", "-m", "compose_rl.launch.server", "--job", self.pod.job, f"--port={PORT}"]
        container["command"] = words
        # Weights arrive as files, for which memory is the fastest place.
        container["env"] += [{"name": "TMPDIR", "value": SHARED_MEMORY}, self._token()]
        container["ports"] = [{"name": "http", "containerPort": PORT}]
        health = {"httpGet": {"path": "/health", "port": "http"}, "timeoutSeconds": 10}
        starts = max(1, math.ceil(self.plan.engine.start_timeout / _START_PERIOD))
        container["startupProbe"] = {**health, "periodSeconds": _START_PERIOD, "failureThreshold": starts}
        container["readinessProbe"] = {**health, "periodSeconds": _PERIOD}
        # One that hangs would answer nobody for the whole grace either.
        container["livenessProbe"] = {
            **health,
            "periodSeconds": _PERIOD,
            "failureThreshold": 4,
            "terminationGracePeriodSeconds": 5,
        }
        return found

    def _token(self) -> Object:
        return {"name": _TOKEN, "valueFrom": {"secretKeyRef": {"name": self.name, "key": "token"}}}


def server_plan(request: JobRequest) -> ServerPlan | None:
    """The servers that a request's stage generates with; None where it needs none."""
    if request.spec.servers is None:
        return None
    return request.spec.servers(request.spec.parse(request.config, request.inputs), request.inputs)


def server_resources(resources: Resources, plan: ServerPlan) -> Resources:
    """What servers ask for: as ``resources``, with what ``rollout`` says over it.

    Raises:
        UserError: a server's GPUs do not fit the engine.
    """
    own = {name: value for name, value in resources.rollout if value is not None and name != "gpus"}
    wanted, gpus = plan.engine.tensor_parallel_size, resources.rollout.gpus
    if gpus is None:
        gpus = wanted if resources.gpus_per_node else 0
    if gpus and gpus != wanted:
        raise UserError(
            f"resources: rollout.gpus={gpus}, but engine.tensor_parallel_size={wanted}: a server uses that"
            " many; set both to the same, or leave rollout.gpus out"
        )
    if resources.rollout.image is None:
        own["image"] = None
    # They live and end with their trainers.
    fixed = {"gpus_per_node": gpus, "deadline_minutes": None, "rollout": RolloutResources()}
    return resources.model_copy(update={**own, **fixed})


def _image(resources: Resources, plan: ServerPlan, trainers: str) -> str:
    _, environment = SERVER_BACKENDS[plan.engine.kind]
    if resources.image is None and environment != "train":
        raise UserError(
            f"resources: rollout.image is not set, and servers of engine.kind={plan.engine.kind} need one;"
            f" set it to the image '{environment}' (resources: {{rollout: {{image: ...}}}})"
        )
    return resources.image or trainers
