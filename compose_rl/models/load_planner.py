"""Compose RL's ``actor_critic_load_planner``: from a sharded checkpoint without a critic to one with it."""

from __future__ import annotations

import logging
from typing import Any

from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata

from compose_rl.models.critic import is_critic

__all__ = ["ActorCriticLoadPlanner"]

log = logging.getLogger(__name__)

_MODEL = "state.model.model."
_BACKBONE = "lm_backbone."
"""Compose RL's actor-critic models keep their language model under this name."""


class ActorCriticLoadPlanner(DefaultLoadPlanner):
    """Loads LLM Foundry's checkpoints, and those of Compose RL's actor-critic models, by their names.

    A critic that the checkpoint lacks stays as it is.
    """

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        super().set_up_planner(state_dict, metadata, is_coordinator)
        assert metadata is not None
        saved = metadata.state_dict_metadata
        wanted: dict[str, Any] = {}
        for name, value in self.state_dict.items():
            other = name.replace(_MODEL, _MODEL + _BACKBONE, 1)
            if name in saved or other not in saved:
                wanted[name] = value
            else:
                wanted[other] = value
                self.mappings[other] = self.mappings[name]
        fresh = [name for name in wanted if name not in saved and is_critic(name)]
        # A part of a critic that is missing is an error, as of anything else.
        if fresh and len(fresh) == sum(map(is_critic, wanted)):
            log.warning("the checkpoint has no critic: it starts from its own start")
            wanted = {name: value for name, value in wanted.items() if name not in fresh}
        self.state_dict = wanted
