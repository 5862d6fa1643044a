"""evaluate through its own run: real shards, real models, a whole report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification  # noqa: E402

from compose_rl.demo.__main__ import write_data  # noqa: E402
from compose_rl.demo.model import save_base_model  # noqa: E402
from compose_rl.errors import UserError  # noqa: E402
from compose_rl.evaluation.held_out import read_prompts  # noqa: E402
from compose_rl.launch import run_stage  # noqa: E402
from compose_rl.stages.evaluate import run as evaluate  # noqa: E402
from compose_rl.stages.evaluate.spec import SPEC  # noqa: E402
from compose_rl.stages.job import Job, JobFile, Result, execute  # noqa: E402
from compose_rl.stages.resolve.spec import SPEC as RESOLVE  # noqa: E402
from compose_rl.stages.spec import StageSpec  # noqa: E402
from compose_rl.stages.tokenize import run as tokenize  # noqa: E402
from compose_rl.stages.tokenize.spec import SPEC as TOKENIZE  # noqa: E402
from compose_rl.store.checksums import describe  # noqa: E402
from compose_rl.store.manifest import Manifest, Output  # noqa: E402

CONFIG = {"num_prompts": 20, "num_pairs": 12, "max_new_tokens": 6, "batch_size": 8, "num_samples": 3}
VERIFIER = "compose_rl.demo.items.sorted_items"


class World:
    """A store with two models, a reward model and tokenized data in it."""

    def __init__(self, root: Path) -> None:
        self.store = root / "store"
        sizes = {"instructions": 1, "preferences": 200, "prompts": 40, "training_prompts": 120}
        write_data(root, 1, sizes)
        save_base_model(root / "start", 1)
        save_base_model(root / "policy", 2)
        self.start = self.pin("model", root / "start")
        self.policy = self.pin("model", root / "policy")
        self.reward_model = self._reward_model(root)
        self.pairs = self.tokenize(root / "preferences.jsonl", "preference")
        self.prompts = self.tokenize(root / "prompts.jsonl", "single_prompt")
        self.training_prompts = self.tokenize(root / "training_prompts.jsonl", "single_prompt")

    def pin(self, kind: str, path: Path) -> Manifest:
        return run_stage(RESOLVE, {"kind": kind, "uri": str(path)}, {}, str(self.store)).manifest

    def tokenize(self, path: Path, dataset_type: str) -> Manifest:
        config = {"dataset_type": dataset_type, "max_length": 64, "validation_fraction": 0.15, "workers": 1}
        return self.run(
            TOKENIZE, tokenize.run, config, {"source": self.pin("dataset", path), "tokenizer": self.start}
        )

    def run(
        self,
        spec: StageSpec,
        run: Callable[[Job], Result],
        config: Mapping[str, Any],
        inputs: Mapping[str, Manifest],
        attempt: str = "1",
    ) -> Manifest:
        """The stage in this process, so that heavy libraries are imported once."""
        key = spec.key(spec.parse(config, inputs), inputs)
        document = JobFile(
            stage=spec.name,
            key=key,
            attempt=attempt,
            storage=str(self.store),
            config=dict(config),
            inputs=dict(inputs),
        )
        manifest = execute(Job(spec, document), run)
        assert manifest is not None
        return manifest

    def evaluate(self, config: Mapping[str, Any] = CONFIG, **inputs: Manifest) -> Manifest:
        given = {"policy": self.policy, "baseline": self.start, "preferences": self.pairs} | inputs
        return self.run(SPEC, evaluate.run, config, given)

    def _reward_model(self, root: Path) -> Manifest:
        """What an export of a reward model is: a sequence classifier's folder and its manifest."""
        folder = root / "reward_model"
        body = AutoModelForCausalLM.from_pretrained(root / "start")
        body.config.num_labels = 1
        torch.manual_seed(3)
        LlamaForSequenceClassification(body.config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(root / "start").save_pretrained(folder)
        return Manifest(
            stage="export",
            version=1,
            key="reward-model",
            uri=str(root / "reward_model.json"),
            attempt="1",
            config={},
            outputs={"model": Output(uri=str(folder), files=describe(folder))},
            info={"model_class": "sequence_classification", "vocab_size": body.config.vocab_size},
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPOSE_RL_CACHE", str(root / "cache"))
        return World(root)


@pytest.fixture(autouse=True)
def _cache(own_cache: Path) -> None:
    pass


@pytest.fixture(scope="module")
def whole(world: World) -> Manifest:
    """With everything that an evaluation can be given."""
    config = {**CONFIG, "verifier": VERIFIER}
    return world.evaluate(config, prompts=world.prompts, reward_model=world.reward_model)


def report(manifest: Manifest) -> Path:
    return Path(manifest.output("report").uri)


def test_every_figure_is_there_and_finite(whole: Manifest) -> None:
    names = {
        *("policy/accuracy", "policy/margin", "reward_model/accuracy", "reward_model/margin"),
        *("win_rate/reward_model", "win_rate/reward_model_low", "win_rate/reward_model_high"),
        *("win_rate/verifier", "win_rate/verifier_low", "win_rate/verifier_high"),
        *("kl/policy_baseline", "kl/policy_baseline_low", "kl/policy_baseline_high"),
        *("length/policy", "length/baseline", "truncated/policy", "truncated/baseline"),
        *("verifier/policy", "verifier/baseline", "reward_model/policy", "reward_model/baseline"),
        *("prompts", "pairs"),
    }
    assert set(whole.metrics) == names
    assert all(math.isfinite(value) for value in whole.metrics.values())
    assert json.loads((report(whole) / "metrics.json").read_text()) == whole.metrics
    assert whole.metrics["prompts"] == 20 and whole.metrics["pairs"] == 12


def test_figures_that_nothing_was_given_for_are_left_out(world: World) -> None:
    found = world.evaluate({**CONFIG, "temperature": 0.0}).metrics
    assert "policy/accuracy" in found and "length/policy" in found
    assert not [name for name in found if "reward_model" in name or "verifier" in name or "kl" in name]


def test_a_model_compared_with_itself_shows_no_difference(world: World) -> None:
    found = world.evaluate(
        {**CONFIG, "verifier": VERIFIER}, policy=world.start, reward_model=world.reward_model
    ).metrics
    assert found["policy/accuracy"] == 0.5 and found["policy/margin"] == 0
    assert found["win_rate/reward_model"] == found["win_rate/verifier"] == 0.5
    assert found["kl/policy_baseline"] == 0
    assert found["length/policy"] == found["length/baseline"]


def test_a_pinned_reward_model_judges_as_an_exported_one(world: World, whole: Manifest) -> None:
    judge = world.pin("model", world.store.parent / "reward_model")
    config = {**CONFIG, "verifier": VERIFIER}
    found = world.evaluate(config, prompts=world.prompts, reward_model=judge)
    assert found.key != whole.key
    assert found.metrics == whole.metrics


def test_kl_of_two_models_is_what_their_distributions_give(world: World) -> None:
    # Of one-token answers it is known exactly: the mean over prompts of sum_v p(v) (log p(v) - log q(v)).
    config = {**CONFIG, "max_new_tokens": 1, "num_prompts": 40, "batch_size": 40}
    manifest = world.evaluate(config, prompts=world.prompts)
    exact = []
    models = [AutoModelForCausalLM.from_pretrained(m.info["uri"]) for m in (world.policy, world.start)]
    tokenizer = evaluate.load_tokenizer(Path(world.start.info["uri"]))
    for row in (report(manifest) / "samples.jsonl").open():
        text = f"<|user|>{json.loads(row)['prompt']}<|end|><|assistant|>"
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            p, q = (model(input_ids=ids).logits[0, -1].log_softmax(-1) for model in models)
        exact.append((p.exp() * (p - q)).sum().item())
    found = manifest.metrics
    expected = sum(exact) / len(exact)
    assert found["kl/policy_baseline_low"] < expected < found["kl/policy_baseline_high"]


def test_the_same_evaluation_again_gives_the_same_samples(
    world: World, whole: Manifest, tmp_path: Path
) -> None:
    again = World.__new__(World)
    again.__dict__ = {**world.__dict__, "store": tmp_path / "store"}
    config = {**CONFIG, "verifier": VERIFIER}
    second = again.evaluate(config, prompts=world.prompts, reward_model=world.reward_model)
    assert second.key == whole.key
    assert second.metrics == whole.metrics
    assert (report(second) / "samples.jsonl").read_bytes() == (report(whole) / "samples.jsonl").read_bytes()


def test_given_prompts_are_answered_whatever_their_split(whole: Manifest, world: World) -> None:
    rows = [json.loads(line) for line in (report(whole) / "samples.jsonl").read_text().splitlines()]
    given = (Path(world.store).parent / "prompts.jsonl").read_text()
    assert len({row["prompt"] for row in rows}) == 20
    assert all(json.dumps(row["prompt"]) in given for row in rows)
    assert all(set(row["scores"]) == {"verifier", "reward_model"} for row in rows)


def test_prompts_of_the_pairs_bring_the_chosen_answer_as_reference(world: World) -> None:
    manifest = world.evaluate({**CONFIG, "seed": 3})
    pairs = {
        row["prompt"]: row["chosen"]
        for row in map(json.loads, (world.store.parent / "preferences.jsonl").read_text().splitlines())
    }
    for line in (report(manifest) / "samples.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["reference"] == pairs[row["prompt"]]


def test_of_training_prompts_the_held_out_ones_are_answered_and_no_pairs_are_needed(world: World) -> None:
    given = {"policy": world.policy, "baseline": world.start, "training_prompts": world.training_prompts}
    config = {**CONFIG, "verifier": VERIFIER, "num_prompts": 100}
    manifest = world.run(SPEC, evaluate.run, config, {**given, "reward_model": world.reward_model})
    held_out = world.training_prompts.info["samples"]["validation"]
    assert 0 < held_out == manifest.metrics["prompts"] < 100
    assert manifest.metrics["pairs"] == 0
    assert {"win_rate/verifier", "win_rate/reward_model", "kl/policy_baseline"} <= set(manifest.metrics)
    assert not {"policy/accuracy", "reward_model/accuracy"} & set(manifest.metrics)
    folder = Path(world.training_prompts.output("validation").uri)
    expected = {tuple(prompt.tokens) for prompt in read_prompts([folder], None, 100)}
    tokenizer = evaluate.load_tokenizer(Path(world.start.info["uri"]))
    for line in (report(manifest) / "samples.jsonl").read_text().splitlines():
        text = f"<|user|>{json.loads(line)['prompt']}<|end|><|assistant|>"
        assert tuple(tokenizer(text)["input_ids"]) in expected


def test_an_evaluation_with_nothing_held_out_is_refused(world: World) -> None:
    samples = {**world.training_prompts.info["samples"], "validation": 0}
    info = {**world.training_prompts.info, "samples": samples}
    prompts = world.training_prompts.model_copy(update={"info": info})
    given = {"policy": world.policy, "baseline": world.start}
    for inputs in (given, {**given, "training_prompts": prompts}):
        with pytest.raises(UserError, match="nothing held out to answer; give 'prompts' or 'preferences'"):
            SPEC.parse(CONFIG, inputs)


class Page(HTMLParser):
    """Collects what a page asks the network for, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_stands_for_itself(whole: Manifest) -> None:
    page = Page((report(whole) / "report.html").read_text())
    assert not [address for address in page.addresses if not address.startswith("#")]
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert "svg" in page.tags
    text = "".join(page.words)
    assert whole.key in text
    for shown in (
        "Win rate over the start, by the verifier",
        "KL(policy ‖ start)",
        "preference",
        "max_new_tokens",
    ):
        assert shown in text
    assert "nan" not in text.lower().split()


def test_what_models_and_data_say_is_escaped(world: World) -> None:
    samples = evaluate.Samples(["<script>alert(1)</script>"], [""], ["<b>bold</b>"], ["a & b"])
    html = evaluate_page(samples)
    assert "<script>" not in html and "<b>" not in html
    assert "&lt;script&gt;" in html and "a &amp; b" in html


def evaluate_page(samples: evaluate.Samples) -> str:
    from compose_rl.evaluation.report import render

    return render({}, list(samples.rows({})), [], own_config="", key="0" * 64)


def test_data_of_another_tokenizer_is_refused(world: World, tmp_path: Path) -> None:
    save_base_model(tmp_path / "other", 1)
    config = json.loads((tmp_path / "other" / "tokenizer_config.json").read_text())
    template = config["chat_template"].replace("<|end|>", "<|end|> ")
    (tmp_path / "other" / "tokenizer_config.json").write_text(
        json.dumps({**config, "chat_template": template})
    )
    with pytest.raises(
        UserError, match="'preferences' was tokenized with another tokenizer than the policy's"
    ):
        world.evaluate(CONFIG, policy=world.pin("model", tmp_path / "other"))


def test_gsm8k_without_known_answers_is_refused(world: World) -> None:
    with pytest.raises(UserError, match="verifier='gsm8k' needs known answers, and the prompts have none"):
        world.evaluate({**CONFIG, "verifier": "gsm8k"}, prompts=world.prompts)
