"""The loader inside Composer's trainer: passes, and a resume at any batch, see the same minibatches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from composer import Callback, ComposerModel, Trainer
from composer.core import DataSpec, State
from composer.loggers import Logger
from streaming import MDSWriter
from test_experience import experience
from test_prompts import tokens

from compose_rl.data.encoding import load_tokenizer
from compose_rl.data.experience import Experience
from compose_rl.data.rollout_loader import PROMPT_DATALOADERS, RolloutLoader
from compose_rl.errors import UserError

ANSWERS, SIZE, PASSES = 12, 4, 2


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer: Path) -> Any:
    return load_tokenizer(small_tokenizer)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asked") / "train"
    with MDSWriter(out=str(folder), columns={"prompt": "bytes"}) as writer:
        for number in range(7):
            writer.write({"prompt": tokens(50 + number)})
    return folder


def build(folder: Path, tokenizer: Any, name: str = "prompt", batch: float = SIZE, **keys: Any) -> DataSpec:
    dataset = {"local": str(folder), "max_seq_len": 16, "max_gen_len": 4} | keys.pop("dataset", {})
    return PROMPT_DATALOADERS[name](tokenizer, batch, dataset=dataset, **keys)


class Recorder(ComposerModel):
    """Keeps what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[list[int], list[float]]] = []

    def forward(self, batch: Any) -> Any:
        self.seen.append((batch["index"].tolist(), batch["answer_rewards"].flatten().tolist()))
        return self.weight * batch["answer_rewards"].mean()

    def loss(self, outputs: Any, batch: Any) -> Any:
        return outputs


class Loop(Callback):
    """Answers prompts with the number of the iteration, as the real loop does with an engine."""

    def __init__(self, loader: RolloutLoader) -> None:
        self.loader = loader

    def init(self, state: State, logger: Logger) -> None:
        state._iteration_length = f"{PASSES}ep"

    def after_load(self, state: State, logger: Logger) -> None:
        self._turn(state)

    def iteration_start(self, state: State, logger: Logger) -> None:
        asked = self.loader.prompts.take(ANSWERS // 2)
        made = experience(2, [1] * len(asked), [2] * ANSWERS)
        number = int(state.timestamp.iteration)
        self.loader.buffer = Experience(
            **vars(made)
            | {
                "prompt_index": torch.tensor([prompt.index for prompt in asked]),
                "answer_rewards": made.answer_rewards + 100 * number,
            }
        )

    def epoch_start(self, state: State, logger: Logger) -> None:
        self._turn(state)

    def _turn(self, state: State) -> None:
        self.loader.turn(int(state.timestamp.iteration), int(state.timestamp.epoch_in_iteration))

    def state_dict(self) -> dict[str, Any]:
        assert self.loader.buffer is not None
        return {"taken": self.loader.prompts.taken, "buffer": self.loader.buffer.to_bytes()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loader.prompts.taken = state["taken"]
        self.loader.buffer = Experience.from_bytes(state["buffer"])


def train(spec: DataSpec, folder: Path, duration: str, **keys: Any) -> tuple[Trainer, list[Any]]:
    model = Recorder()
    trainer = Trainer(
        model=model,
        train_dataloader=spec,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        max_duration=duration,
        callbacks=[Loop(spec.dataloader)],
        save_folder=str(folder),
        save_filename="ba{batch}.pt",
        save_interval="1ba",
        device="cpu",
        device_train_microbatch_size=SIZE,
        accumulate_train_batch_on_tokens=True,
        progress_bar=False,
        **keys,
    )
    trainer.fit()
    trainer.close()
    return trainer, model.seen


def test_a_run_that_is_resumed_after_any_batch_sees_what_is_left(
    prompts: Path, tokenizer: Any, tmp_path: Path
) -> None:
    whole, seen = train(build(prompts, tokenizer), tmp_path / "whole", "2iter")
    per_pass = ANSWERS // SIZE
    assert len(seen) == 2 * PASSES * per_pass
    assert (int(whole.state.timestamp.iteration), int(whole.state.timestamp.epoch)) == (2, 2 * PASSES)
    assert int(whole.state.timestamp.sample) == 2 * PASSES * ANSWERS
    for turn in range(2 * PASSES):
        rewards = [r for _, row in seen[turn * per_pass : (turn + 1) * per_pass] for r in row]
        assert sorted(rewards) == [number + 100 * (turn // PASSES) for number in range(ANSWERS)]
    for batch in (1, 3, 5, 7, 9):  # in a pass, at the end of one, in a later one, at an iteration's end
        path = str(tmp_path / "whole" / f"ba{batch}.pt")
        _, left = train(build(prompts, tokenizer), tmp_path / f"from{batch}", "2iter", load_path=path)
        assert left == seen[batch:], batch


def test_epochs_can_be_counted_where_their_length_is_told(
    prompts: Path, tokenizer: Any, tmp_path: Path
) -> None:
    spec = build(prompts, tokenizer, minibatches=ANSWERS // SIZE)
    assert len(spec.dataloader) == 3
    trainer, seen = train(spec, tmp_path, "3ep")
    assert len(seen) == 9
    assert int(trainer.state.timestamp.iteration) == 1


def test_there_is_nothing_without_a_buffer_and_iterating_consumes_nothing(
    prompts: Path, tokenizer: Any
) -> None:
    loader = build(prompts, tokenizer).dataloader
    assert list(loader) == []
    with pytest.raises(TypeError, match="not known before there is a buffer"):
        len(loader)
    loader.buffer = experience(2, [1] * 6, [2] * 12)
    loader.turn(1, 0)
    first = [batch["answer_rewards"].tolist() for batch in loader]
    next(iter(loader))
    assert [batch["answer_rewards"].tolist() for batch in loader] == first
    assert len(loader) == len(first) == 3
    loader.turn(1, 1)
    assert [batch["answer_rewards"].tolist() for batch in loader] != first
    assert loader.prompts.taken == 0


def test_microbatches_keep_to_the_token_budget(prompts: Path, tokenizer: Any) -> None:
    spec = build(prompts, tokenizer, token_budget=10)
    spec.dataloader.buffer = experience(2, [1] * 2, [2] * 4)
    [batch] = spec.dataloader
    assert [len(part["tokens"]) for part in spec.split_batch(batch, 100)] == [10]
    spec = build(prompts, tokenizer)
    assert [len(part["tokens"]) for part in spec.split_batch(batch, 1)] == [5, 5]
    assert spec.get_num_samples_in_batch(batch) == 4
    assert spec.get_num_tokens_in_batch(batch) == 10
    assert spec.get_num_tokens_in_batch(batch, "loss_generating") == 2


def test_the_keys_of_the_original_are_taken(prompts: Path, tokenizer: Any) -> None:
    dataset = {
        "local": str(prompts.parent),
        "split": "train",
        "shuffle": True,
        "shuffle_seed": 17,
        "predownload": 1000,
        "download_timeout": 60,
    }
    for name in ("prompt", "messages"):
        spec = build(prompts, tokenizer, name, dataset=dataset, drop_last=True, num_workers=8)
        assert len(spec.dataloader.prompts) == 7


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"curiculum": "level"}, "unknown key 'curiculum'; did you mean 'curriculum'"),
        ({"batch": 1.5}, "1.5 answers a device; give a whole number"),
        ({"dataset": {"max_gen_len": 0}}, "dataset.max_gen_len=0"),
    ],
)
def test_bad_keys_are_refused(prompts: Path, tokenizer: Any, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(prompts, tokenizer, **keys)


def test_a_tokenizer_is_needed(prompts: Path) -> None:
    with pytest.raises(UserError, match="needs a tokenizer"):
        build(prompts, None)
