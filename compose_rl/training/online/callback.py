"""``on_policy_rl`` (``ppo``): the loop of online RL around Composer's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from composer.core import State, Time, TimeUnit
from composer.loggers import Logger
from composer.utils import dist
from llmfoundry.interfaces import CallbackWithConfig

from compose_rl.progress import Progress
from compose_rl.training.online.collect import Seconds
from compose_rl.training.online.figures import sample_lines, write_samples
from compose_rl.training.online.loop import Loop
from compose_rl.training.online.state import LoopState
from compose_rl.training.online.tables import log_samples

__all__ = ["OnPolicyRL"]


class OnPolicyRL(CallbackWithConfig):
    """Composer's *iteration* is one of the loop's: at its start answers are collected, then its *epochs* are
    passes over them, and a *batch* is an optimizer step. See docs/architecture.md, "Online RL".

    Its state is part of Composer's: a run that was killed at any moment goes on with the same prompts,
    answers and random numbers.

    Args:
        train_config: the document, given by LLM Foundry; ``variables`` has the loop's settings.
        samples: where samples.jsonl is written.
        vstar: optimal values of the prompts (vstar.safetensors), for ``apo``.
        reward_model: folder of the exported reward model that the reward ``reward_model`` runs.
        use_load_path: False where ``load_path`` is training state to resume from and not where the policy
            starts.
        logs: folder for what servers print; by default a temporary one.
        name: stands in front of every line of progress.
    """

    def __init__(
        self,
        train_config: dict[str, Any],
        samples: str | None = None,
        vstar: str | None = None,
        reward_model: str | None = None,
        use_load_path: bool = True,
        logs: str | None = None,
        name: str = "online_rl",
    ) -> None:
        self._progress = Progress(name, quiet=dist.get_global_rank() != 0)
        self._samples = Path(samples) if samples else None
        self._loop = Loop(
            train_config,
            self._progress,
            vstar=vstar,
            reward_model=reward_model,
            use_load_path=use_load_path,
            logs=logs,
        )
        self._state = LoopState()
        self._restored: dict[str, Any] | None = None
        self._seconds = Seconds()
        self._started = self._training = 0.0

    # -- Composer's state

    def state_dict(self) -> dict[str, Any]:
        # A fixed number of values, since sharded states are read into the shape of what is there.
        return {"loop": self._state.to_json(), **self._loop.bytes_of_answers()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = LoopState.from_json(state["loop"])
        self._restored = state

    # -- events

    def init(self, state: State, logger: Logger) -> None:
        state._iteration_length = Time(self._loop.variables.epoch_per_iteration, TimeUnit.EPOCH)

    def fit_start(self, state: State, logger: Logger) -> None:
        _end_iteration(state)
        self._loop.start(state)
        if self._restored is not None:
            self._loop.restore(state, self._state, self._restored)
            self._restored = None
        self._started = self._training = time.monotonic()

    def iteration_start(self, state: State, logger: Logger) -> None:
        self._started = time.monotonic()
        self._seconds = Seconds()
        iteration = int(state.timestamp.iteration)
        answers, figures = self._loop.collect(state, self._state, self._seconds)
        logger.log_metrics(figures)
        lines = sample_lines(answers, iteration, self._loop.variables.num_logged_samples)
        self._state.samples += lines
        log_samples(logger, lines, iteration)
        if self._samples is not None and dist.get_global_rank() == 0:
            write_samples(self._samples, self._state.samples)
        self._training = time.monotonic()

    def epoch_start(self, state: State, logger: Logger) -> None:
        self._state.policy_kl = []
        self._loop.turn(state)

    def batch_end(self, state: State, logger: Logger) -> None:
        self._state.policy_kl.append(state.total_loss_dict["loss/train/policy_kl"])
        if state.timestamp.batch_in_epoch == self._loop.variables.num_batches_per_update:
            now = time.monotonic()
            self._seconds.spent |= {"train": now - self._training, "iteration": now - self._started}
            logger.log_metrics({f"seconds/{name}": value for name, value in self._seconds.spent.items()})

    def epoch_end(self, state: State, logger: Logger) -> None:
        target = self._loop.settings.target_kl
        moved = self._state.policy_kl
        if target is not None and moved and sum(moved) / len(moved) > 1.5 * target:
            self._state.stopped = True
            self._loop.stop_iteration()

    def iteration_end(self, state: State, logger: Logger) -> None:
        self._loop.forget()
        self._progress.say(self._loop.line(int(state.timestamp.iteration), self._seconds))

    def close(self, state: State, logger: Logger) -> None:
        self._loop.close()


def _end_iteration(state: State) -> None:
    """Composer saves at an epoch's end before it counts the iteration that ends with it."""
    length = state._iteration_length
    if length is not None and state.timestamp.epoch_in_iteration >= length:
        state.timestamp = state.timestamp.to_next_iteration()
