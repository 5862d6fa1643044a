"""Parameters on the command line: typed, named in errors, checked before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kfp")

from compose_rl.errors import UserError
from pipelines.checks import check, steps
from pipelines.dpo import dpo
from pipelines.parameters import declared, parsed, read_file, with_defaults

KNOWN = declared(dpo.pipeline_spec)
GIVEN = {"base_model": "m", "preferences": "p.jsonl", "storage": "/s"}


def values(**changed: object) -> dict[str, object]:
    return with_defaults({**GIVEN, **changed}, KNOWN)


def test_values_get_their_parameters_types() -> None:
    found = parsed(["beta=0.25", "nodes=2", "base_model=a=b"], KNOWN)
    assert found == {"beta": 0.25, "nodes": 2, "base_model": "a=b"}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("beta=strong", "'beta' is a number"),
        ("nodes=1.5", "'nodes' is a whole number"),
        ("bta=0.1", "unknown key 'bta'; did you mean 'beta'?"),
        ("beta", "write -p name=value"),
    ],
)
def test_bad_items_are_named(item: str, words: str) -> None:
    with pytest.raises(UserError, match=words.replace("?", "[?]")):
        parsed([item], KNOWN)


def test_parameters_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("base_model: m\nbeta: 1.0e-1\nmax_length: 64\nconfig: {sft: {seed: 1}}\n")
    found = read_file(str(file), KNOWN)
    assert found.pop("config") == "sft:\n  seed: 1\n"
    assert found == {"base_model": "m", "beta": 0.1, "max_length": 64}


@pytest.mark.parametrize(
    ("text", "words"), [("bta: 1", "did you mean 'beta'"), ("[1]", "no mapping"), ("a: [", "not YAML")]
)
def test_bad_parameter_files_are_named(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_file(str(file), KNOWN)


def test_parameter_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"--parameters nowhere\.yaml: No such file"):
        read_file("nowhere.yaml", KNOWN)


def test_missing_parameter_is_named() -> None:
    with pytest.raises(UserError, match="preferences missing; give -p preferences="):
        with_defaults({"base_model": "m", "storage": "/s"}, KNOWN)


def test_defaults_keep_their_types() -> None:
    found = values()
    assert (found["nodes"], found["loss_type"], found["config"]) == (1, "dpo", "")
    assert isinstance(found["nodes"], int)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"loss_type": "dppo"}, "dppo"),
        ({"beta": -1.0}, "beta=-1"),
        ({"config": "{sfft: {}}"}, "config: unknown key 'sfft'; did you mean 'sft'?"),
        ({"config": "offline_rl: {global_train_batchsize: 8}"}, "did you mean 'global_train_batch_size'?"),
        ({"config": "tokenize_preferences: {max_length: long}"}, "max_length='long'"),
        ({"loss_type": "ipo", "config": "offline_rl: {model: ipo}"}, "offline_rl.model"),
        ({"config": "tokenize_prompts: 7"}, "tokenize_prompts=7"),
        ({"config": "[1]"}, "no mapping"),
        ({"config": "a: ["}, "not YAML"),
        ({"resources": "sft: {memry: 1Gi}"}, "resources sft: unknown key 'memry'; did you mean 'memory'?"),
        ({"resources": "default: {memory: lots}"}, "memory='lots'"),
        ({"resources": "sfft: {}"}, "resources: unknown key 'sfft'; did you mean 'sft'?"),
        ({"resources": "tokenize_preferences: {nodes: 1}"}, "unknown key 'tokenize_preferences'"),
        ({"resources": "evaluate: {gpus_per_node: 2}"}, "gpus_per_node=2, but this step runs as one process"),
        ({"resources": "default: {gpus_per_node: 2}", "gpus": 4}, "gpus=4, but resources: default.gpus_per"),
        ({"resources": "[1]"}, "resources: [1] is no mapping"),
    ],
)
def test_values_are_checked_against_the_stages(changed: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        check(dpo.pipeline_spec, values(prompts="q.jsonl", **changed), changed)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_good_values_pass() -> None:
    check(dpo.pipeline_spec, values(beta=0.2, config="offline_rl: {max_duration: 2ep}"), ["beta", "config"])


def test_resources_fit_stages_of_one_process_too() -> None:
    resources = "default: {memory: 8Gi, gpus_per_node: 8}\nevaluate: {memory: 4Gi}"
    check(dpo.pipeline_spec, values(nodes=2, gpus=8, resources=resources), ["nodes", "gpus", "resources"])


def test_a_section_wins_over_what_the_pipeline_sets() -> None:
    config = "tokenize_prompts: {dataset_type: verifiable_answers}\noffline_rl: {model: {loss_type: ipo}}"
    check(dpo.pipeline_spec, values(prompts="q.jsonl", config=config), ["prompts", "config"])


def test_a_section_that_disagrees_with_a_given_parameter_is_refused() -> None:
    config = "offline_rl: {model: {beta: 0.3}}"
    with pytest.raises(UserError, match=r"beta=0\.2, but config: offline_rl\.model\.beta=0\.3"):
        check(dpo.pipeline_spec, values(beta=0.2, config=config), ["beta", "config"])


def test_every_step_has_a_name_of_its_own() -> None:
    names = [step.name for step in steps(dpo.pipeline_spec, values())]
    assert len(set(names)) == len(names)


def test_error_comes_from_the_command_line_too() -> None:
    script = Path(__file__).parents[2] / "pipelines/dpo.py"
    done = subprocess.run(
        [sys.executable, str(script), "--run", "-p", "bta=1"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: parameters: unknown key 'bta'")
