"""Secrets that a pod has as files, since its operator knows no ``envFrom``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compose_rl.launch import trainer


def test_files_become_variables_and_what_is_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # As Kubernetes projects a secret: links into a hidden folder.
    hidden = tmp_path / "..2026"
    hidden.mkdir()
    for name, value in {"NEW_KEY": "a\nb", "OLD_KEY": "other", "no-variable": "x"}.items():
        (hidden / name).write_text(value)
        (tmp_path / name).symlink_to(hidden / name)
    (tmp_path / "..data").symlink_to(hidden)
    monkeypatch.setattr(os, "environ", {**os.environ, "OLD_KEY": "kept"})
    code = trainer.main(["--module", "no.such.module", f"--job={tmp_path}/job.json", f"--secrets={tmp_path}"])
    assert code != 0
    assert (os.environ["NEW_KEY"], os.environ["OLD_KEY"]) == ("a\nb", "kept")
    assert "no-variable" not in os.environ
