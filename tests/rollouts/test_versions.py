"""What a server says of its libraries, and what is refused for them."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from compose_rl.errors import UserError
from compose_rl.rollouts.versions import check_sync, installed_versions


def test_versions_are_those_installed() -> None:
    found = installed_versions()
    assert found["torch"] == version("torch")
    assert found["vllm"] is None


def test_files_need_no_common_version() -> None:
    check_sync("file", {"nccl": "0.0.0"})


def test_nccl_between_different_versions_is_refused_with_both() -> None:
    ours = installed_versions()
    other = {**ours, "nccl": "0.0.1"}
    with pytest.raises(UserError, match=rf"trainer has NCCL {ours['nccl']}.*server NCCL 0\.0\.1.*sync: file"):
        check_sync("nccl", other)


def test_nccl_between_equal_versions_is_not_built() -> None:
    with pytest.raises(UserError, match=r"not built; set engine\.sync: file"):
        check_sync("nccl", dict(installed_versions()))
