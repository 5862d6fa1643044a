#!/usr/bin/env bash
# Makes TRL's environment from its lock and runs a benchmark beside it: run.sh dpo|grpo|grpo_curve|ppo|ppo_curve ARGUMENTS,
# those of benchmarks/<it>_step.py or benchmarks/<it>.py.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?dpo, grpo, grpo_curve, ppo or ppo_curve}
shift
lock=benchmarks/trl/requirements.txt environment=.venvs/bench
if [[ $name == ppo* ]]; then # of an older TRL: the newest has no PPO trainer
    lock=benchmarks/trl_ppo/requirements.txt environment=.venvs/bench-ppo
fi
[ -e "benchmarks/$name.py" ] || name=${name}_step
export PATH="$PATH:$PWD/.venvs/uv/bin"
if ! cmp -s "$lock" "$environment/installed.txt"; then
    echo "Installing TRL's environment into $environment (a few minutes the first time)"
    uv venv --quiet --allow-existing --python 3.11 "$environment"
    VIRTUAL_ENV="$PWD/$environment" uv pip sync --require-hashes --compile-bytecode "$lock"
    cp "$lock" "$environment/installed.txt"
fi
exec "${COMPOSE_RL_ENV_TRAIN:-.venvs/train}/bin/python" -m "benchmarks.$name" "$@"
