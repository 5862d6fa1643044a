"""The demo's data: the same for the same seed, and teaching what it says it teaches."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import yaml

from compose_rl.demo.__main__ import write_data, write_parameters
from compose_rl.demo.items import ITEMS, named_items, sorted_items, well_formed
from compose_rl.demo.language import ANSWERS, REQUESTS, WORD_PATTERN, requests, vocabulary

SIZES = {"instructions": 400, "preferences": 300, "prompts": 50, "training_prompts": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_data(folder, 3, SIZES)
    return folder


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "again", 3, SIZES)
    write_data(tmp_path / "other", 4, SIZES)
    for name in SIZES:
        first = (folder / f"{name}.jsonl").read_bytes()
        assert first == (tmp_path / "again" / f"{name}.jsonl").read_bytes()
        assert first != (tmp_path / "other" / f"{name}.jsonl").read_bytes()


def test_no_request_stands_twice(folder: Path) -> None:
    prompts = [row["prompt"] for name in SIZES for row in rows(folder, name)]
    assert len(set(prompts)) == len(prompts) == sum(SIZES.values())


def test_the_chosen_answer_alone_has_the_property_and_length_does_not_tell(folder: Path) -> None:
    pairs = rows(folder, "preferences")
    for row in pairs:
        assert sorted_items(row["prompt"], row["chosen"])
        assert well_formed(row["prompt"], row["rejected"]) and not sorted_items(
            row["prompt"], row["rejected"]
        )
    lines = [(row["chosen"].count("\n"), row["rejected"].count("\n")) for row in pairs]
    assert all(chosen == rejected for chosen, rejected in lines)
    words = [len(row["chosen"].split()) - len(row["rejected"].split()) for row in pairs]
    assert abs(sum(words)) / len(words) < 0.2


def test_half_of_the_instructions_have_the_property(folder: Path) -> None:
    counted = Counter(sorted_items(row["prompt"], row["response"]) for row in rows(folder, "instructions"))
    assert counted == {True: 200, False: 200}


def test_the_property_holds_of_complete_sorted_answers_alone() -> None:
    prompt = "Make a note:\nfig\napple\nlemon"
    assert sorted_items(prompt, "The fruits:\napple\nfig\nlemon")
    assert not sorted_items(prompt, "The fruits:\nfig\napple\nlemon")
    for broken in (
        "The fruits:\napple\nfig",
        "The fruits:\napple\napple\nfig\nlemon",
        "The fruits:\napple\nfig\nkiwi",
        "apple\nfig\nlemon",
        "The fruits:\napple\nfig\nlemon\nthe",
        "The fruits: apple fig lemon",
        "",
    ):
        assert not sorted_items(prompt, broken), broken


def test_sentences_name_no_items_of_their_own() -> None:
    for text in (*REQUESTS, *ANSWERS):
        for kind in ITEMS:
            assert named_items(text.format(kind=kind, items="")) == []
    assert all(list(names) == sorted(set(names)) for names in ITEMS.values())


def test_the_vocabulary_covers_the_language(folder: Path) -> None:
    known = set(vocabulary())
    texts = [text for name in SIZES for row in rows(folder, name) for text in row.values()]
    assert {token for text in texts for token in re.findall(WORD_PATTERN, text)} <= known
    assert len(known) < 120


def test_requests_name_their_items_out_of_order() -> None:
    for request in islice(requests(random.Random(0)), 200):
        assert named_items(request.text) == list(request.items) != sorted(request.items)


def test_parameters_point_into_the_folder(folder: Path) -> None:
    write_parameters(folder)
    online = yaml.safe_load((folder / "parameters.yaml").read_text())
    offline = yaml.safe_load((folder / "dpo.yaml").read_text())
    assert Path(online["prompts"]) == (folder / "training_prompts.jsonl").resolve()
    assert online["evaluation_prompts"] == offline["prompts"] == str((folder / "prompts.jsonl").resolve())
    for parameters in (online, offline):
        for name in ("instructions", "preferences"):
            assert Path(parameters[name]) == (folder / f"{name}.jsonl").resolve()
        assert Path(parameters["base_model"]) == (folder / "model").resolve()
        assert "$" not in str(parameters)
