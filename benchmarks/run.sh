#!/usr/bin/env bash
# Makes TRL's environment from its lock and runs a benchmark beside it: run.sh dpo|grpo|grpo_curve ARGUMENTS, those of
# benchmarks/<it>_step.py or benchmarks/<it>.py.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?dpo, grpo or grpo_curve}
shift
[ -e "benchmarks/$name.py" ] || name=${name}_step
export PATH="$PATH:$PWD/.venvs/uv/bin"
lock=benchmarks/trl/requirements.txt
if ! cmp -s "$lock" .venvs/bench/installed.txt; then
    echo "Installing TRL's environment into .venvs/bench (a few minutes the first time)"
    uv venv --quiet --allow-existing --python 3.11 .venvs/bench
    VIRTUAL_ENV="$PWD/.venvs/bench" uv pip sync --require-hashes --compile-bytecode "$lock"
    cp "$lock" .venvs/bench/installed.txt
fi
exec "${COMPOSE_RL_ENV_TRAIN:-.venvs/train}/bin/python" -m "benchmarks.$name" "$@"
