"""The pipelines compile, fast, without torch, to what is committed."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("kfp")

from pipelines.command_line import compiled
from pipelines.dpo import dpo
from pipelines.reward_model import reward_model_pipeline

FOLDER = Path(__file__).parents[2] / "pipelines"
PIPELINES = {"dpo": dpo, "reward_model": reward_model_pipeline}


def without_sdk_version(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("sdkVersion:")]


@pytest.mark.parametrize("name", PIPELINES)
def test_committed_yaml_is_what_the_code_compiles_to(name: str) -> None:
    committed = (FOLDER / "compiled" / f"{name}.yaml").read_text()
    assert without_sdk_version(compiled(PIPELINES[name])) == without_sdk_version(committed), (
        "run 'make compile'"
    )


@pytest.mark.parametrize("name", PIPELINES)
def test_compiling_needs_neither_torch_nor_the_trainer(name: str, tmp_path: Path) -> None:
    output = tmp_path / "out.yaml"
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--compile', '--output', {str(output)!r}]\n"
        f"runpy.run_path({str(FOLDER / f'{name}.py')!r}, run_name='__main__')\n"
        "heavy = {'torch', 'composer', 'llmfoundry', 'transformers', 'streaming', 'datasets', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert without_sdk_version(output.read_text()) == without_sdk_version(compiled(PIPELINES[name]))


@pytest.mark.parametrize("name", PIPELINES)
def test_kfp_cache_is_off_and_every_input_is_passed(name: str) -> None:
    document = yaml.safe_load(compiled(PIPELINES[name]))
    for task_name, task in document["root"]["dag"]["tasks"].items():
        component = document["components"][task["componentRef"]["name"]]
        declared = component["inputDefinitions"]
        assert not task["cachingOptions"].get("enableCache"), task_name
        assert set(task["inputs"]["parameters"]) == set(declared["parameters"]), task_name
        required = {k for k, v in declared.get("artifacts", {}).items() if not v.get("isOptional")}
        assert required <= set(task["inputs"].get("artifacts", {})), task_name


@pytest.mark.parametrize("name", PIPELINES)
def test_executor_input_is_the_only_placeholder(name: str) -> None:
    document = yaml.safe_load(compiled(PIPELINES[name]))
    for executor in document["deploymentSpec"]["executors"].values():
        words = [*executor["container"]["command"], *executor["container"]["args"]]
        assert [word for word in words if "{{" in word or '{"' in word] == ["{{$}}"]


def test_images_of_another_registry() -> None:
    document = yaml.safe_load(compiled(dpo, registry="registry.example/rl", tag="v7"))
    images = {e["container"]["image"] for e in document["deploymentSpec"]["executors"].values()}
    assert images == {"registry.example/rl/control:v7", "registry.example/rl/train:v7"}


def test_steps_that_do_not_need_each_other_are_not_chained() -> None:
    tasks = yaml.safe_load(compiled(dpo))["root"]["dag"]["tasks"]

    def upstream(name: str) -> set[str]:
        direct = set(tasks[name].get("dependentTasks", []))
        return direct.union(*(upstream(task) for task in direct))

    assert "reward-model" not in upstream("offline-rl")
    assert "reward-model" not in upstream("reference-logprobs")
    assert "sft" not in upstream("tokenize")
