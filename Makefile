# Everything a person or CI runs. `make` alone lists the targets.
# Each target sets up what it needs in .venv; stamps keep it from doing so twice.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart setup test test-heavy fuzz lint format bench clean system-packages

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
PINS   := .ci/constraints.txt
# setuptools warns that an editable `cli/` is found under its folder's name too: it is not used so.
PIP    := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check
TORCH  := torch==2.13.0
PACKAGES := tests/debian-packages.txt

# Options for one run: make quickstart ARGS="--minutes 1"; make test TESTS=tests/quant
ARGS    ?=
TESTS   ?= tests
WORKERS ?= 2
CONTAINER ?= bitnet

# The first Python that is new enough; PYTHON=... chooses another.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; \
	done)

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | \
		awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

quickstart: $(STAMPS)/core ## Train, pack, prove and run a small ternary model (about 4 minutes)
	$(BIN)/bitnet quickstart $(ARGS)

setup: $(STAMPS)/dev ## Set up .venv for work on the project

test: $(STAMPS)/dev system-packages lint ## Lint and run the test suite (under 15 minutes)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS) $(TESTS)

test-heavy: PACKAGES += tests/debian-packages-heavy.txt
test-heavy: $(STAMPS)/heavy system-packages ## Run the tests against torch, transformers, other machines
	$(BIN)/python -m pytest -m heavy -n $(WORKERS) --dist loadfile --timeout 1800 $(ARGS) $(TESTS)

fuzz: $(STAMPS)/dev ## Fuzz a container: CONTAINER=bitnet ARGS=-max_total_time=60
	$(PIP) -c $(PINS) -e '.[dev,fuzz]'
	$(BIN)/python -m tests.fuzz.run $(CONTAINER) $(ARGS)

lint: $(STAMPS)/dev ## ruff, mypy and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/lint-imports > $(STAMPS)/imports.log 2>&1 || { cat $(STAMPS)/imports.log; exit 1; }
	@echo "lint: clean"

format: $(STAMPS)/dev ## Format the tree, mend what ruff can mend, write the generated pages
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python -m tests.contracts.packages
	$(BIN)/python -m tests.contracts.errors_page
	$(BIN)/python -m tests.contracts.onnx_operators

bench: $(STAMPS)/dev ## Run the benchmarks that stand in benchmarks/
	@ls benchmarks/*.py > /dev/null 2>&1 || { echo "benchmarks/ holds no script yet"; exit 1; }
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; \
		$(BIN)/python $$script $(ARGS); done

clean: ## Remove the environment, caches and built kernels
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache \
		.hypothesis build dist *.egg-info

# ----------------------------------------------------------------------------- set-up
$(STAMPS)/venv:
	@test -n "$(PYTHON)" || { \
		echo "error: no Python 3.11 or newer found"; \
		echo; \
		echo "hint: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3"; \
		exit 69; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		rm -rf $(VENV); \
		echo; \
		echo "hint: this Python has no venv module; on Debian: apt-get install python3-venv"; \
		exit 69; }
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/core: $(STAMPS)/venv pyproject.toml $(PINS)
	@echo "installing bitnet-jax and its dependencies into $(VENV)"
	$(PIP) -c $(PINS) -e .
	@touch $@

$(STAMPS)/dev: $(STAMPS)/venv pyproject.toml $(PINS)
	@echo "installing bitnet-jax with its tools for development into $(VENV)"
	$(PIP) -c $(PINS) -e '.[dev]'
	@touch $(STAMPS)/core $@

# torch first, and by itself: every other package that wants it then takes the one installed.
$(STAMPS)/heavy: $(STAMPS)/dev
	$(PIP) $(TORCH)
	$(PIP) -c $(PINS) -e '.[dev,hf,gguf,hub,gcs,s3,release,fuzz,counterparts]'
	@touch $@

# Debian packages of the tests. Elsewhere, or without root, say what is missing and go on:
# a test that cannot run then fails or is counted, it does not vanish.
system-packages:
	@missing=""; \
	for package in $$(grep -hv '^#' $(PACKAGES)); do \
		command -v $$package > /dev/null 2>&1 || dpkg -s $$package > /dev/null 2>&1 || \
			missing="$$missing $$package"; \
	done; \
	test -z "$$missing" && exit 0; \
	if command -v apt-get > /dev/null 2>&1 && test "$$(id -u)" = 0; then \
		echo "installing$$missing"; \
		apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else \
		echo "missing:$$missing (see $(PACKAGES))"; \
	fi
