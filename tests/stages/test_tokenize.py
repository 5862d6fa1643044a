"""The tokenize stage, run as a job of this process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from compose_rl.errors import UserError
from compose_rl.stages.job import Job, JobFile, execute
from compose_rl.stages.resolve.run import pin
from compose_rl.stages.resolve.spec import ResolveConfig
from compose_rl.stages.tokenize.run import run
from compose_rl.stages.tokenize.spec import SPEC
from compose_rl.store import open_store
from compose_rl.store.manifest import Manifest

PAIRS = [{"prompt": f"the cat {i}", "chosen": f"sat {i}", "rejected": "mat"} for i in range(40)]


@pytest.fixture(autouse=True)
def _cache(own_cache: Path) -> None:
    pass


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pinned(tmp_path: Path, kind: str, place: Path) -> Manifest:
    return pin(ResolveConfig(kind=kind, uri=str(place)), open_store(str(tmp_path / "store")))


def inputs(tmp_path: Path, tokenizer: Path, rows: list[dict[str, Any]]) -> dict[str, Manifest]:
    source = jsonl(tmp_path / "rows.jsonl", rows)
    return {"source": pinned(tmp_path, "dataset", source), "tokenizer": pinned(tmp_path, "model", tokenizer)}


def tokenize(tmp_path: Path, given: dict[str, Manifest], **config: Any) -> Manifest:
    document = {"dataset_type": "preference", "max_length": 64, **config}
    typed = SPEC.parse(document, given)
    job = JobFile(
        stage="tokenize",
        key=SPEC.key(typed, given),
        attempt="1",
        storage=str(tmp_path / "store"),
        config=document,
        inputs=given,
    )
    manifest = execute(Job(SPEC, job), run)
    assert manifest is not None
    return manifest


def test_shards_report_and_facts_for_later_stages(tmp_path: Path, small_tokenizer: Path) -> None:
    rows = [*PAIRS, {"prompt": "q", "chosen": "a", "rejected": "a"}]
    manifest = tokenize(tmp_path, inputs(tmp_path, small_tokenizer, rows), validation_fraction=0.2)
    info = manifest.info
    assert info["dataset_type"] == "preference"
    assert info["columns"] == ["chosen", "prompt", "rejected"]
    assert info["samples"]["train"] + info["samples"]["validation"] == 40
    assert 0 < info["samples"]["validation"] < 20
    assert (info["max_length"], info["has_rewards"]) == (64, False)
    # The vocabulary of the small tokenizer: 256 bytes, 3 special tokens, the merges it learned.
    backend = json.loads((small_tokenizer / "tokenizer.json").read_text())
    assert info["vocab_size"] == len(backend["model"]["vocab"])
    assert len(info["tokenizer_sha256"]) == 64
    assert 10 < info["longest"] <= 64
    assert manifest.metrics["rows"] == 41
    report = json.loads((Path(manifest.output("report").uri) / "report.json").read_text())
    assert report["dropped"] == [{"reason": "identical pair", "rows": 1, "examples": [41]}]
    assert report["splits"]["train"]["length"]["max"] <= info["longest"]
    names = {file.path for file in manifest.output("train").files}
    assert names == {"index.json", "shard.00000.mds"}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, small_tokenizer: Path) -> None:
    given = inputs(tmp_path, small_tokenizer, PAIRS)
    first = tokenize(tmp_path, given)
    shutil.rmtree(tmp_path / "store" / "tokenize")
    assert tokenize(tmp_path, given).outputs == first.outputs


def test_a_validation_source_of_its_own_is_held_out_whole(tmp_path: Path, small_tokenizer: Path) -> None:
    given = inputs(tmp_path, small_tokenizer, PAIRS[:30])
    held = jsonl(tmp_path / "held.jsonl", PAIRS[30:])
    manifest = tokenize(tmp_path, {**given, "validation": pinned(tmp_path, "dataset", held)})
    assert manifest.info["samples"] == {"train": 30, "validation": 10}


def test_no_validation_on_request(tmp_path: Path, small_tokenizer: Path) -> None:
    manifest = tokenize(tmp_path, inputs(tmp_path, small_tokenizer, PAIRS), validation_fraction=0.0)
    assert manifest.info["samples"] == {"train": 40, "validation": 0}


def test_rewards_are_noticed(tmp_path: Path, small_tokenizer: Path) -> None:
    rows = [row | {"chosen_reward": 1, "rejected_reward": 0} for row in PAIRS]
    manifest = tokenize(tmp_path, inputs(tmp_path, small_tokenizer, rows))
    assert manifest.info["has_rewards"]
    assert "chosen_reward" in manifest.info["columns"]


BAD_INPUT: list[tuple[list[dict], dict, str]] = [
    ([], {}, "rows.jsonl.*no rows"),
    ([{"promt": "q", "chosen": "a", "rejected": "b"}], {}, r"no column 'prompt' .*did you mean 'promt'\?"),
    (PAIRS, {"columns": {"prompt": "question"}}, "no column 'question'"),
    (PAIRS, {"columns": {"prmpt": "prompt"}}, "'prmpt' is no column of preference data"),
    (PAIRS, {"dataset_type": "preferences"}, "dataset_type='preferences'"),
    (PAIRS, {"max_lenght": 5}, "unknown key 'max_lenght'; did you mean 'max_length'"),
    (PAIRS, {"prompt_template": "Q: {prompt}"}, "used only with template: plain"),
    (PAIRS, {"template": "plain", "prompt_template": "Q:"}, "lacks the place"),
    (PAIRS, {"compression": "zip"}, "compression='zip'"),
    (PAIRS, {"hashes": ["crc"]}, "hashes"),
    (PAIRS, {"max_length": 5}, r"40 of 40 rows dropped.*prompt over max_length \(40 rows, for instance 1, 2"),
    (PAIRS[:1], {"validation_fraction": 0.01}, "held out with validation_fraction=0.01; raise it"),
    ([{**row, "chosen": ""} for row in PAIRS], {}, "biggest reason: empty answer"),
    ([{**row, "chosen": "mat"} for row in PAIRS], {}, "biggest reason: identical pair"),
]


@pytest.mark.parametrize(("rows", "config", "message"), BAD_INPUT)
def test_bad_input_ends_in_one_line_and_leaves_no_result(
    tmp_path: Path, small_tokenizer: Path, rows: list[dict], config: dict, message: str
) -> None:
    given = inputs(tmp_path, small_tokenizer, rows)
    with pytest.raises(UserError, match=message) as error:
        tokenize(tmp_path, given, **config)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "store").glob("tokenize/*/manifest.json"))


def test_a_tokenizer_without_a_chat_template_is_told_before_anything_is_loaded(
    tmp_path: Path, small_tokenizer: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(small_tokenizer, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    given = inputs(tmp_path, bare, PAIRS)
    with pytest.raises(UserError, match="has no chat template; set chat_template to one, or template: plain"):
        tokenize(tmp_path, given)
    assert tokenize(tmp_path, given, template="plain", prompt_template="{prompt}\n").info["samples"]["train"]


def test_a_model_is_no_source(tmp_path: Path, small_tokenizer: Path) -> None:
    given = inputs(tmp_path, small_tokenizer, PAIRS)
    with pytest.raises(UserError, match=r"input 'source' is a model .*; resolve it with kind: dataset"):
        SPEC.parse({"dataset_type": "preference"}, {**given, "source": given["tokenizer"]})
    with pytest.raises(UserError, match="are the same rows"):
        SPEC.parse({"dataset_type": "preference"}, {**given, "validation": given["source"]})


def test_a_source_that_changed_since_it_was_pinned_is_refused(tmp_path: Path, small_tokenizer: Path) -> None:
    given = inputs(tmp_path, small_tokenizer, PAIRS)
    jsonl(tmp_path / "rows.jsonl", PAIRS[:20])
    with pytest.raises(UserError, match="run the stage 'resolve' again"):
        tokenize(tmp_path, given)


CHANGES = [
    {"dataset_type": "instruction"},
    {"max_length": 65},
    {"truncation": "truncate_prompt"},
    {"chat_template": "x"},
    {"columns": {"prompt": "chosen"}},
    {"template": "plain"},
    {"template_date": "2024-07-27"},
    {"loss_on": "all"},
    {"validation_fraction": 0.1},
    {"validation_seed": 1},
    {"limit": 3},
    {"compression": "zstd"},
    {"hashes": ["sha1"]},
    {"shard_bytes": 1000},
    {"max_dropped_fraction": 0.5},
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_can_change_the_result_is_in_the_key_and_workers_are_not(
    tmp_path: Path, small_tokenizer: Path, change: dict
) -> None:
    given = inputs(tmp_path, small_tokenizer, PAIRS[:1])
    base = {"dataset_type": "preference", "max_length": 64}

    def key(document: dict) -> str:
        return SPEC.key(SPEC.parse(document, given), given)

    assert key(base) == key({**base, "workers": 3})
    assert key(base) != key({**base, **change})
