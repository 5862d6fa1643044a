"""Run as a stage by two trainers: train several jobs, one after the other, in the same processes.

The job file of this one lists the URIs of theirs. One that names a batch in ``crash`` ends there by an error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os

from compose_rl.stages.attempt import JobFile
from compose_rl.stages.job import Job, execute
from compose_rl.stages.spec import load
from compose_rl.store import split


def train(uri: str) -> None:
    store, name = split(uri)
    document = JobFile.model_validate_json(store.read(name))
    run = importlib.import_module(f"compose_rl.stages.{document.stage}.run").run
    execute(Job(load(document.stage), document), run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", required=True)
    store, name = split(parser.parse_args().job)
    for uri, crash in json.loads(store.read(name)):
        os.environ["CRASH"] = str(crash)
        try:
            train(uri)
        except RuntimeError as error:
            if str(error) != "crash":
                raise
