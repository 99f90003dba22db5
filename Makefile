# Set-up and the jobs of a day. It needs Linux and Python >= 3.11 with pip; the first run of either installs all else.
#
#   make demo    the main job, on photographs that packages carry
#   make test    what CI runs: style, types, all tests
#   make quick   the tests that take seconds

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test quick check format

demo: $(VENV)/installed
	$(BIN)/koala demo

test: check
	$(BIN)/python -m pytest -m "slow or not slow"

quick: $(VENV)/installed
	$(BIN)/python -m pytest

check: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,dev,eval]"
	touch $@
