"""Which interpreter belongs to an environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from compose_rl.errors import UserError

__all__ = ["interpreter"]


def interpreter(name: str) -> str:
    """Path of the Python of environment ``name``.

    In this order: ``COMPOSE_RL_ENV_<NAME>`` (a virtual environment's folder), this interpreter where
    ``COMPOSE_RL_ENV`` says that this image is that environment, ``.venvs/<name>`` of the checkout.

    Raises:
        UserError: there is no such environment.
    """
    variable = f"COMPOSE_RL_ENV_{name.upper()}"
    given = os.environ.get(variable)
    if given:
        python = Path(given).expanduser() / "bin" / "python"
        if not python.exists():
            raise UserError(
                f"{variable}={given}: has no bin/python; give the folder of a virtual environment"
            )
        return str(python)
    if os.environ.get("COMPOSE_RL_ENV") == name:
        return sys.executable
    folder = Path(__file__).parents[1] / ".venvs" / name
    if (folder / "bin" / "python").exists():
        return str(folder / "bin" / "python")
    raise UserError(
        f"environment '{name}' is not installed ({folder}); run 'make environments' or set {variable}"
    )
