"""A launcher of the toy stage: what ``compose-rl stage`` is for the stages that are shipped.

``python toy_launcher.py '{"storage": ..., "config": {...}, "resources": {...}}'``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "toy"))

from toy_stage import SPEC

from compose_rl.config.resources import Resources
from compose_rl.config.schema import parse
from compose_rl.errors import StageFailed, TransientError, UserError
from compose_rl.launch import run_stage


def main() -> int:
    options = json.loads(sys.argv[1])
    try:
        resources = parse(Resources, options["resources"], "resources")
        outcome = run_stage(SPEC, options["config"], {}, options["storage"], resources=resources)
    except (UserError, TransientError, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"manifest: {outcome.manifest.uri} cached={outcome.cached}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
