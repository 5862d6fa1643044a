"""Launchers of online RL with two servers beside its trainer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import train_pods
from clients import Object
from kubernetes import client, config
from launching import Launcher, Launchers
from places import ADMIN
from space import Space

HERE = Path(__file__).parent
SERVERS = 2


class OnlineLaunchers:
    """Starts launchers of one job on a tiny policy."""

    def __init__(self, launchers: Launchers, space: Space, resources: dict[str, Any], folder: Path) -> None:
        self.launchers, self.space, self._resources = launchers, space, resources
        python = train_pods.environment_folder() / "bin/python"
        script = [str(python), str(HERE / "online_inputs.py"), str(folder / "tiny"), space.storage]
        made = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120)
        self._model, self._prompts = made.stdout.split()
        self.batch = client.BatchV1Api(config.new_client_from_config(str(ADMIN)))

    def start(self, iterations: int, *, rollout: dict[str, Any] | None = None, **engine: Any) -> Launcher:
        """Launch it; its answers are rewarded for being short.

        Args:
            rollout: resources of its servers.
            engine: settings of the engine.
        """
        variables = {
            "max_gen_len": 6,
            "generations_per_prompt": 4,
            "num_unique_prompts_per_iter": 8,
            "rewards": {"short": {"reward_type": "short_response_reward", "reward": 1.0, "len_threshold": 4}},
            "kl_controller": {"init_kl_coef": 0.0},
            "engine": {"kind": "server", "servers": SERVERS, **engine},
        }
        document = {
            "max_duration": f"{iterations}iter",
            "global_train_batch_size": 32,
            "device_train_microbatch_size": 8,
            "optimizer": {"lr": 0.01},
            "save_interval": "1000iter",
            "python_log_level": "error",
            "model": {"loss_type": "grpo"},
            "variables": variables,
        }
        fixed = {"memory": "3Gi", "lease_minutes": 0.2, "grace_minutes": 2, "rollout": rollout or {}}
        resources = {**self._resources, **fixed}
        command = [
            *[sys.executable, "-m", "compose_rl.cli", "stage", "online_rl"],
            *["--input", f"model={self._model}", "--input", f"prompts={self._prompts}"],
            *["--config", json.dumps(document), "--storage", self.space.storage],
            *["--backend", "pytorchjob", "--resources", json.dumps(resources)],
        ]
        return self.launchers.start(command, {})

    @property
    def groups(self) -> list[Object]:
        """The Jobs of servers."""
        found = self.batch.list_namespaced_job(self.space.namespace).items
        return self.batch.api_client.sanitize_for_serialization(found)

    @property
    def server_pods(self) -> list[Object]:
        return [pod for pod in self.space.pods if "-rollout-" in pod["metadata"]["name"]]
