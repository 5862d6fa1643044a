"""What a job may ask of its place, and the line that says what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from compose_rl.config.resources import Resources
from compose_rl.config.schema import parse
from compose_rl.errors import UserError

CREDENTIAL = "hunter2-very-secret"


def refused(**fields: Any) -> str:
    with pytest.raises(UserError) as error:
        parse(Resources, fields, "resources")
    message = str(error.value)
    assert "\n" not in message and message.startswith("resources: ")
    return message


def test_a_process_for_each_gpu_and_one_where_there_is_none():
    assert Resources().procs == 1
    assert Resources(gpus_per_node=4).procs == 4
    assert Resources(procs_per_node=2).procs == 2


@pytest.mark.parametrize("field", ["cpu", "memory", "shm"])
@pytest.mark.parametrize(
    "value, kept", [("64Gi", "64Gi"), ("500m", "500m"), ("1.5", "1.5"), (8, "8"), (0.5, "0.5")]
)
def test_quantities_are_text_or_numbers(field: str, value: Any, kept: str):
    assert getattr(parse(Resources, {field: value}, "resources"), field) == kept


@pytest.mark.parametrize("value", ["64GB", "-1", "1 Gi", "", "Gi", True, "1e"])
def test_what_is_no_quantity_is_refused_with_an_example(value: Any):
    message = refused(memory=value)
    assert f"memory={value!r}" in message
    assert "64Gi" in message or value is True


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"queue": "Team A"}, "queue='Team A': not a DNS name"),
        ({"queue": "q" * 64}, "has 64 characters; at most 63"),
        ({"service_account": "-x"}, "not a DNS name"),
        ({"service_account": "s" * 254}, "at most 253"),
        ({"secrets": ["ok", "Not_ok"]}, "secrets.1='Not_ok': not a DNS name"),
        ({"image": "ghcr.io/Team/Image:1"}, "image='ghcr.io/Team/Image:1': not an image"),
        ({"image": "a b"}, "not an image"),
        ({"gpu": "nvidia com/gpu"}, "no DNS name"),
        ({"labels": {"a b": "c"}}, "'a b': use at most 63 letters"),
        ({"labels": {"team": "x" * 64}}, "use at most 63 letters"),
        ({"labels": {"compose-rl/key": "x"}}, "are Compose RL's own; choose another"),
        ({"annotations": {"/x": "y"}}, "the part before '/' is no DNS name"),
        ({"node_selector": {"pool": "a b"}}, "'pool: a b'"),
        ({"queue_priority": "high"}, "queue_priority=high, but there is no queue; set queue"),
        ({"gpus_per_node": 8, "procs_per_node": 4}, "procs_per_node=4, but gpus_per_node=8"),
        ({"gpus_per_node": 2, "procs_per_node": 4}, "leave procs_per_node at 0"),
        ({"extra": {"nvidia.com/gpu": "8"}}, "extra: nvidia.com/gpu=8: set gpus_per_node instead"),
        ({"extra": {"amd.com/gpu": "8"}}, "extra: amd.com/gpu=8: set gpu and gpus_per_node instead"),
        ({"extra": {"nvidia.com/mig-1g.5gb": 1}}, "set gpu and gpus_per_node instead"),
        ({"extra": {"memory": "8Gi"}}, "extra: memory=8Gi: set memory instead"),
        ({"extra": {"rdma/ib": "lots"}}, "extra.rdma/ib='lots': not a quantity"),
        ({"volumes": [{"emptyDir": {}}]}, "a volume has no name"),
        ({"volumes": [{"name": "scratch"}]}, "the name 'scratch' is taken"),
        ({"volumes": [{"name": "a"}, {"name": "a"}]}, "the name 'a' is taken"),
        ({"nodes": 0}, "nodes=0"),
        ({"memroy": "1Gi"}, "unknown key 'memroy'; did you mean 'memory'?"),
    ],
)
def test_bad_input_is_one_line_that_names_the_field(fields: dict[str, Any], said: str):
    assert said in refused(**fields)


@pytest.mark.parametrize(
    "mount, said",
    [
        (
            {"name": "date", "mountPath": "/data"},
            "no volume is called 'date' (volumes: data); add it to volumes",
        ),
        ({"name": "data"}, "'data' needs a mountPath that starts with '/'"),
        ({"name": "data", "mountPath": "/tmp/"}, "mountPath /tmp of 'data' is taken"),
        ({"name": "data", "mountPath": "/dev/shm"}, "mountPath /dev/shm of 'data' is taken"),
    ],
)
def test_a_mount_that_cannot_be_is_refused(mount: dict[str, str], said: str):
    assert said in refused(volumes=[{"name": "data", "emptyDir": {}}], volume_mounts=[mount])


def test_a_volume_may_be_mounted_twice_but_not_at_one_place():
    volumes = [{"name": "data", "emptyDir": {}}]
    mounts = [{"name": "data", "mountPath": path} for path in ("/a", "/b")]
    assert len(Resources(volumes=volumes, volume_mounts=mounts).volume_mounts) == 2
    assert "mountPath /a of 'data' is taken" in refused(volumes=volumes, volume_mounts=[*mounts, mounts[0]])


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "WANDB_API_KEY",
        "apikey",
        "DB_PASSWORD",
        "CLIENT_SECRET_ID",
        "SSH_PASSPHRASE",
        "AWS_CREDENTIALS",
    ],
)
def test_a_credential_is_no_plain_variable_and_is_not_shown(name: str):
    message = refused(env={name: CREDENTIAL})
    assert f"env: {name} looks like a credential; put it into a Secret" in message
    assert CREDENTIAL not in message


def test_a_credential_in_a_url_is_found_and_not_shown():
    message = refused(env={"HTTPS_PROXY": f"http://me:{CREDENTIAL}@proxy:3128"})
    assert "HTTPS_PROXY looks like a credential" in message
    assert CREDENTIAL not in message


@pytest.mark.parametrize(
    "env",
    [
        [{"name": "HF_TOKEN", "value": CREDENTIAL}],
        f"HF_TOKEN={CREDENTIAL}",
        {"A B": CREDENTIAL},
        {"A": [CREDENTIAL]},
        {"RANK": CREDENTIAL},
    ],
)
def test_no_message_about_the_environment_shows_a_value(env: Any):
    assert CREDENTIAL not in refused(env=env, memory="1Gi")


def test_another_mistake_beside_a_credential_does_not_show_it():
    assert CREDENTIAL not in refused(env={"HF_TOKEN": CREDENTIAL}, gpus_per_node=8, procs_per_node=4, cpu="x")


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "PET_NNODES"])
def test_what_the_operator_sets_is_refused(name: str):
    assert f"env: {name} is set by the training operator; remove it" in refused(env={name: "1"})


def test_variables_that_are_no_secret_pass_and_numbers_are_taken_as_text():
    env = {"OMP_NUM_THREADS": 8, "TOKENIZERS_PARALLELISM": "false", "NCCL_IB_PKEY": "1", "HF_TOKEN": ""}
    assert parse(Resources, {"env": env}, "resources").env == {**env, "OMP_NUM_THREADS": "8"}


def test_every_setting_at_once_is_taken():
    document = {
        "backend": "trainjob",
        "nodes": 2,
        "gpus_per_node": 8,
        "cpu": 64,
        "memory": "512Gi",
        "extra": {"rdma/ib": 1, "ephemeral-storage": "1Ti"},
        "image": "registry.example.com:5000/team/train:0.1.0@sha256:" + "0" * 64,
        "labels": {"team": "a", "example.com/cost-centre": "17"},
        "annotations": {"example.com/note": "any text: at all"},
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "queue": "team-a",
        "queue_priority": "high",
    }
    assert parse(Resources, document, "resources").cpu == "64"
