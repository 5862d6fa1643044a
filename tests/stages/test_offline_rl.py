"""Offline preference optimisation as a stage, with its reference given or computed beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import tiny_training as tiny
import torch
from safetensors.torch import load_file

from compose_rl.errors import UserError
from compose_rl.stages.spec import load
from compose_rl.store.manifest import Manifest

Run = Callable[..., Manifest]

CONFIG: dict[str, Any] = {
    "max_duration": "4ba",
    "global_train_batch_size": 8,
    "device_train_microbatch_size": 8,
    "device_eval_batch_size": 8,
    "eval_interval": "4ba",
    "optimizer": {"lr": 0.003},
    "scheduler": {"name": "constant_with_warmup", "t_warmup": "0ba"},
}
LORA = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": "all-linear",
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    rows = tiny.preference_rows(48)
    data = tiny.data_manifest(tmp_path_factory.mktemp("pairs"), "preference", rows[:32], rows[32:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


@pytest.fixture(scope="module")
def singles(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    rows = tiny.unpaired_rows(24)
    data = tiny.data_manifest(tmp_path_factory.mktemp("singles"), "unpaired_preference", rows[:16], rows[16:])
    return {"model": tiny.model_manifest(tiny_model), "data": data}


@pytest.fixture(scope="module")
def run(storage: Path, pairs: dict[str, Manifest]) -> Run:
    """Run the stage on ``inputs`` (the pairs) with settings over ``CONFIG``, once for equal ones."""

    def run_stage(inputs: dict[str, Manifest] | None = None, **overrides: Any) -> Manifest:
        return tiny.run_stage("offline_rl", CONFIG | overrides, inputs or pairs, storage)

    return run_stage


@pytest.fixture(scope="module")
def plain(run: Run) -> Manifest:
    return run()


def close(curve: list[float]) -> Any:
    return pytest.approx(curve, rel=1e-5, abs=1e-5)


def test_dpo_starts_at_log_2_and_learns(run: Run) -> None:
    result = run(max_duration="16ba", eval_interval="16ba")
    losses = tiny.curve(result)
    # Policy and reference are equal before the first step: -log sigma(0).
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses[-1] < 0.6
    assert {f"metrics/eval/{name}" for name in ("loss", "accuracy", "margin")} <= set(result.metrics)
    assert result.info["loss_type"] == "dpo"
    assert result.info["steps"] == 16


def test_the_same_seed_gives_the_same_bits_whatever_is_only_watched(
    plain: Manifest, pairs: dict[str, Manifest], tmp_path: Path
) -> None:
    neutral = {
        "eval_interval": "1ba",
        "eval_first": True,
        "save_interval": "1ba",
        "save_num_checkpoints_to_keep": 2,
        "loggers": {"inmemory": {}},
        "run_name": "another",
        "metadata": {"who": "me"},
        "flatten_metadata": False,
        "log_config": True,
        "log_to_console": True,
        "console_log_interval": "2ba",
        "python_log_level": "error",
        "dist_timeout": 300.0,
        "expandable_segments": False,
        "cuda_load_lazy": True,
        "max_split_size_mb": 512,
        "callbacks": {name: {} for name in ("lr_monitor", "memory_monitor", "runtime_estimator")}
        | {"speed_monitor": {"window_size": 1}, "scheduled_gc": {"batch_interval": 2}},
        "train_loader": {
            "pin_memory": False,
            "prefetch_factor": 4,
            "persistent_workers": False,
            "timeout": 0,
        },
    }
    other = tiny.run_stage("offline_rl", CONFIG | neutral, pairs, tmp_path)
    assert other.key == plain.key
    expected, found = tiny.weights(plain), tiny.weights(other)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    "split", [{"device_train_microbatch_size": 3}, {"train_loader": {"token_budget": 70}}]
)
@pytest.mark.parametrize("loss_type", ["dpo", "kto"])
def test_how_a_batch_is_cut_changes_nothing(run: Run, split: dict[str, Any], loss_type: str) -> None:
    model = {"loss_type": loss_type}
    assert tiny.curve(run(model=model, **split)) == close(tiny.curve(run(model=model)))


def test_the_reference_of_its_own_stage_equals_the_one_beside_training(
    plain: Manifest, run: Run, storage: Path, pairs: dict[str, Manifest]
) -> None:
    reference = tiny.run_stage("reference_logprobs", {"token_budget": 100}, pairs, storage)
    result = run(pairs | {"reference": reference})
    assert tiny.curve(result) == close(tiny.curve(plain))
    assert result.metrics["metrics/eval/loss"] == pytest.approx(plain.metrics["metrics/eval/loss"], abs=1e-5)


@pytest.mark.parametrize("loss_type", ["ipo", "rpo", "rcdpo", "rebel"])
def test_every_loss_trains(run: Run, loss_type: str) -> None:
    result = run(model={"loss_type": loss_type, "sft_alpha": 0.1}, max_duration="2ba")
    assert len(tiny.curve(result)) == 2


def test_kto_on_single_completions(run: Run, storage: Path, singles: dict[str, Manifest]) -> None:
    model = {"loss_type": "kto", "desirable_weight": 1.5}
    online = run(singles, model=model)
    # No log-ratio before the first step: sigma(0) times the mean weight of the two kinds.
    assert tiny.curve(online)[0] == pytest.approx(0.5 * (1.5 + 1.0) / 2, abs=1e-5)
    reference = tiny.run_stage("reference_logprobs", {"mismatched": True}, singles, storage)
    given = run(singles | {"reference": reference}, model=model)
    assert tiny.curve(given) == close(tiny.curve(online))
    assert tiny.curve(given, "loss/train/kto_kl") == close(tiny.curve(online, "loss/train/kto_kl"))


def test_lora_trains_the_adapter_against_the_base(run: Run, tiny_model: Path) -> None:
    result = run(model={"peft_config": LORA})
    losses = tiny.curve(result)
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert losses[-1] != pytest.approx(losses[0], abs=1e-6)
    trained = tiny.weights(result)
    base = load_file(tiny_model / "model.safetensors")["lm_head.weight"]
    assert torch.equal(trained["model.base_model.model.lm_head.weight"], base)
    assert any("lora_B" in name and value.any() for name, value in trained.items())


def test_padded_rows_give_the_same_curve(plain: Manifest, run: Run) -> None:
    assert tiny.curve(run(model={"packed": False})) == close(tiny.curve(plain))


def test_a_loss_that_is_no_number_stops_the_stage(run: Run) -> None:
    with pytest.raises(UserError, match=r"loss/train/total is (nan|inf).* at batch \d+ .*lower optimizer.lr"):
        run(optimizer={"lr": 1e30}, max_duration="8ba")


def refused(document: dict[str, Any], inputs: dict[str, Manifest]) -> str:
    with pytest.raises(UserError) as error:
        load("offline_rl").parse(CONFIG | document, inputs)
    return str(error.value)


def changed(manifest: Manifest, **info: Any) -> Manifest:
    return manifest.model_copy(update={"info": manifest.info | info})


def test_what_is_refused_before_anything_heavy(
    pairs: dict[str, Manifest], singles: dict[str, Manifest]
) -> None:
    bare = pairs | {"data": changed(pairs["data"], has_rewards=False)}
    assert "needs the columns 'chosen_reward'" in refused({"model": {"loss_type": "rebel"}}, bare)
    assert "unpaired_preference" in refused({}, singles)
    small = pairs | {"model": changed(pairs["model"], vocab_size=tiny.VOCAB - 1)}
    assert "has 63 tokens and the data's tokenizer 64" in refused({}, small)
    assert "did you mean 'beta'" in refused({"model": {"betaa": 1}}, pairs)
    assert "did you mean 'optimizer'" in refused({"optimiser": {}}, pairs)
    assert "did you mean 'token_budget'" in refused({"train_loader": {"token_budgett": 1}}, pairs)
    assert "did you mean 'shuffle'" in refused({"train_loader": {"dataset": {"shufle": True}}}, pairs)
    assert "'load_path' is set by the stage" in refused({"load_path": "x"}, pairs)
    assert "max_seq_len=8" in refused({"max_seq_len": 8}, pairs)
    assert "only 32 training samples" in refused({"global_train_batch_size": 33}, pairs)


def test_a_reference_of_something_else_is_refused(
    run: Run, storage: Path, pairs: dict[str, Manifest], singles: dict[str, Manifest]
) -> None:
    reference = tiny.run_stage("reference_logprobs", {"token_budget": 100}, pairs, storage)
    given = pairs | {"reference": reference}
    assert "temperature=2.0" in refused({"model": {"temperature": 2.0}}, given)
    assert "mismatched: true" in refused({"model": {"loss_type": "kto"}}, given)
    another = pairs["model"].model_copy(update={"key": "f" * 64})
    assert "another 'model'" in refused({}, given | {"model": another})


def test_the_document_as_it_was_run_is_kept(plain: Manifest) -> None:
    assert "pretrained_model_name_or_path" in (Path(plain.output("logs").uri) / "train.yaml").read_text()
    lines = (Path(plain.output("curves").uri) / "curves.jsonl").read_text().splitlines()
    assert set(json.loads(lines[0])) == {"batch", "epoch", "tokens", "seconds", "metrics"}
    assert torch.isfinite(torch.tensor(list(plain.metrics.values()))).all()
