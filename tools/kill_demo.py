"""Kill the demo at random moments (SIGKILL), let it complete, compare its weights with an undisturbed run.

    python tools/kill_demo.py UNDISTURBED_STORE [--kills 10] [--seed 0] [--store DIR]

``UNDISTURBED_STORE`` is the store of a finished ``make demo`` (``.demo/store``). The killed runs use the
same data and a store of their own. Prints each kill with the step that it hit. Exits with 1 if a trained
model differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTROL = Path(os.environ.get("COMPOSE_RL_ENV_CONTROL", ROOT / ".venvs/control"))
TRAINED = ("sft", "reward_model", "online_rl", "export")


def start(store: Path, parameters: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [CONTROL / "bin/python", ROOT / "pipelines/ppo.py", "--run", "--storage", store]
    command += ["--parameters", parameters]
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT)


def last_step(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if " | " in line]
    return re.sub(r"\s+", " ", lines[-1])[:110] if lines else "start"


def weights(store: Path) -> dict[str, str]:
    """SHA-256 of every file of weights, by stage, key and name."""
    found: dict[str, str] = {}
    for stage in TRAINED:
        for path in sorted((store / stage).glob("*/manifest.json")):
            for name, output in json.loads(path.read_text())["outputs"].items():
                for file in output["files"]:
                    if file["path"].endswith(".safetensors"):
                        found[f"{stage}/{path.parent.name[:12]}/{name}/{file['path']}"] = file["sha256"]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("undisturbed", type=Path)
    parser.add_argument("--parameters", type=Path, default=ROOT / ".demo/data/parameters.yaml")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, help="default: a temporary folder, removed at the end")
    options = parser.parse_args()
    store = options.store or Path(tempfile.mkdtemp(prefix="compose-rl-killed-"))
    log, chance = store.with_suffix(".log"), random.Random(options.seed)
    for number in range(1, options.kills + 1):
        process = start(store, options.parameters, log)
        wait = chance.uniform(2, 70)
        time.sleep(wait)
        if process.poll() is not None:
            print(f"kill {number}: not needed, the run had ended by itself ({process.returncode})")
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"kill {number}: after {wait:.1f} s, at: {last_step(log)}", flush=True)
    code = start(store, options.parameters, log).wait()
    if code:
        print(log.read_text(errors="replace")[-2000:])
        return code
    expected, found = weights(options.undisturbed), weights(store)
    different = sorted(name for name in expected if found.get(name) != expected[name])
    print(f"{len(expected)} files of weights, {len(different)} different", *different, sep="\n  ")
    if not options.store:
        shutil.rmtree(store)
    return 1 if different or not expected else 0


if __name__ == "__main__":
    sys.exit(main())
