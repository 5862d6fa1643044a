"""Run by torchrun: train the job files named on the command line, one after the other, in two processes."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from compose_rl.stages.attempt import JobFile
from compose_rl.stages.job import Job, execute
from compose_rl.stages.spec import load

if __name__ == "__main__":
    for path in sys.argv[1:]:
        document = JobFile.model_validate(json.loads(Path(path).read_text()))
        run = importlib.import_module(f"compose_rl.stages.{document.stage}.run").run
        execute(Job(load(document.stage), document), run)
