# `make train` and `make test` need Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/digits.py
WORKDIR ?= runs/digits
ARGS ?=
SHARD ?= 1/1

BIN := $(VENV)/bin
NAME := $(basename $(notdir $(CONFIG)))
FAST := not slow and not nightly and not gpu
# of the core; run in float64 too, but for tests that choose the precision themselves
X64 := $(patsubst %,tests/core/test_%.py,analytic dataclass grids guidance \
  guidance_constraints losses losses_kl losses_limits objectives objectives_recipes \
  predictions predictions_conversion predictions_reschedule processes random schedules \
  schedules_learned schedules_transforms times times_adaptive weightings) \
  tests/networks/test_outside.py
# compiling is most of the tests' time: programs of `test`, `test-ci` and `test-slow` are
# optimized less, and shared; QUICK= optimizes them as for users, as the others always are
QUICK := --xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false

.PHONY: help train sample curve docs notebooks test test-ci test-x64 test-slow \
  test-nightly test-all lint types format
.DELETE_ON_ERROR:

help:
	@echo "make train      train CONFIG=$(CONFIG) into WORKDIR=$(WORKDIR), or resume it"
	@echo "make sample     draw samples from WORKDIR=$(WORKDIR)"
	@echo "make curve      the reference curve of CONFIG, from three seeds"
	@echo "make test       the fast tests        make test-x64   the core's in float64"
	@echo "make test-ci    tests that take longer, such as trainings of a few steps"
	@echo "make test-slow  kills, resumes, notebooks: long, and nothing else proves it"
	@echo "make test-nightly  every sampler on every schedule, and such; SHARD=1/4: a part"
	@echo "make test-all   all of these"
	@echo "make docs       the documentation: site/index.html"
	@echo "make notebooks  executes notebooks/*.py and writes the .ipynb"
	@echo "make lint       ruff, nothing changed        make types      mypy"
	@echo "ARGS='...' is passed on; PYTHON=python3.12 chooses the interpreter"

train: $(VENV)/.train
	$(BIN)/python -m experiments.train --config=$(CONFIG) --workdir=$(WORKDIR) $(ARGS)

sample: $(VENV)/.train
	$(BIN)/python -m experiments.sample --workdir=$(WORKDIR) $(ARGS)

# three runs that differ in their seeds; stopped, it goes on
curve: $(VENV)/.train
	for seed in 0 1 2; do $(BIN)/python -m experiments.train --config=$(CONFIG) \
	  --workdir=runs/curves/$(NAME)/$$seed --config.seed=$$seed $(ARGS) || exit; done
	$(BIN)/python benchmarks/reference_curve.py --config=$(CONFIG) \
	  $(addprefix runs/curves/$(NAME)/,0 1 2)

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -q -W --keep-going docs .cache/docs/html
	mkdir -p site && cp -r .cache/docs/html/. site

notebooks: $(VENV)/.notebooks
	$(BIN)/python notebooks/build.py $(ARGS)

test: $(VENV)/.test
	XLA_FLAGS="$(strip $(QUICK) $$XLA_FLAGS)" \
	  $(BIN)/python -m pytest -q -n auto --dist worksteal -m '$(FAST) and not ci' $(ARGS)

test-ci: $(VENV)/.test
	XLA_FLAGS="$(strip $(QUICK) $$XLA_FLAGS)" \
	  $(BIN)/python -m pytest -q -n auto --dist worksteal -m '$(FAST) and ci' $(ARGS)

test-slow: $(VENV)/.test
	XLA_FLAGS="$(strip $(QUICK) $$XLA_FLAGS)" \
	  $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder \
	  -m 'slow and not nightly and not gpu' $(ARGS)

test-nightly: $(VENV)/.test
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'nightly and not gpu' \
	  --shard=$(SHARD) $(ARGS)
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest -q -n auto --dist worksteal \
	  -m '$(FAST) and ci and not pinned' --shard=$(SHARD) $(X64) $(ARGS)

test-all: test test-ci test-x64 test-slow test-nightly

test-x64: $(VENV)/.test
	JAX_ENABLE_X64=1 $(BIN)/python -m pytest -q -n auto --dist worksteal \
	  -m '$(FAST) and not ci and not pinned' $(X64) $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/python -m mypy

format: $(VENV)/.test
	$(BIN)/ruff format .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than 3.11;" \
	    "choose another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train]'
	@touch $@

$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,test]'
	@touch $(VENV)/.train $@

$(VENV)/.docs: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,docs]'
	@touch $@

$(VENV)/.notebooks: $(VENV)/.train
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[train,notebooks]'
	@touch $@
