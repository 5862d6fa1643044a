# `make help` lists the targets.
PYTHON ?= python3
CONTROL := $(or $(COMPOSE_RL_ENV_CONTROL),.venvs/control)
TRAIN := $(or $(COMPOSE_RL_ENV_TRAIN),.venvs/train)
DEMO := .demo
# Tests that need kfp run in the control environment, all others in the training environment.
CONTROL_TESTS := tests/pipelines tests/components
PYTEST := -m pytest --timeout=600 --durations=10
# Files of tests run side by side, the long ones first (tests/conftest.py); a file's tests stay together.
WORKERS ?= 2
BESIDE := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
IMAGES ?= control train rollout
IMAGE_OPTIONS = $(REGISTRY:%=--registry=%) $(TAG:%=--tag=%) $(ENGINE:%=--engine=%) $(OPTION:%=--option=%) \
	$(foreach name,$(IMAGES),$(BASE_$(name):%=--base=$(name)=%))
# Where uv lies if we had to install it.
export PATH := $(PATH):$(CURDIR)/.venvs/uv/bin
LOCK := pip compile --quiet --upgrade --generate-hashes --no-emit-index-url --no-header --no-annotate \
	--python-version 3.11 --python-platform x86_64-manylinux_2_28

.PHONY: help environments environments-test demo test test-vllm cluster-test cluster-test-api lint types compile lock images images-push bench ci clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

environments:  ## create .venvs/control and .venvs/train from their locks
	@$(PYTHON) tools/environments.py control train

environments-test:  ## the same, with what the tests need
	@$(PYTHON) tools/environments.py --tests control train

demo: environments $(DEMO)/data/parameters.yaml  ## the whole of RLHF on a small model, from data to reports
	@$(CONTROL)/bin/python pipelines/ppo.py --run --storage $(DEMO)/store --parameters $(DEMO)/data/parameters.yaml

$(DEMO)/data/parameters.yaml: $(wildcard compose_rl/demo/*.*) | environments
	@$(TRAIN)/bin/python -m compose_rl.demo --out $(DEMO)/data

# Tests keep a core busy each: more threads would only be in each other's way.
test: export OMP_NUM_THREADS = 1
test: environments-test  ## every test, each in the environment it needs; WORKERS=2 at a time, about 3 GB each
	@$(CONTROL)/bin/python $(PYTEST) $(BESIDE) $(CONTROL_TESTS)
	@$(TRAIN)/bin/python $(PYTEST) $(BESIDE) tests $(CONTROL_TESTS:%=--ignore=%) --ignore=tests/cluster --ignore=tests/rollouts_vllm

test-vllm: environments-test  ## generation by a real vLLM, on CPU where there is no GPU (6 GB of environment)
	@$(PYTHON) tools/environments.py rollout
	@$(TRAIN)/bin/python $(PYTEST) tests/rollouts_vllm

cluster-test: environments-test  ## the launcher on a real cluster made of processes here (root, Go; 8 minutes to build once)
	@$(CONTROL)/bin/python tests/cluster/tools build node
	@$(CONTROL)/bin/python $(PYTEST) tests/cluster

cluster-test-api: environments-test  ## the part of it in which no pod runs
	@$(CONTROL)/bin/python tests/cluster/tools build api
	@$(CONTROL)/bin/python $(PYTEST) tests/cluster -m "not node"

lint: environments-test  ## ruff
	@$(TRAIN)/bin/ruff check .
	@$(TRAIN)/bin/ruff format --check .

types: environments-test  ## pyright
	@$(TRAIN)/bin/pyright --pythonpath $(TRAIN)/bin/python

compile: environments  ## write pipelines/compiled/*.yaml
	@for pipeline in dpo ppo reward_model; do $(CONTROL)/bin/python pipelines/$$pipeline.py --compile || exit; done

lock:  ## recompile the locks from requirements.in
	@command -v uv > /dev/null || $(PYTHON) -m pip install --quiet --target .venvs/uv uv
	@for folder in images/control images/train images/rollout benchmarks/trl benchmarks/trl_ppo; do \
		uv $(LOCK) -o $$folder/requirements.txt $$folder/requirements.in || exit; done
	@uv $(LOCK) --override images/rollout/overrides-cpu.txt -o images/rollout/requirements-cpu.txt images/rollout/requirements-cpu.in
	@uv $(LOCK) -c images/train/requirements.txt -o tests/requirements.txt tests/requirements.in

images:  ## build images: IMAGES="control train" REGISTRY=... TAG=... ENGINE=docker|buildah BASE_train=... OPTION=...
	@$(PYTHON) tools/images.py build $(IMAGES) $(IMAGE_OPTIONS)

images-push:  ## push them and print their digests; the same variables
	@$(PYTHON) tools/images.py push $(IMAGES) $(IMAGE_OPTIONS)

bench: environments  ## a DPO step, a GRPO and a PPO iteration beside TRL's
	@benchmarks/run.sh dpo
	@benchmarks/run.sh grpo
	@benchmarks/run.sh ppo

ci: lint types test  ## what a change has to pass

clean:  ## remove what the demo made
	@rm -rf $(DEMO)
