"""One iteration after the other: answers, rewards, log-probabilities, advantages, what the update reads."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from composer.core import State, TimeUnit
from torch import Tensor

from compose_rl.config.online_rl import OnlineVariables
from compose_rl.config.schema import parse
from compose_rl.core.kl_controllers import KL_CONTROLLERS
from compose_rl.data.experience import Experience
from compose_rl.errors import UserError
from compose_rl.models.online import OnlineRL
from compose_rl.progress import Progress
from compose_rl.training.online.answers import Answers, everyone, share
from compose_rl.training.online.collect import PHASES, Collector, Seconds
from compose_rl.training.online.engine import Engine
from compose_rl.training.online.experience import Needs, build_experience, kl_place, needs_of
from compose_rl.training.online.figures import iteration_figures, iteration_line
from compose_rl.training.online.limits import check_limits, check_settings
from compose_rl.training.online.logprobs import Group, measure
from compose_rl.training.online.parts import make_rewards, sampling_of
from compose_rl.training.online.reference import Reference
from compose_rl.training.online.state import LoopState
from compose_rl.training.unwrapped import model_of_kind

__all__ = ["Loop"]


class Loop:
    """What :class:`compose_rl.training.online.callback.OnPolicyRL` does at an iteration's start.

    Args: those of the callback.
    """

    def __init__(
        self,
        document: Mapping[str, Any],
        progress: Progress,
        *,
        vstar: str | None,
        reward_model: str | None,
        use_load_path: bool,
        logs: str | None,
    ) -> None:
        self.variables = parse(OnlineVariables, document.get("variables") or {}, "variables")
        self._document = document
        self._progress = progress
        self._vstar = read_vstar(vstar) if vstar else None
        self._reward_model = Path(reward_model) if reward_model else None
        self._logs = Path(logs or tempfile.mkdtemp(prefix="rollout-"))
        self._reference = Reference(document, use_load_path=use_load_path)
        self._controller = KL_CONTROLLERS[self.variables.kl_controller.kl_ctl_type](
            self.variables.kl_controller
        )
        self._experience: Experience | None = None
        self._figures: dict[str, float] = {}
        self._engine: Engine | None = None
        self._rewards: Any = None

    def start(self, state: State) -> None:
        """Make engine and rewards, now that model and data are there."""
        policy = policy_of(state)
        self.settings = policy.settings
        check_settings(self.variables, policy)
        policy.temperature = self.variables.generation_kwargs.temperature
        self._policy = policy
        self._loader = state.train_dataloader
        sampling = sampling_of(self.variables, policy)
        check_limits(self._loader.prompts.longest, sampling, policy.model)
        self._rewards = make_rewards(
            self.variables,
            policy.tokenizer,
            reward_model=self._reward_model,
            code_paths=self._document.get("code_paths"),
        )
        self._engine = Engine(
            self._document, self.variables, policy, state, logs=self._logs, say=self._progress.say
        )
        self._collector = Collector(
            self.variables,
            self._loader.prompts,
            self._engine,
            self._rewards,
            policy.tokenizer,
            sampling,
            seed=int(self._document["seed"]),
            progress=self._progress,
        )

    def collect(self, state: State, loop: LoopState, seconds: Seconds) -> tuple[Answers, dict[str, float]]:
        """Fill the buffer with an iteration's answers; what is logged of them."""
        assert self._engine is not None
        iteration = int(state.timestamp.iteration)
        if loop.measured_kl is not None:
            self._controller.update(loop.measured_kl, self.variables.samples)
        ready = self._engine.take_ready(self._collector)
        figures = self._engine.push(state, iteration, seconds)
        before = loop.taken - (len(ready[0].prompts) if ready else 0)
        groups, loop.taken = self._collector.collect(loop.taken, iteration, seconds, ready)
        if self.variables.dynamic_sampling is not None:
            figures["rollout/asked"] = float(loop.taken - before)
        answers = Answers(groups)
        started = time.monotonic()
        unmoved = int(state.timestamp.batch) == 0 and self._reference.is_policys_start
        needs = needs_of(self.settings, self.variables, unmoved=unmoved)
        measured = self._measure(state, answers, needs)
        compares = kl_place(self.settings, self.variables) is not None or self.settings.loss_type == "apo"
        if unmoved and compares and "old_logps" in measured:
            measured["ref_logps"] = measured["old_logps"].clone()
        seconds.add("logprobs", started)
        coef = self._controller.coef
        self._experience, per_token = build_experience(
            answers, measured, self.settings, self.variables, kl_coef=coef, vstar=self._values_of(answers)
        )
        figures |= iteration_figures(answers, per_token)
        if unmoved and compares:
            figures.setdefault("rollout/kl", 0.0)
        loop.measured_kl = figures.get("rollout/kl")
        loop.controller = self._controller.state_dict()
        loop.stopped = False
        oldest = min(completion.version for completion in answers.completions)
        figures |= {"rollout/kl_coef": coef, "rollout/staleness": float(iteration - oldest)}
        self._loader.buffer = self._experience
        if self.variables.max_staleness and _another_follows(state, self.variables):
            count = self.variables.num_unique_prompts_per_iter
            self._engine.start_next(self._collector, loop.taken, count, iteration + 1)
            loop.taken += count
        self._figures = figures
        return answers, figures

    def _measure(self, state: State, answers: Answers, needs: Needs) -> dict[str, Tensor]:
        """float32 [A] over all ranks' answers; each rank runs its part."""
        own = share(len(answers.groups))
        groups = [
            Group(tuple(group.prompt.tokens), tuple(one.tokens for one in group.completions))
            for group in answers.groups[own]
        ]
        passes = ("policy",) * bool(needs.of_policy) + ("reference",) * needs.reference
        total = len(passes) * sum(len(group.answers) for group in groups)
        found: dict[str, list[Tensor]] = {}
        with self._progress.phase("log-probs", total=total, unit="answers", brief=True) as phase:
            arguments: dict[str, Any] = {
                "temperature": self._policy.temperature,
                "token_budget": self._document["train_loader"].get("token_budget"),
                "done": phase.advance,
            }
            if needs.of_policy:
                figures = measure(state, self._policy.model, groups, needs.of_policy, **arguments)
                found |= {f"old_{name}": values for name, values in figures.items()}
            if needs.reference:
                with self._reference.of(state, self._policy) as model:
                    found["ref_logps"] = measure(state, model, groups, ("logps",), **arguments)["logps"]
        return {name: torch.cat(everyone(values)) for name, values in found.items()}

    def _values_of(self, answers: Answers) -> Tensor | None:
        """V* of the prompts [P], for ``apo``."""
        if self.settings.loss_type != "apo":
            return None
        if self._vstar is not None:
            return self._vstar[torch.tensor([prompt.index for prompt in answers.prompts])]
        if any("vstar" not in prompt.columns for prompt in answers.prompts):
            raise UserError(
                "loss_type='apo' needs the optimal value of each prompt: the data has no column 'vstar';"
                " run the stage vstar, or add the column"
            )
        return torch.tensor([float(prompt.columns["vstar"]) for prompt in answers.prompts])

    def stop_iteration(self) -> None:
        """Leave out the passes that are left."""
        self._loader.buffer = None

    def forget(self) -> None:
        """The iteration is over: its answers are no part of a state any more."""
        self._experience = self._loader.buffer = None

    def turn(self, state: State) -> None:
        """A pass begins."""
        self._loader.turn(int(state.timestamp.iteration), int(state.timestamp.epoch_in_iteration))

    def bytes_of_answers(self) -> dict[str, bytes]:
        """What a state holds of this iteration's answers and of those that are under way."""
        return {
            "experience": self._experience.to_bytes() if self._experience is not None else b"",
            "ready": self._engine.ready_bytes() if self._engine is not None else b"",
        }

    def restore(self, state: State, loop: LoopState, saved: Mapping[str, Any]) -> None:
        """Go on where a state was saved."""
        assert self._engine is not None
        if loop.controller:
            self._controller.load_state_dict(loop.controller)
        self._engine.restore_ready(saved["ready"])
        timestamp = state.timestamp
        if saved["experience"] and (timestamp.epoch_in_iteration > 0 or timestamp.batch_in_epoch > 0):
            self._experience = Experience.from_bytes(saved["experience"])
            self._loader.buffer = None if loop.stopped else self._experience
            self.turn(state)

    def line(self, iteration: int, seconds: Seconds) -> str:
        """What the log says of the iterations done."""
        spent = {name: seconds.spent[name] for name in PHASES if name in seconds.spent}
        return iteration_line(iteration, self._figures, spent)

    def close(self) -> None:
        for part in (self._engine, self._rewards):
            if part is not None:
                part.close()


def _another_follows(state: State, variables: OnlineVariables) -> bool:
    """Another iteration begins when this one ends."""
    duration, now = state.max_duration, state.timestamp
    assert duration is not None
    left = {
        TimeUnit.ITERATION: 1,
        TimeUnit.EPOCH: variables.epoch_per_iteration,
        TimeUnit.BATCH: variables.epoch_per_iteration * variables.num_batches_per_update,
    }.get(duration.unit)
    # Of tokens or samples nobody knows how many there will be.
    return left is None or now.get(duration.unit).value + left < duration.value


def read_vstar(path: str) -> Tensor:
    """The stage vstar's values, float32 by index of the prompt."""
    from safetensors.torch import load_file

    return load_file(path)["vstar"]


def policy_of(state: State) -> Any:
    """The Composer model; raises UserError where it is no model of online RL."""
    names = "hf_actor_critic_lm, hf_critic_free_lm and mpt_actor_critic_lm"
    return model_of_kind(state, OnlineRL, callback="on_policy_rl", names=names)
