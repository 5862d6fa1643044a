"""Online RL as a stage: every algorithm on a task with a known optimum, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import online_toy as toy
import tiny_training as tiny
import torch

from compose_rl import launch
from compose_rl.errors import UserError
from compose_rl.stages.spec import load
from compose_rl.store.manifest import Manifest

Run = Callable[..., Manifest]

ACTOR_CRITIC = {"name": "hf_actor_critic_lm", "loss_type": "ppo"}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {},
    "gspo": {"model": {"loss_type": "gspo"}},
    "rloo": {"model": {"loss_type": "rloo"}},
    "cispo": {"model": {"loss_type": "cispo"}},
    "ppo": {"model": ACTOR_CRITIC, "variables": {"lambda_gae": 0.95}},
    "ppo-own-critic": {"model": ACTOR_CRITIC | {"joint_actor_critic": False}},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Manifest]:
    return toy.inputs(tmp_path_factory.mktemp("online-data"), tiny_model)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, inputs: dict[str, Manifest]) -> Run:
    """Run the stage with settings over the toy's, once for equal ones."""
    storage = tmp_path_factory.mktemp("online-store")

    def run_stage(**changed: Any) -> Manifest:
        given = inputs | changed.pop("inputs", {})
        return tiny.run_stage("online_rl", toy.config(**changed), given, storage)

    return run_stage


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_finds_the_optimum(name: str, run: Run) -> None:
    result = run(max_duration="16iter", **ALGORITHMS[name])
    rewards = tiny.curve(result, "rollout/reward")
    assert len(rewards) == 16
    assert rewards[0] < 0.4
    assert sum(rewards[-3:]) / 3 > 0.9


def test_apo_learns_from_the_values_of_its_stage(
    run: Run, inputs: dict[str, Manifest], tmp_path: Path
) -> None:
    document = {
        "answers": 4,
        "beta": 0.05,
        "max_gen_len": toy.ANSWER,
        "rewards": toy.config()["variables"]["rewards"],
    }
    vstar = tiny.run_stage("vstar", document, inputs, tmp_path)
    result = run(max_duration="30iter", model={"loss_type": "apo", "beta": 0.05}, inputs={"vstar": vstar})
    rewards = tiny.curve(result, "rollout/reward")
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.3


def test_lora_starts_from_its_base_and_moves_away_from_it(run: Run) -> None:
    lora = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "target_modules": "all-linear"}
    result = run(
        max_duration="3iter",
        model={"peft_config": lora},
        variables={"kl_controller": {"init_kl_coef": 0.1}},
    )
    kl = tiny.curve(result, "rollout/kl")
    assert kl[0] == 0.0
    assert kl[2] > kl[1] > 0
    assert result.info["peft"]


@pytest.mark.parametrize("slots", [("reward_model",), ("reward_model", "critic")])
def test_a_trained_reward_model_is_reward_and_start_of_the_critic(
    run: Run, tiny_model: Path, tmp_path: Path, slots: tuple[str, ...]
) -> None:
    judge = toy.judge(tmp_path / "judge", tiny_model)
    result = run(
        max_duration="2iter",
        model=ACTOR_CRITIC | {"joint_actor_critic": False},
        variables={"rewards": {}},
        inputs=dict.fromkeys(slots, judge),
    )
    assert len(tiny.curve(result, "rollout/rewards/reward_model")) == 2
    # A critic that starts from the judge knows more than one that starts from nothing.
    assert tiny.curve(result, "rollout/explained_variance")[0] != 0.0


@pytest.mark.parametrize("own_tokens", [False, True])
def test_a_pinned_reward_model_is_taken_as_it_is(
    run: Run,
    inputs: dict[str, Manifest],
    tiny_model: Path,
    tmp_path: Path,
    own_tokens: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    exported = toy.judge(tmp_path / "exported", tiny_model)
    folder = Path(shutil.copytree(tmp_path / "exported", tmp_path / "judge"))
    if own_tokens:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        words = tokenizer["model"]["vocab"]
        # Words that answers have trade their tokens in pairs.
        for one, other in ((f"t{n}", f"t{n + 1}") for n in range(10, tiny.VOCAB - 1, 2)):
            words[one], words[other] = words[other], words[one]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    pinned = launch.run_stage(
        load("resolve"), {"kind": "model", "uri": str(folder)}, {}, str(tmp_path)
    ).manifest
    settings = {
        "max_duration": "1iter",
        "model": ACTOR_CRITIC | {"joint_actor_critic": False},
        "variables": {"rewards": {}},
    }
    first, second = (run(**settings, inputs={"reward_model": m}) for m in (exported, pinned))
    rewards = [tiny.curve(result, "rollout/reward") for result in (first, second)]
    assert (rewards[0] == rewards[1]) != own_tokens
    assert any("critic starts from the policy" in text for text in capfd.readouterr()) == own_tokens


def test_at_any_temperature_the_first_pass_has_ratio_1_and_no_kl(run: Run) -> None:
    hot = {"temperature": 0.7}
    first = {
        "max_duration": "1iter",
        "global_train_batch_size": 16,
        "model": {"loss_type": "grpo", "policy_clip_ratio": 1e-6},
        "variables": {
            "generation_kwargs": hot,
            "num_batches_per_update": 2,
            "kl_controller": {"init_kl_coef": 0.1},
        },
    }
    result = run(**first)
    # Of the two steps only the first is before any change; a ratio other than 1 would be clipped.
    assert tiny.curve(result, "loss/train/policy_kl")[0] == pytest.approx(0.0, abs=1e-7)
    assert tiny.curve(result, "loss/train/kl_loss")[0] == pytest.approx(0.0, abs=1e-7)
    assert tiny.curve(result, "rollout/kl")[0] == 0.0
    # Trainer and engine agree on the temperature, or they would be apart by tenths.
    assert tiny.curve(result, "rollout/engine_gap")[0] < 1e-4
    assert tiny.curve(result, "loss/train/policy_kl")[1] > 1e-6


def test_where_no_group_has_signal_training_goes_on_and_counts_it(run: Run) -> None:
    rewards = {"rewards": {"same": {"reward_type": "online_toy.nothing"}}}
    result = run(max_duration="2iter", variables=rewards)
    assert tiny.curve(result, "rollout/without_signal") == [1.0, 1.0]
    assert tiny.curve(result, "loss/train/policy_loss") == pytest.approx([0.0, 0.0], abs=1e-7)
    drawn = rewards | {"dynamic_sampling": {"max_rounds": 2}}
    result = run(max_duration="1iter", variables=drawn)
    assert tiny.curve(result, "rollout/without_signal") == [1.0]
    assert tiny.curve(result, "rollout/asked") == [2 * toy.PROMPTS]


def test_an_iteration_whose_rewards_all_fail_is_survived_where_that_is_allowed(run: Run) -> None:
    rewards = {"rewards": {"fails": {"reward_type": "online_toy.fails"}}}
    result = run(max_duration="1iter", variables=rewards | {"max_lost_fraction": 1.0})
    assert tiny.curve(result, "rollout/lost") == [1.0]
    assert tiny.curve(result) == [0.0]
    with pytest.raises(UserError, match=r"failed for 32 of 32 answers.*out of order.*max_lost_fraction"):
        run(max_duration="1iter", variables=rewards)


@pytest.mark.parametrize("loss_type", ["grpo", "apo"])
@pytest.mark.parametrize("why", ["lost", "cut"])
def test_nothing_is_learnt_of_minibatches_without_an_answer_to_learn_from(
    loss_type: str, why: str, run: Run, inputs: dict[str, Manifest], tiny_model: Path, tmp_path: Path
) -> None:
    variables: dict[str, Any] = {
        "lost": {"rewards": {"fails": {"reward_type": "online_toy.fails"}}, "max_lost_fraction": 1.0},
        "cut": {"mask_truncated": True, "eos_token_ids": [tiny.PAD], "max_gen_len": 1},
    }[why]
    result = run(
        inputs={"prompts": toy.prompts(tmp_path, columns={"vstar": 0.5})},
        max_duration="1iter",
        model={"loss_type": loss_type, "entropy_loss_weight": 0.01},
        variables=variables | {"kl_controller": {"init_kl_coef": 0.1}},
        train_loader={"token_budget": 40},
    )
    assert tiny.curve(result) == [0.0]
    expected, found = tiny.start(tiny_model), tiny.weights(result)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_how_a_batch_is_cut_changes_nothing(run: Run) -> None:
    settings = {"model": {"loss_aggregation": "token_mean"}, "max_duration": "2iter"}
    whole = run(**settings)
    cut = run(**settings, train_loader={"token_budget": 40})
    names = ("loss/train/total", "loss/train/policy_loss", "rollout/reward")
    for name in names:
        assert tiny.curve(cut, name) == pytest.approx(tiny.curve(whole, name), rel=1e-4, abs=1e-6)


def test_a_value_loss_that_explodes_stops_the_run(run: Run) -> None:
    with pytest.raises(UserError, match=r"loss/train/\w+ is (nan|inf).* at batch \d+ .*lower optimizer.lr"):
        huge = {"right": {"reward_type": "online_toy.right_tokens", "coefficient": 1e25}}
        run(max_duration="8iter", model=ACTOR_CRITIC, variables={"rewards": huge})


def test_early_stop_leaves_out_later_passes(run: Run) -> None:
    passes = {"max_duration": "2iter", "variables": {"epoch_per_iteration": 3}}
    assert run(**passes).info["steps"] == 6
    stopped = run(**passes, model={"target_kl": 1e-9})
    # The first pass of an iteration changes nothing before its step; the second sees it.
    assert stopped.info["steps"] == 4


def test_durations_count_epochs(run: Run) -> None:
    schedule = {"name": "linear_decay_with_warmup", "t_warmup": "0ep", "t_max": "4ep", "alpha_f": 0.0}
    result = run(
        max_duration="3ep",
        scheduler=schedule,
        global_train_batch_size=16,
        variables={"num_batches_per_update": 2, "epoch_per_iteration": 2},
        callbacks={"lr_monitor": {}},
    )
    assert result.info["steps"] == 6
    assert len(tiny.curve(result, "rollout/reward")) == 2
    rates = tiny.curve(result, "lr-DecoupledAdamW/group0")
    assert rates == pytest.approx([0.01 * left / 8 for left in (8, 7, 6, 5, 4, 3)])


def test_what_is_kept_of_an_iteration(run: Run) -> None:
    result = run()
    lines = [
        json.loads(line)
        for line in (Path(result.output("samples").uri) / "samples.jsonl").read_text().splitlines()
    ]
    assert [line["iteration"] for line in lines] == [i for i in range(4) for _ in range(8)]
    assert set(lines[0]) == {"iteration", "prompt", "answer", "rewards", "reward", "finished"}
    assert {"report.html", "metrics.json"} <= {
        path.name for path in Path(result.output("report").uri).iterdir()
    }
    names = {
        "loss/train/total",
        "loss/train/policy_kl",
        "rollout/reward",
        "rollout/rewards/right",
        "rollout/length",
        "rollout/truncated",
        "rollout/staleness",
        "seconds/generate",
        "seconds/score",
        "seconds/train",
        "seconds/iteration",
    }
    assert names <= set(result.metrics)


@pytest.mark.parametrize(
    "variables, message",
    [
        (
            {"max_gen_len": 126},
            r"max_gen_len=126: 129, more than the model's 128",
        ),
        ({"eos_token_ids": [1, 64]}, "eos_token_ids: 64 is not in the model's vocabulary of 64"),
    ],
)
def test_what_the_policy_cannot_take_is_refused_before_the_first_answer(
    variables: dict[str, Any], message: str, run: Run
) -> None:
    with pytest.raises(UserError, match=message):
        run(variables=variables)


def refused(inputs: dict[str, Manifest], **changed: Any) -> str:
    with pytest.raises(UserError) as error:
        load("online_rl").parse(toy.config(**changed), inputs)
    return str(error.value)


@pytest.mark.parametrize(
    "reward",
    [
        {"reward_type": "reward_model", "model": "/models/judge"},
        {"reward_type": "hf_pairwise", "model_config": {"name": "hf_pairwise_rm"}, "load_path": "judge.pt"},
    ],
    ids=["reward_model", "hf_pairwise"],
)
@pytest.mark.parametrize("stage", ["online_rl", "vstar"])
def test_a_reward_model_whose_content_the_key_would_not_hold_is_refused(
    reward: dict[str, Any], stage: str, inputs: dict[str, Manifest]
) -> None:
    rewards = {"rewards": {"judge": reward}}
    document = toy.config(variables=rewards) if stage == "online_rl" else rewards | {"max_gen_len": 4}
    with pytest.raises(
        UserError, match=r"variables.rewards.judge names a model by its place.* input 'reward_model'"
    ):
        load(stage).parse(document, inputs)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (
            {"architectures": ["LlamaForCausalLM"]},
            "is a 'LlamaForCausalLM'; give the export of a reward model",
        ),
        ({}, "is a ''; give"),
        ({"architectures": ["LlamaForSequenceClassification"], "num_labels": 5}, "gives 5 scores for a text"),
        ({"model_type": "pairwise_rm", "num_labels": 2}, "gives 2 scores for a text"),
    ],
)
@pytest.mark.parametrize("stage", ["online_rl", "vstar"])
def test_a_pinned_model_that_gives_no_reward_is_refused(
    stage: str, info: dict[str, Any], words: str, inputs: dict[str, Manifest]
) -> None:
    given = inputs | {"reward_model": inputs["model"].model_copy(update={"stage": "resolve", "info": info})}
    with pytest.raises(UserError, match=words):
        load(stage).parse(toy.config() if stage == "online_rl" else {"max_gen_len": 4}, given)


def test_what_is_refused_before_anything_heavy(inputs: dict[str, Manifest]) -> None:
    assert "32 answers" in refused(inputs, global_train_batch_size=24)
    assert "did you mean" in refused(inputs, variables={"rewards": {"x": {"reward_type": "gsm8k_verifer"}}})
    assert "no reward" in refused(inputs, variables={"rewards": {}})
    judge = {"reward_type": "llm_judge", "base_url": "http://judge/v1", "model": "m"}
    for reward in (
        {"reward_type": "math_verifier"},
        judge | {"template": "Is {answer} the same as {reference}?"},
    ):
        assert "the column 'verified_answer', and the prompts have prompt;" in refused(
            inputs, variables={"rewards": {"x": reward}}
        )
    assert "input 'reward_model', which is missing" in refused(
        inputs, variables={"rewards": {"x": {"reward_type": "reward_model"}}}
    )
    assert "generation_kwargs.temperature=1.0" in refused(inputs, model={"temperature": 0.5})
    assert "raise max_seq_len to 9" in refused(inputs, max_seq_len=8)
    long_ones_left_out = toy.config(max_seq_len=8, train_loader={"drop_long": True})
    assert load("online_rl").parse(long_ones_left_out, inputs).max_seq_len == 8
    assert "optimal value of each prompt" in refused(inputs, model={"loss_type": "apo"})
    assert "set model.name: hf_actor_critic_lm" in refused(inputs, model={"loss_type": "ppo"})
    assert "set it to 2 or more" in refused(
        inputs, variables={"generations_per_prompt": 1, "num_unique_prompts_per_iter": 32}
    )
    assert "the stage's input 'model'" in refused(
        inputs, variables={"reference_model": {"precision": "fp32"}}
    )
    assert "set variables.engine.tensor_parallel_size" in refused(
        inputs, variables={"vllm_tensor_parallel_size": 2}
    )
    assert "set variables.engine.prefix_caching" in refused(
        inputs, variables={"vllm_enable_prefix_caching": False}
    )
    assert "engine 'hf' generates in the trainer's" in refused(inputs, variables={"max_staleness": 1})
    assert "engine.sleep=true frees the GPU while training" in refused(
        inputs, variables={"max_staleness": 1, "engine": {"kind": "vllm", "sleep": True}}
    )
    pairs = inputs["prompts"].model_copy(
        update={"info": inputs["prompts"].info | {"dataset_type": "preference"}}
    )
    assert "single_prompt or verifiable_answers" in refused(inputs | {"prompts": pairs})
    critic = tiny.manifest("export", Path("critic"), {}, {"model_class": "sequence_classification"})
    assert "leave the input out" in refused(inputs | {"critic": critic})
