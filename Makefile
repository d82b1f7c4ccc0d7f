# `make report` and `make test` each create what they need on a fresh machine with git, make and Python 3.11 or newer.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PYTEST_WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: report test test-slow test-pythons lint docs clean

report: .venv/core ## the main job on the bundled log
	$(BIN)/counterlog report

test: .venv/all lint ## lint, types, import contract, tests
	$(BIN)/pytest -q -n $(PYTEST_WORKERS) -m "not slow"

test-slow: .venv/all ## the tests marked slow
	$(BIN)/pytest -q -n $(PYTEST_WORKERS) -m slow

PYTHONS ?= 3.12 3.13
CORE_TESTS := tests/core tests/estimate tests/audit tests/trust tests/report/test_verdict.py

test-pythons: .venv/all ## the light core on other Pythons that are installed, and their answers beside ours
	@made=; for version in $(PYTHONS); do \
		python$$version -c '' 2>/dev/null || { echo "python$$version is not installed"; continue; }; \
		there=.venv-$$version; [ -d $$there ] || python$$version -m venv $$there; \
		$$there/bin/python -m pip install -q -c constraints.txt -e . pytest pytest-xdist pytest-timeout hypothesis pandas || exit 1; \
		$$there/bin/pytest -q -n $(PYTEST_WORKERS) -m "not slow" $(CORE_TESTS) || exit 1; \
		made=$$made:$(CURDIR)/$$there/bin/python; \
	done; COUNTERLOG_PYTHONS=$$made $(BIN)/pytest -q tests/trust/test_determinism.py

lint: .venv/all
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/all ## the site, warnings as errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -U pip

.venv/core: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

.venv/all: .venv/core
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[all,docs]' --group dev
	touch $@

clean:
	rm -rf .venv docs/_build docs/gallery .pytest_cache .mypy_cache .ruff_cache
