"""Write the demo's data and untrained model: ``python -m compose_rl.demo --out DIR [--seed N]``."""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterable
from importlib.resources import files
from itertools import islice
from pathlib import Path
from string import Template

from compose_rl.demo.language import instructions, preferences, requests

SIZES = {"instructions": 12288, "preferences": 4096, "prompts": 256, "training_prompts": 8192}
"""Rows of each file."""
PARAMETERS = ("parameters.yaml", "dpo.yaml")


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_data(folder: Path, seed: int, sizes: dict[str, int] = SIZES) -> None:
    """Write a file of JSON lines for each of ``sizes``; no request stands twice, in one or in two of them.

    The same seed gives the same bytes.
    """
    rng = random.Random(seed)
    source = requests(rng)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "prompts.jsonl", ({"prompt": r.text} for r in islice(source, sizes["prompts"])))
    _write(folder / "preferences.jsonl", preferences(source, rng, sizes["preferences"]))
    _write(folder / "instructions.jsonl", instructions(source, rng, sizes["instructions"]))
    tasks = islice(source, sizes["training_prompts"])
    _write(folder / "training_prompts.jsonl", ({"prompt": r.text} for r in tasks))


def write_parameters(folder: Path) -> None:
    """Write ``parameters.yaml`` for ``pipelines/ppo.py`` and ``dpo.yaml`` for ``pipelines/dpo.py``."""
    for name in PARAMETERS:
        text = files("compose_rl.demo").joinpath(name).read_text(encoding="utf-8")
        (folder / name).write_text(Template(text).substitute(folder=folder.resolve()), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m compose_rl.demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args(arguments)
    write_data(options.out, options.seed)
    from compose_rl.demo.model import save_base_model

    save_base_model(options.out / "model", options.seed)
    write_parameters(options.out)
    sys.stdout.write(f"Demo data and untrained model: {options.out}\n")


if __name__ == "__main__":
    main()
