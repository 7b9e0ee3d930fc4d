# make repro: environment and the whole comparison.  make test: environment and tests.  make test-long: the long ones.
PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: repro test test-long test-oldest test-newest audit-dependencies lint ui clean

repro: .venv/installed
	$(BIN)/bdh repro --jobs $(JOBS)

test: .venv/installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

test-long: .venv/installed-dev
	$(BIN)/python -m pytest -m long $(PYTEST_ARGS)

# the oldest and the newest allowed release of every dependency, each in an environment of its own
test-oldest test-newest: .venv/installed-dev
	$(BIN)/python -m tests.versions $(@:test-%=%)

# known vulnerabilities of the pinned releases
audit-dependencies: .venv/installed-dev
	$(BIN)/uvx pip-audit --requirement constraints.txt --no-deps --disable-pip

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: .venv/installed
	$(BIN)/bdh ui

clean:
	[ ! -d data ] || find data -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -rf {} +
	rm -rf mlruns mlflow.db mlflow.db-* reports/index.html reports/figures .pytest_cache .mypy_cache .ruff_cache build *.egg-info

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/installed
