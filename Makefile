# Set-up and the jobs of a day. It needs Linux and Python >= 3.11 with pip; the first run of either installs all else.
#
#   make demo    the main job, on photographs that packages carry
#   make test    what CI runs: style, types, all tests
#   make quick   the tests that take seconds
#   make docs    the documentation, in build/docs; a warning is an error
#   make gpu     what is right and how fast it is on this machine's GPU, in some ten minutes; PHOTOS=DIR names photographs
#   make release wheel and source distribution in dist/, checked and tried in a fresh environment
#   make system  what some tests need beside Python's packages: a Slurm and a browser, on Debian, as root

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
FRESH := build/fresh

.PHONY: demo test quick check format docs gpu release system

demo: $(VENV)/installed
	$(BIN)/koala demo

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" -n 2 --dist loadfile --durations=15

quick: $(VENV)/installed
	$(BIN)/python -m pytest

check: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/installed
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet --builder html docs build/docs

gpu: $(VENV)/installed
	$(BIN)/python -m benchmarks.gpu $(if $(PHOTOS),--photos "$(PHOTOS)") $(GPU_FLAGS)

# wheel and source distribution, tried without extras; the photo comes with scikit-image
release: export PYTHONPATH :=
release: $(VENV)/installed
	rm -rf dist $(FRESH)
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(FRESH)
	set -e; for archive in dist/*; do \
		$(FRESH)/bin/python -m pip install --quiet --constraint constraints.txt "$$archive"; \
		$(FRESH)/bin/koala --version; \
		$(FRESH)/bin/koala --help >/dev/null; \
		$(FRESH)/bin/koala colorize $(FRESH)/lib/python*/site-packages/skimage/data/coffee.png \
			--recolor --overwrite --out $(FRESH)/colored; \
		$(FRESH)/bin/python -m pip uninstall --quiet --yes koalarization; \
	done
	rm -rf $(FRESH)

system:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
		slurmctld slurmd slurm-client iproute2 util-linux shellcheck chromium chromium-driver

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,eval,gallery,onnx,parquet,photos,remote,study,docs,dev]"
	touch $@
