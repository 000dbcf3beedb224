# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
BIN := .venv/bin
RUN := outputs/demo/latest

.PHONY: demo test test-all lint setup clean

demo: setup  ## The main job on synthetic street scenes: prove the wiring, train, evaluate, calibrate
	$(BIN)/roadwork train --config configs/experiment/demo.yaml
	$(BIN)/roadwork evaluate $(RUN)
	$(BIN)/roadwork calibrate $(RUN)

test: setup  ## The tests, in under 8 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: setup  ## The long tests too
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: setup  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/.complete

.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("roadwork needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## Removes the environment and the caches; data and outputs stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis
