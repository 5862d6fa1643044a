"""A pipeline's configuration document and the plain parameters below it."""

import pytest

from compose_rl.config.steps import sections, step_document
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
