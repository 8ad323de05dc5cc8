# Everything a person types while working on crdtlog. `make help` lists it.
#
# Each target sets up .venv by itself from the lock files, once; the marks inside .venv tell whether the lock files or
# pyproject.toml have changed since. Nothing outside this directory is written, and a .venv that make did not make is
# left as it is.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
JOBS ?= auto
ROWS ?= 100000
SECONDS ?= 600
TESTS ?= tests
CONNECTIONS ?= 10000
STORE ?=
ARGS ?=
PIP_TOOLS := pip-tools==7.6.2

BIN := .venv/bin
# Runs the pip that belongs to .venv, or another pip on .venv's behalf where .venv has none (see .venv/.made).
PIP = $$(cat .venv/.made) --disable-pip-version-check -qq --require-virtualenv

.PHONY: help demo test test-all histories fuzz lint types format bench bench-full bench-relay old-sqlite yjs lock clean setup setup-dev

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

demo: .venv/.runtime ## Two devices write offline, meet, and agree (about half a minute)
	@$(BIN)/python -m simulations.demo $(ARGS)

test: .venv/.dev old-sqlite yjs ## Run the tests in parallel (TESTS=path to choose, ARGS="-k word" for more)
	@$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 -m "not slow" $(TESTS) $(ARGS)

test-all: .venv/.dev old-sqlite yjs ## Run the slow tests too
	@$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 $(TESTS) $(ARGS)

# `make test` tries some of each.
HISTORIES = tests/crdtlog/test_fleet.py tests/crdtlog/test_fleet_merging.py tests/crdtlog/test_live_fleet.py \
	tests/crdtlog/test_group_fleet.py tests/crdtlog/test_forks.py tests/crdtlog/test_without_history_fleet.py \
	tests/crdtlog/test_hostile_snapshot.py tests/crdtlog/test_membership_fleet.py tests/peers/test_session_fleet.py \
	tests/peers/test_mailbox_forked.py
EXAMPLES ?= 2000
histories: .venv/.dev ## Random histories of devices, for hours (EXAMPLES=2000 of each)
	@HYPOTHESIS_PROFILE=thorough EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal \
		-o faulthandler_timeout=0 $(HISTORIES) $(ARGS)

# `make test` takes a part of it, the same each time.
fuzz: .venv/.dev ## Search for bytes that do harm, longer than the tests do (SECONDS=3600, ARGS="--target NAME")
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

lint: .venv/.dev ## Check style and formatting
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check --quiet . || { echo "some files are not formatted: run 'make format'" >&2; exit 1; }

types: .venv/.dev ## Check types (mypy --strict)
	@$(BIN)/python -m mypy

format: .venv/.dev ## Format the code and sort imports
	@$(BIN)/python -m ruff check --quiet --fix-only .
	@$(BIN)/python -m ruff format .

bench: .venv/.runtime ## Measure speed, as ratios to plain SQLite (ROWS=100000)
	@$(BIN)/python -m simulations.bench --rows $(ROWS) $(ARGS)

bench-full: .venv/.runtime ## Measure speed with a million rows (takes long)
	@$(BIN)/python -m simulations.bench --rows 1000000 $(ARGS)

bench-relay: .venv/.dev ## Measure what one relay carries (CONNECTIONS=10000, STORE=postgresql://… for PostgreSQL)
	@$(BIN)/python -m simulations.bench_relay --connections $(CONNECTIONS) --store "$(STORE)" $(ARGS)

# The oldest SQLite that may open a replicated file. Tests that need it are skipped, saying why, where it cannot be had.
old-sqlite: .venv/.dev ## Fetch and compile SQLite 3.24.0 for the tests that write with it
	@$(BIN)/python -m tests.old_sqlite || true

# The JavaScript library whose programs read the documents that we give. Skipped in the same way.
yjs: .venv/.dev ## Fetch Yjs for the tests that read with it
	@$(BIN)/python -m tests.yjs || true

setup: .venv/.runtime ## Only set up .venv to run crdtlog
setup-dev: .venv/.dev ## Only set up .venv to work on crdtlog

# --- .venv --------------------------------------------------------------------------------------------------------

define CHECK_PYTHON
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "crdtlog needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)." >&2; \
    echo "Install it, or name one that you have: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; } && \
$(PYTHON) -c 'import sqlite3' 2>/dev/null || { \
    echo "'$(PYTHON)' was built without the sqlite3 module, which crdtlog cannot do without." >&2; \
    echo "Use the system's Python, or build it with SQLite's headers installed (Debian: apt install libsqlite3-dev)." >&2; exit 1; }
endef

.venv/.made:
	@$(CHECK_PYTHON)
	@if [ -e .venv ] && [ ! -e .venv/.making ]; then \
	    echo "There is a .venv here that make did not make. Move it away, or use it without make." >&2; exit 1; fi
	@rm -rf .venv && mkdir .venv && touch .venv/.making
	@# Debian keeps ensurepip, which `venv` needs for pip, in a package of its own. Without it, a pip outside serves.
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
	    $(PYTHON) -m venv .venv && pip="$(BIN)/python -m pip"; \
	elif $(PYTHON) -c 'import venv' 2>/dev/null && $(PYTHON) -m pip --python $(PYTHON) --version >/dev/null 2>&1; then \
	    $(PYTHON) -m venv --without-pip .venv && pip="$(PYTHON) -m pip --python $(CURDIR)/$(BIN)/python"; \
	elif $(PYTHON) -m virtualenv --version >/dev/null 2>&1; then \
	    $(PYTHON) -m virtualenv --quiet .venv && pip="$(BIN)/python -m pip"; \
	else \
	    echo "'$(PYTHON)' can make no virtual environment: it has neither ensurepip nor pip." >&2; \
	    echo "On Debian and Ubuntu: apt install python3-venv    (then run make again)" >&2; exit 1; \
	fi && echo "$$pip" > $@

.venv/.runtime: requirements.lock pyproject.toml | .venv/.made
	@echo "setting up .venv (once; again when requirements.lock changes)" >&2
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.runtime
	@echo "adding the development tools to .venv (once)" >&2
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# --- lock files ---------------------------------------------------------------------------------------------------

# Exact versions with hashes, and neither a path nor a registry's address: whoever installs uses the registry they have set.
COMPILE = .cache/lock/bin/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
          --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --annotation-style line

lock: ## Write the lock files anew from pyproject.toml (ARGS=--upgrade for newer versions)
	@$(CHECK_PYTHON)
	@test -x .cache/lock/bin/pip-compile || { $(PYTHON) -m venv .cache/lock && .cache/lock/bin/pip install --quiet $(PIP_TOOLS); }
	@$(COMPILE) $(ARGS) --build-deps-for editable -o requirements.lock pyproject.toml
	@$(COMPILE) $(ARGS) --extra dev --build-deps-for editable -c requirements.lock -o requirements-dev.lock pyproject.toml
	@if grep -nE '://|^ *-(-index-url|-extra-index-url|-find-links|f |i )|(^|[ =])/' requirements.lock requirements-dev.lock; then \
	    echo "a lock file names an address or a path of this machine" >&2; exit 1; fi

clean: ## Remove everything that make made here
	@if [ -e .venv/.made ] || [ -e .venv/.making ]; then rm -rf .venv; fi
	@rm -rf .cache build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
