"""The manifests as files: rights, credentials, what the code expects. tests/cluster asks a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from compose_rl.config.resources import Resources
from compose_rl.launch.kubernetes import naming

MANIFESTS = Path(__file__).parents[2] / "manifests"
TEMPLATE = MANIFESTS / "operator/init-container.yaml"
"""Of Go; no YAML before the operator fills it in."""
Object = dict[str, Any]


def objects() -> list[tuple[str, Object]]:
    """(file, object) of everything that is applied as it stands."""
    return [
        (str(path.relative_to(MANIFESTS)), document)
        for path in sorted(set(MANIFESTS.rglob("*.yaml")) - {TEMPLATE})
        for document in yaml.safe_load_all(path.read_text())
        if isinstance(document, dict) and document["kind"] not in ("Kustomization", "Component")
    ]


def named(kind: str, name: str) -> Object:
    (found,) = [item for _, item in objects() if item["kind"] == kind and item["metadata"]["name"] == name]
    return found


def rules() -> list[tuple[str, Object]]:
    return [(file, rule) for file, item in objects() for rule in item.get("rules", [])]


def test_a_right_names_what_it_is_for() -> None:
    assert rules()
    for file, rule in rules():
        for field in ("apiGroups", "resources", "verbs"):
            assert "*" not in rule[field], (file, rule)


def test_secrets_and_config_maps_are_read_by_name_alone() -> None:
    found = [rule for _, rule in rules() if {"secrets", "configmaps"} & set(rule["resources"])]
    making = [
        rule for rule in found if rule["verbs"] == ["create"]
    ]  # a token, which none may read afterwards
    reading = [rule for rule in found if rule not in making]
    assert len(making) <= 1 < len(reading)
    for rule in reading:
        assert rule["resourceNames"]
        assert rule["verbs"] == ["get"]


def test_no_pod_is_created_or_entered() -> None:
    for file, rule in rules():
        if any(name.startswith("pods") for name in rule["resources"]):
            assert set(rule["verbs"]) <= {"get", "list", "watch"}, file
        assert not {"pods/exec", "serviceaccounts/token", "roles", "rolebindings"} & set(rule["resources"])


def test_trainers_get_no_token_and_no_right() -> None:
    account = named("ServiceAccount", "compose-rl-trainer")
    assert account["automountServiceAccountToken"] is False
    subjects = [subject["name"] for _, item in objects() for subject in item.get("subjects", [])]
    assert "compose-rl-trainer" not in subjects


def test_the_secret_is_the_one_that_runs_take_by_default() -> None:
    name = Resources().storage_secret
    assert named("Secret", name)["metadata"]["name"] == name
    (rule,) = [
        rule
        for file, rule in rules()
        if file == "base/launcher-role.yaml" and rule["resources"] == ["secrets"]
    ]
    assert rule["resourceNames"] == [name]


def test_no_manifest_holds_a_credential() -> None:
    for file, item in objects():
        for name, value in item.get("stringData", {}).items():
            if "KEY" in name:
                assert value == "PLACEHOLDER", (file, name)
        assert "data" not in item or item["kind"] != "Secret", file


def test_the_policy_holds_for_trainers_alone() -> None:
    spec = named("NetworkPolicy", "compose-rl-trainers")["spec"]
    (expression,) = spec["podSelector"]["matchExpressions"]
    assert expression == {"key": naming.STAGE_LABEL, "operator": "Exists"}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [{"from": [{"podSelector": spec["podSelector"]}]}]


def test_the_runtime_is_the_one_that_train_jobs_take_by_default() -> None:
    assert named("TrainingRuntime", Resources().runtime)


@pytest.mark.parametrize(
    "path", sorted(MANIFESTS.rglob("kustomization.yaml")), ids=lambda path: path.parent.name
)
def test_a_kustomization_names_every_file_beside_it(path: Path) -> None:
    kustomization = yaml.safe_load(path.read_text())
    named_files = set(kustomization.get("resources", []))
    for generator in kustomization.get("configMapGenerator", []):
        named_files |= {file.rpartition("=")[2] for file in generator["files"]}
    beside = {file.name for file in path.parent.iterdir()} - {path.name}
    assert beside <= named_files
    for name in named_files | set(kustomization.get("components", [])):
        assert (path.parent / name).exists(), name
