"""Components: one per stage, with the stage's inputs, and a parameter for what a pipeline sets."""

import importlib
from pathlib import Path

import pytest

pytest.importorskip("kfp")

from components.container import environment_of, image
from components.rerun_step.component import rerun_step
from compose_rl.commands.component import OTHERWISE
from compose_rl.stages.spec import NAMES, load

COMPONENTS = Path(__file__).parents[2] / "components"


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_those_of_the_stage(name: str) -> None:
    component = getattr(importlib.import_module(f"components.{name}.component"), name)
    inputs = component.component_spec.inputs
    artifacts = {key: value.optional for key, value in inputs.items() if value.type.startswith("system.")}
    artifacts.pop(OTHERWISE, None)
    slots = load(name).inputs
    assert set(artifacts) == set(slots)
    # A slot that is optional for the stage may be required here: an absent step fills it.
    assert all(slots[key].optional for key, optional in artifacts.items() if optional)


@pytest.mark.parametrize("name", NAMES)
def test_settings_name_keys_of_the_stage(name: str) -> None:
    component = getattr(importlib.import_module(f"components.{name}.component"), name)
    arguments = component.component_spec.implementation.container.args
    for setting in (arguments[i + 1] for i, word in enumerate(arguments) if word == "--setting"):
        parameter, _, key = setting.partition("=")
        assert parameter in component.component_spec.inputs
        assert key.split(".")[0] in load(name).config.model_fields


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_described(name: str) -> None:
    component = getattr(importlib.import_module(f"components.{name}.component"), name)
    outputs = component.component_spec.outputs
    assert {"manifest", "metrics"} <= set(outputs)
    assert ("report" in outputs) == ("report" in load(name).outputs)


@pytest.mark.parametrize("name", NAMES)
def test_readme_is_there(name: str) -> None:
    text = (COMPONENTS / name / "README.md").read_text()
    assert text.startswith(f"# {name}\n")
    for slot in load(name).inputs:
        assert f"`{slot}`" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_that_wants_a_gpu_is_launched_from_control_with_its_own_image(name: str) -> None:
    component = getattr(importlib.import_module(f"components.{name}.component"), name)
    container, spec = component.component_spec.implementation.container, load(name)
    launched = "--image" in container.args
    assert launched == spec.accelerated == ("resources" in component.component_spec.inputs)
    if launched:
        assert container.args[container.args.index("--image") + 1] == image(spec.environment)
    assert container.image == image("control" if launched else spec.environment)


@pytest.mark.parametrize(
    "reference", ["compose-rl/train:0.1.0", "host:5000/x/train:v1", "host/train@sha256:abc", "train"]
)
def test_environment_of_an_image(reference: str) -> None:
    assert environment_of(reference) == "train"


@pytest.mark.parametrize("name", NAMES)
def test_a_step_may_be_run_again_with_the_same_image_and_outputs(name: str) -> None:
    component = getattr(importlib.import_module(f"components.{name}.component"), name).component_spec
    again = rerun_step(load(name)).component_spec
    kinds = {key: output.type for key, output in component.outputs.items()}
    assert {key: output.type for key, output in again.outputs.items()} == kinds
    assert again.name == component.name
    first, second = component.implementation.container, again.implementation.container
    assert (second.image, second.command) == (first.image, first.command)
    assert not any(value.type.startswith("system.") for value in again.inputs.values())
