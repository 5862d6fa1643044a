"""The pipelines compile, fast, without torch, to what is committed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp")

from compose_rl.errors import UserError
from compose_rl.stages.spec import load
from pipelines.dpo import dpo
from pipelines.ppo import ppo
from pipelines.reward_model import reward_model_pipeline
from pipelines.target import Target, compiled, image_references
from pipelines.wiring import STORAGE_KEYS

FOLDER = Path(__file__).parents[2] / "pipelines"
PIPELINES = {"dpo": dpo, "ppo": ppo, "reward_model": reward_model_pipeline}


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


def documents(name: str, target: Target | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The specification, and what is only for Kubernetes: settings by executor."""
    specification, platforms = yaml.safe_load_all(compiled(PIPELINES[name], target or Target()))
    return specification, platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def tasks(specification: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task that has a container, by name."""
    components = specification["components"]
    places = [specification["root"], *components.values()]
    found = {name: task for place in places for name, task in place.get("dag", {}).get("tasks", {}).items()}
    return {
        name: task for name, task in found.items() if "dag" not in components[task["componentRef"]["name"]]
    }


def containers(specification: dict[str, Any]) -> dict[str, dict[str, Any]]:
    executors = specification["deploymentSpec"]["executors"]
    return {name: executor["container"] for name, executor in executors.items()}


@pytest.mark.parametrize("name", PIPELINES)
def test_kfp_cache_is_off_and_every_input_is_passed(name: str) -> None:
    document, _ = documents(name)
    assert len(tasks(document)) > 6
    for task_name, task in tasks(document).items():
        component = document["components"][task["componentRef"]["name"]]
        declared = component["inputDefinitions"]
        assert not task["cachingOptions"].get("enableCache"), task_name
        assert set(task["inputs"]["parameters"]) == set(declared["parameters"]), task_name
        required = {k for k, v in declared.get("artifacts", {}).items() if not v.get("isOptional")}
        assert required <= set(task["inputs"].get("artifacts", {})), task_name
        # KFP fills in defaults after it has resolved arguments; with none, nothing hangs on that.
        assert not any("defaultValue" in parameter for parameter in declared["parameters"].values()), (
            task_name
        )
        assert "retryPolicy" not in task, task_name


@pytest.mark.parametrize("name", PIPELINES)
def test_executor_input_is_the_only_placeholder(name: str) -> None:
    document, _ = documents(name)
    for container in containers(document).values():
        words = [*container["command"], *container["args"]]
        assert [word for word in words if "{{" in word or '{"' in word] == ["{{$}}"]
        assert "env" not in container


@pytest.mark.parametrize("name", PIPELINES)
def test_the_run_is_reported_whatever_happens(name: str) -> None:
    document, _ = documents(name)
    root = document["root"]["dag"]["tasks"]
    report = root["report-run"]
    assert set(root) == {"report-run", *report["dependentTasks"]}
    assert report["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert report["inputs"]["parameters"]["status"] == {"taskFinalStatus": {"producerTask": "exit-handler-1"}}


@pytest.mark.parametrize("name", PIPELINES)
def test_every_step_gets_the_keys_of_the_storages_secret_if_there_is_one(name: str) -> None:
    document, settings = documents(name, Target(secret="my-secret"))
    assert set(settings) == set(containers(document))
    for setting in settings.values():
        (secret,) = setting["secretAsEnv"]
        assert secret["secretName"] == "my-secret"
        assert secret["secretNameParameter"] == {"runtimeValue": {"constant": "my-secret"}}
        assert secret["optional"] is True
        assert [(key["secretKey"], key["envVar"]) for key in secret["keyToEnv"]] == [
            (key, key) for key in STORAGE_KEYS
        ]


@pytest.mark.parametrize("name", PIPELINES)
def test_steps_that_work_in_their_own_pod_have_a_time_limit(name: str) -> None:
    document, settings = documents(name)
    for executor, container in containers(document).items():
        assert ("activeDeadlineSeconds" in settings[executor]) == ("--image" not in container["args"]), (
            executor
        )


def images(target: Target) -> set[str]:
    document, _ = documents("dpo", target)
    found = {container["image"] for container in containers(document).values()}
    launched = [c["args"] for c in containers(document).values() if "--image" in c["args"]]
    return found | {args[args.index("--image") + 1] for args in launched}


def test_images_of_another_registry() -> None:
    assert images(Target(registry="registry.example/rl", tag="v7")) == {
        "registry.example/rl/control:v7",
        "registry.example/rl/train:v7",
    }


def test_one_image_by_digest() -> None:
    given = image_references([f"train=host:5000/x/train@sha256:{'a' * 64}"])
    assert images(Target(registry="r", tag="v7", images=given)) == {
        "r/control:v7",
        f"host:5000/x/train@sha256:{'a' * 64}",
    }


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("trainer=x", "--image: unknown key 'trainer'; did you mean 'train'?"),
        ("train", "--image train: no image; write train=registry/name:tag or"),
        ("train=a b", "no image"),
        ("train=x@sha256:12", "no image"),
    ],
)
def test_bad_image_references_are_named(item: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        image_references([item])
    assert words in str(caught.value)


def test_a_gpu_step_may_run_in_its_own_pod() -> None:
    jobs, pods = (documents("dpo", Target(backend=backend))[0] for backend in ("job", "pod"))
    for name, container in containers(pods).items():
        launched = "--image" in containers(jobs)[name]["args"]
        assert "--image" not in container["args"]
        assert ("resources" in container) == launched
        if launched:
            assert container["image"] == load(container["command"][2]).environment.join(
                ["compose-rl/", f":{container['image'].rpartition(':')[2]}"]
            )
            accelerator = container["resources"]["accelerator"]
            assert accelerator["resourceType"] == "nvidia.com/gpu"
            assert accelerator["resourceCount"] == "{{$.inputs.parameters['gpus']}}"


def test_steps_that_do_not_need_each_other_are_not_chained() -> None:
    found = tasks(documents("dpo")[0])

    def upstream(name: str) -> set[str]:
        direct = set(found[name].get("dependentTasks", []))
        return direct.union(*(upstream(task) for task in direct))

    assert "reward-model" not in upstream("offline-rl")
    assert "reward-model" not in upstream("reference-logprobs")
    assert "sft" not in upstream("tokenize")


@pytest.mark.parametrize("name", PIPELINES)
def test_only_the_pipelines_own_parameters_are_described(name: str) -> None:
    """What a component's mean would stand in a run's Workflow six times for each step."""
    specification, _ = documents(name)
    assert "description" not in yaml.safe_dump(specification["components"])
    parameters = specification["root"]["inputDefinitions"]["parameters"]
    assert all("description" in one for one in parameters.values())
