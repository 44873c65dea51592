# The one door to everything. `make` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
NPM := $(BIN)/python web/npm.py
NODE_MODULES := web/node_modules/installed
DASHBOARD := server/saelab_server/web/index.html
PEERS := .interop
WEB_SOURCES := $(shell find web/src web/public -type f 2>/dev/null) $(wildcard web/*.html web/*.json web/*.ts) docs/evaluation.md

RUN ?= runs/demo
PORT ?= 8000

# Threads that wait by spinning slow each other many times over as soon as anything else runs.
export OMP_WAIT_POLICY := passive

.PHONY: help setup web browser demo test check lint fmt types bench recovery golden interop clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make the virtual environment in .venv; instant when nothing changed
	@:

$(INSTALLED): pyproject.toml .ci/constraints.txt .ci/model.txt .ci/setup
	@.ci/setup $(VENV)
	@touch $@

web: $(DASHBOARD) ## Build the dashboard; Node comes from a Python package
	@:

$(NODE_MODULES): web/package.json web/package-lock.json | $(INSTALLED)
	@$(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(DASHBOARD): $(NODE_MODULES) $(WEB_SOURCES)
	@$(NPM) run --silent build

browser: ## Find or install Chromium for the browser tests
	@.ci/browser

demo: setup web ## A real model from text to steering, then the dashboard on PORT (8000)
	@$(BIN)/saelab make demo --run $(RUN)
	@$(BIN)/saelab serve $(dir $(RUN)) --port $(PORT)

test: setup web browser ## All tests: library, server, dashboard, browser
	@$(BIN)/python -m pytest
	@$(NPM) test --silent

check: lint test ## What CI runs: lint, then all tests

lint: setup $(NODE_MODULES) ## Style, format, types, import layers; changes nothing
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/lint-imports
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(NPM) run --silent check

fmt: setup ## Format the Python code and mend what can be mended
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

types: setup $(NODE_MODULES) ## Write server/openapi.json and the dashboard's types anew
	@$(BIN)/python -m saelab_server.openapi server/openapi.json
	@$(NPM) run --silent types

bench: setup ## Speeds on this machine beside plain PyTorch, with what `make demo` left
	@$(BIN)/python tests/benchmarks/bench.py $(RUN)

recovery: setup ## Train every dictionary on planted features, about five minutes; writes docs/benchmarks/2026-11-22-recovery.md
	@$(BIN)/python tests/benchmarks/recovery.py

golden: setup ## Write the recorded trajectories anew; review the difference
	@SAELAB_GOLDEN=write $(BIN)/python -m pytest -k golden

interop: setup $(PEERS)/installed ## Theirs read by us and ours by them: SAELens, sparsify, dictionary_learning
	@rm -rf $(PEERS)/theirs $(PEERS)/ours
	@$(PEERS)/bin/python tests/interop/make_fixtures.py $(PEERS)/theirs
	@SAELAB_INTEROP=$(PEERS)/theirs $(BIN)/python -m pytest tests/library/interop/test_interop_golden.py
	@$(BIN)/python tests/interop/write_ours.py $(PEERS)/ours
	@$(PEERS)/bin/python tests/interop/read_ours.py $(PEERS)/ours

# SAELens needs an older TransformerLens than ours. What torchvision brings nobody here calls, and it must fit the build of PyTorch.
$(PEERS)/installed: tests/interop/peers.txt
	@$(BIN)/python -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 --requirement tests/interop/peers.txt
	@$(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps llamascopium==2.0.0b34
	@$(PEERS)/bin/python -m pip uninstall -qq --yes torchvision
	@touch $@

clean: ## Remove all that is built or installed here; runs stay
	@rm -rf $(VENV) $(PEERS) web/node_modules $(dir $(DASHBOARD)) dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
