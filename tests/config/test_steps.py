"""A pipeline's configuration document and the plain parameters below it."""

import pytest

from compose_rl.config.steps import sections, step_document, step_resources
from compose_rl.errors import UserError

SETTINGS = ["loss_type=model.loss_type", "beta=model.beta", "max_length=max_length"]


def parameters(config: str, **values: object) -> dict[str, object]:
    return {"config": config, "step": "offline_rl", "loss_type": "", "beta": 0.0, "max_length": 0, **values}


def test_parameters_set_their_keys() -> None:
    found = step_document(parameters("", loss_type="ipo", beta=0.5, max_length=64), SETTINGS)
    assert found == {"model": {"loss_type": "ipo", "beta": 0.5}, "max_length": 64}


def test_empty_and_zero_leave_the_stages_default() -> None:
    assert step_document(parameters(""), SETTINGS) == {}


def test_the_steps_section_wins() -> None:
    config = "offline_rl: {model: {beta: 0.1}, seed: 3}\nsft: {seed: 4}"
    found = step_document(parameters(config, loss_type="ipo", beta=0.5), SETTINGS)
    assert found == {"model": {"loss_type": "ipo", "beta": 0.1}, "seed": 3}


def test_a_section_may_be_empty() -> None:
    assert sections("sft:\n") == {"sft": {}}


@pytest.mark.parametrize("config", ["[1]", "sft: 3", "sft: [", "text"])
def test_what_is_no_document_of_sections_is_refused(config: str) -> None:
    with pytest.raises(UserError, match=r"^config: "):
        sections(config)


def resources(text: str, **values: object) -> dict[str, object]:
    return {"step": "sft", "nodes": 0, "gpus": 0, "resources": text, **values}


def test_resources_of_a_step_are_its_section_over_the_default_over_plain_parameters() -> None:
    text = "default: {gpus_per_node: 4, memory: 8Gi, env: {A: a}}\nsft: {memory: 64Gi, env: {B: b}}"
    found = step_resources(resources(text, nodes=2, gpus=8), distributed=True)
    assert (found.nodes, found.gpus_per_node, found.memory) == (2, 4, "64Gi")
    assert found.env == {"A": "a", "B": "b"}


def test_a_stage_of_one_process_takes_one_of_what_all_steps_get() -> None:
    text = "default: {nodes: 4, procs_per_node: 8, memory: 8Gi}"
    found = step_resources(resources(text, gpus=8), distributed=False)
    assert (found.nodes, found.procs_per_node, found.gpus_per_node, found.memory) == (1, 1, 1, "8Gi")
    assert step_resources(resources(""), distributed=False).gpus_per_node == 0


@pytest.mark.parametrize("key", ["nodes", "procs_per_node", "gpus_per_node"])
def test_a_stage_of_one_process_refuses_more_in_its_own_section(key: str) -> None:
    with pytest.raises(UserError, match=f"resources sft: {key}=2, but this step runs as one process; set 1"):
        step_resources(resources(f"sft: {{{key}: 2}}"), distributed=False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sft: {memry: 1Gi}", "resources sft: unknown key 'memry'; did you mean 'memory'"),
        ("default: {nodes: 0}", "resources default: nodes=0"),
        ("default: 8", "resources: default=8 is no mapping"),
        ("default: [", "resources: not YAML"),
    ],
)
def test_bad_resources_are_named(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        step_resources(resources(text), distributed=True)
