# One command each. The first one that runs sets everything up in .venv, with uv if it is there and
# with venv and pip if not. Works with GNU make 3.81, the one that macOS ships.
#
#   BACKEND=cpu|cuda13   MLX's backend on Linux (chosen below; a Mac needs none)
#   PYTHON=python3.12    which Python makes the environment when there is no uv
#   WORKERS=4            how many processes run the tests (0: this one)
#   ARGS="-k vision"     more arguments for pytest, demo or bench

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-clients lint bench

BIN := .venv/bin
WORKERS ?= 2

# MLX for CUDA 13 needs NVIDIA's driver 580 or newer.
ifeq ($(shell uname -s),Darwin)
BACKEND :=
else
BACKEND ?= $(shell nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null \
	| awk -F. '$$1 + 0 >= 580 { found = 1 } END { print found ? "cuda13" : "cpu" }')
endif

comma := ,
STAMP := .venv/.ready$(addprefix -,$(BACKEND))
STALE := $(filter-out $(STAMP),$(wildcard .venv/.ready*))

ASKING := tests/server/clients
CLIENTS := $(addprefix $(ASKING)/,.openai-2/.ready .openai-3/.ready node_modules/.ready)

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP)  ## make the environment in .venv (the others do it by themselves)

demo: $(STAMP)  ## run the main job
	$(BIN)/pixtral-mlx demo $(ARGS)

test: $(STAMP)  ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-clients: $(STAMP) $(CLIENTS)  ## ask the server with clients that CI does not install
	PIXTRAL_REQUIRE_CLIENTS=1 $(BIN)/python -m pytest $(ASKING) $(ARGS)

lint: $(STAMP)  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(STAMP)  ## measure tokens/s, GB/s, time to first token and peak memory
	$(BIN)/pixtral-mlx bench $(ARGS)

# An environment for each list of clients. The one of Node is where Node looks for it.
$(ASKING)/.openai-%/.ready: $(ASKING)/openai-%.txt | $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python -r $<
	@touch $@

$(ASKING)/node_modules/.ready: $(ASKING)/package.json
	npm install --prefix $(ASKING) --no-package-lock --no-fund --no-audit --loglevel=error
	@touch $@

# Runs when there is no environment, when the dependencies changed, or when the backend did.
$(STAMP): pyproject.toml uv.lock
	@rm -f .venv/.ready*
	@if uv --version >/dev/null 2>&1; then \
		set -ex; \
		UV_PROJECT_ENVIRONMENT=.venv uv sync --extra dev --extra lab --extra serve $(addprefix --extra ,$(BACKEND)); \
	else \
		set -e; \
		for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
			$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
				2>/dev/null && break; \
			python=; \
		done; \
		if [ -z "$$python" ]; then \
			echo "pixtral-mlx needs Python 3.11 to 3.14, and none was found:" \
				"install one, or uv, or name one with PYTHON=..." >&2; \
			exit 1; \
		fi; \
		set -x; \
		$$python -m venv $(if $(STALE),--clear) .venv; \
		$(BIN)/python -m pip install --quiet --upgrade pip; \
		$(BIN)/python -m pip install --quiet -e '.[dev,lab,serve$(addprefix $(comma),$(BACKEND))]'; \
	fi
	@touch $@
