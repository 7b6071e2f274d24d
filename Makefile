# Every target says what it does: a bare `make` prints it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# Where it is set, as in many containers, hundreds of processes of the tests would each compile all of the sources anew.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
SOURCES := pyproject.toml deploy/constraints.txt

DATA_KEYS ?= 100000
DEMO_FLAGS ?=
UP_FLAGS ?=
BENCH_FLAGS ?=
MINUTES ?= 10
SOAK_FLAGS ?=
PYTEST_FLAGS ?=
# Tests of real processes wait more than they work: there is room for four groups of tests on two cores.
TEST_WORKERS ?= 4
PYTEST = $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadgroup --no-loadscope-reorder --durations=25

.PHONY: help setup demo up test test-long unit acceptance check bench bench-fair bench-peers bench-growth bench-large bench-watched failpoints soak constraints

help: ## Print this help
	@echo "keyrepack: moves a customer's whole key hierarchy onto a new main key"
	@echo
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 2,16
	@echo
	@echo "  DATA_KEYS=1000000 make demo     a larger demo; DEMO_FLAGS, UP_FLAGS, BENCH_FLAGS, PYTEST_FLAGS go to their command"

setup: $(VENV)/.runtime ## Make .venv and install keyrepack into it (quick when nothing changed)

demo: $(VENV)/.runtime ## Run the main job on embedded parts: 100,000 data keys, a killed worker, a disabled key
	$(BIN)/keyrepack demo --data-keys $(DATA_KEYS) $(DEMO_FLAGS)

up: $(VENV)/.runtime ## Start the same parts and stay up; Ctrl-C stops them all
	$(BIN)/keyrepack up $(UP_FLAGS)

test: $(VENV)/.dev ## Run every test but the long ones (a missing server skips; it fails where CI is set)
	$(PYTEST) -m "not long" $(PYTEST_FLAGS)

unit: $(VENV)/.dev ## Run the tests that start no workers: rules, contracts, properties, real servers
	$(PYTEST) -m "not acceptance and not long" $(PYTEST_FLAGS)

acceptance: $(VENV)/.dev ## Run the tests of real processes
	$(PYTEST) -m "acceptance and not long" $(PYTEST_FLAGS)

test-long: $(VENV)/.dev ## Run what is too long for everybody: every failpoint, other databases, many examples
	$(PYTEST) -m long $(PYTEST_FLAGS)

check: $(VENV)/.dev ## Run what CI runs before the tests: ruff, mypy, import contracts, packaging
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_packaging.py

bench: $(VENV)/.dev ## Measure what is promised in figures: repacks beside the ceiling, locks, rotations, polls
	$(BIN)/python -m tests.bench $(BENCH_FLAGS)

bench-fair: $(VENV)/.dev ## Measure who waits: 999 small environments beside one of a million keys, within a budget
	$(BIN)/python -m tests.bench --only fair,polite $(BENCH_FLAGS)

bench-peers: $(VENV)/.dev ## Measure OpenBao's transit rewrap beside it, over as many rows in one PostgreSQL
	$(BIN)/python -m tests.bench --only peers $(BENCH_FLAGS)

bench-growth: $(VENV)/.dev ## Measure 10,000, 100,000 and 1,000,000 data keys, one after the other
	$(BIN)/python -m tests.bench --only growth $(BENCH_FLAGS)

bench-large: $(VENV)/.dev ## The same on PostgreSQL up to 10,000,000, and draw deploy/growth.svg
	$(BIN)/python -m tests.bench --only growth --growth-databases postgresql \
	  --sizes 10000,100000,1000000,10000000 --curve deploy/growth.svg $(BENCH_FLAGS)

bench-watched: $(VENV)/.dev ## Measure what 50 browsers on the dashboard cost a repack of a million keys
	$(BIN)/python -m tests.bench --only watched $(BENCH_FLAGS)

failpoints: $(VENV)/.dev ## Kill, fail, hang and delay at every boundary, on both databases
	$(BIN)/python -m pytest tests/failpoints $(PYTEST_FLAGS)

soak: $(VENV)/.dev ## Kill, lose, double and refuse at random while repacks run; MINUTES=10
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(SOAK_FLAGS)

constraints: $(VENV)/.dev ## Write deploy/constraints.txt anew from what .venv holds
	{ head -n 1 deploy/constraints.txt; $(BIN)/python -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9_.-]+=='; } > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt deploy/constraints.txt

$(VENV)/.runtime: $(BIN)/python $(SOURCES)
	@echo "installing keyrepack into $(VENV)"
	@$(PIP) install -c deploy/constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(BIN)/python $(SOURCES)
	@echo "installing keyrepack and its tools into $(VENV)"
	@$(PIP) install -c deploy/constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.runtime

# The first Python that is new enough, not only there: a shim may answer for a version that is not installed.
$(BIN)/python:
	@for python in python3.11 python3; do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  "$$python" -c 'import venv, ensurepip' 2>/dev/null \
	    || { echo "make: $$python lacks venv or ensurepip. On Debian: apt-get install python3-venv" >&2; exit 1; }; \
	  "$$python" -m venv --clear $(VENV); exit 0; \
	done; \
	echo "make: keyrepack needs Python 3.11 or later, as python3.11 or python3 on PATH." >&2; exit 1
