"""Models and datasets from a hub: by id, subset and split, through HF_ENDPOINT."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")

from local_hub import commit_of, local_hub

README = """---
configs:
- config_name: english
  data_files:
  - split: train
    path: english/train.jsonl
  - split: test
    path: english/test.jsonl
- config_name: other
  data_files: other.jsonl
---
"""


def jsonl(path: Path, count: int) -> None:
    rows = [{"prompt": f"the cat {i}", "chosen": f"sat {i}", "rejected": "mat"} for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def hub(
    tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Path
) -> Iterator[tuple[Path, dict[str, str]]]:
    """The hub's folder, and the environment in which it is the hub."""
    root = tmp_path_factory.mktemp("hub")
    shutil.copytree(small_tokenizer, root / "models" / "acme" / "small")
    data = root / "datasets" / "acme" / "pairs"
    jsonl(data / "english" / "train.jsonl", 30)
    jsonl(data / "english" / "test.jsonl", 7)
    jsonl(data / "other.jsonl", 3)
    (data / "README.md").write_text(README)
    with local_hub(root) as address:
        caches = {"HF_HOME": str(root / "cache"), "COMPOSE_RL_CACHE": str(root / "own_cache")}
        yield root, {**os.environ, **caches, "HF_ENDPOINT": address, "NO_PROXY": "127.0.0.1"}


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


STAGE = """
import sys
from compose_rl.launch import run_stage
from compose_rl.stages.resolve.run import pin
from compose_rl.stages.resolve.spec import ResolveConfig
from compose_rl.stages.tokenize.spec import SPEC
from compose_rl.store import open_store

storage = sys.argv[1]
store = open_store(storage)
source = pin(ResolveConfig(kind="dataset", uri="acme/pairs", subset="english", split="test"), store)
tokenizer = pin(ResolveConfig(kind="model", uri="acme/small"), store)
config = {"dataset_type": "preference", "max_length": 64, "validation_fraction": 0.0}
print(run_stage(SPEC, config, {"source": source, "tokenizer": tokenizer}, storage).manifest.uri)
"""


@pytest.mark.slow
def test_the_stage_reads_the_pinned_commit_of_a_hub_dataset(
    hub: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    root, environment = hub
    environment = {**environment, "COMPOSE_RL_ENV_TRAIN": sys.prefix}
    done = run(environment, "-c", STAGE, str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = json.loads(Path(done.stdout.split()[-1]).read_text())
    assert manifest["info"]["samples"] == {"train": 7, "validation": 0}
    pinned = json.loads(Path(manifest["inputs"]["source"]["uri"]).read_text())["info"]
    assert pinned["revision"] == commit_of(root / "datasets" / "acme" / "pairs")


@pytest.mark.slow
def test_the_command_line_takes_the_flags_of_the_original(
    hub: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    _, environment = hub
    flags = "--dataset_name acme/pairs --dataset_type preference --subset english --tokenizer_name acme/small"
    more = "--split train test --max_length 64 --compression zstd --hashes sha1 xxh64"
    command = ["-m", "compose_rl.data.tokenize_dataset", *flags.split(), *more.split()]
    done = run(environment, *command, "--local_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    for split, count in (("train", 30), ("test", 7)):
        [shard] = json.loads((tmp_path / "out" / split / "index.json").read_text())["shards"]
        assert (shard["samples"], shard["compression"]) == (count, "zstd")
        assert sorted(shard["zip_data"]["hashes"]) == ["sha1", "xxh64"]


@pytest.mark.parametrize(
    ("dataset", "subset", "message"),
    [
        ("acme/nothing", "english", "dataset 'acme/nothing'.*check name, subset and split"),
        ("acme/pairs", "french", "subset 'french'.*'french' not found.*english"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    hub: tuple[Path, dict[str, str]], tmp_path: Path, dataset: str, subset: str, message: str
) -> None:
    _, environment = hub
    flags = (
        f"--dataset_name {dataset} --subset {subset} --dataset_type preference --tokenizer_name acme/small"
    )
    command = ["-m", "compose_rl.data.tokenize_dataset", *flags.split(), "--local_dir", str(tmp_path / "out")]
    done = run(environment, *command)
    assert done.returncode == 2
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "train").exists()
