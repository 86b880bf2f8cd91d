# litefleet: everything a person or a CI machine does with this checkout. A fresh machine needs git, make and
# Python 3.11 or newer; each target sets up the rest in .venv (and .cache) by itself.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
READY := .venv/.ready
STUBS := agent/serving/protocols/open_inference_pb2.py
WEB := .cache/web
PAGES := $(WEB)/.laid-out
PAGE_SOURCES := agent/serving/protocols/web controller/browser/web deploy/web tests/web
LOCKS := deploy/locks
# A shim may be on PATH and still not run, so each candidate is asked; 3.11 first, since that is what CI tests.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
  "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# Arguments for `make demo`, e.g. `make demo ARGS="--devices 4 --keep"`.
ARGS ?=
# Arguments for pytest, e.g. `make test-unit PYTEST="-k wave -x"`.
PYTEST ?=

.PHONY: help .venv web demo test test-unit test-simulation test-integration test-converters test-system test-web test-demo \
  check lint formatting types imports scripts format full dependencies locks locks-check clean

help:  ## Show this text
	@printf 'litefleet: careful releases of machine-learning models to fleets of edge devices\n\n'
	@printf 'Start here:\n  make demo                 watch a fleet of 12 devices take a good release and refuse a bad one\n\n'
	@printf 'All targets:\n'
	@sed -n 's/^\([a-z.-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
	  printf '%-27s %s\n' "$$target" "$$text"; done
	@printf '\nExamples:\n'
	@printf '  make demo ARGS="--keep"             leave controller, broker and agents running afterwards\n'
	@printf '  make demo ARGS=--ci                 assert every claim; the last line is JSON\n'
	@printf '  make test-unit PYTEST="-k wave -x"  a few tests only\n'

# --- environment --------------------------------------------------------------------------------

.venv: $(READY) $(STUBS) $(PAGES)  ## Make the environment: all locked packages, by hash, and litefleet itself, editable

# uv comes out of the lock by pip, then installs the rest of the lock. Where only pip knows the way out (its own
# configuration for a mirror or a proxy), pip installs the same lock, more slowly.
$(READY): $(LOCKS)/dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo 'litefleet needs Python 3.11 or newer; on Debian: sudo apt-get install python3 python3-venv' >&2; exit 1; }
	@PYTHON="$(PYTHON)" deploy/ci/prepare python
	@test -x $(BIN)/python || { rm -rf .venv; echo "making .venv with $(PYTHON)"; "$(PYTHON)" -m venv .venv; }
	@test -x $(BIN)/uv || { \
	  awk '/^uv==/ {on=1} on {print} on && !/\\$$/ {exit}' $(LOCKS)/dev.txt > .venv/uv.txt; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r .venv/uv.txt; }
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes $(LOCKS)/dev.txt || { \
	  echo 'uv could not fetch the lock; going on with pip' >&2; \
	  $(BIN)/python -m ensurepip >/dev/null; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCKS)/dev.txt; }
	@$(BIN)/uv pip install --quiet --offline --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# Where gRPC's messages come from. Dockerfile.agent does the same.
$(STUBS): agent/serving/protocols/open_inference.proto | $(READY)
	@$(BIN)/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. $<

# What pages are shown with comes out of a lock too, by npm. Nothing but these pages needs it, so that a machine without
# npm gets all the rest, and the pages say what they lack.
$(PAGES): deploy/web/package-lock.json deploy/web/build.mjs
	@command -v npm >/dev/null && $(MAKE) web || { mkdir -p $(WEB) && touch $@ && \
	  echo 'going on without npm: the pages have no API explorer and no runtime for models (later: make web)' >&2; }

web:  ## Lay out, from npm packages, the API explorer and the runtime for models in a page
	@mkdir -p $(WEB)
	@cp deploy/web/package.json deploy/web/package-lock.json deploy/web/.npmrc $(WEB)
	@cd $(WEB) && npm ci --omit=dev --loglevel=error
	@node deploy/web/build.mjs $(WEB)/node_modules agent agent/serving/protocols/web/built
	@node deploy/web/build.mjs $(WEB)/node_modules controller controller/browser/web/built
	@touch $(PAGES)

# --- the product --------------------------------------------------------------------------------

demo: .venv  ## Run the whole product on this machine: controller, broker and 12 agents (ARGS="--devices N --keep --ci")
	@deploy/ci/prepare broker || echo 'going on without mosquitto: the demo starts a broker written in Python'
	@$(BIN)/litefleet demo $(ARGS)

# --- tests: the quickest to fail come first -------------------------------------------------------

test: .venv  ## Run every test, then the demo with each of its claims asserted
	@deploy/ci/prepare
	@$(MAKE) test-unit
	@$(MAKE) test-simulation
	@$(MAKE) test-integration
	@$(MAKE) test-converters
	@$(MAKE) test-system
	@$(MAKE) test-web
	@$(MAKE) test-demo

test-unit: .venv  ## Run the pure cores' tests (seconds; no sockets)
	@$(BIN)/pytest tests/unit --junit-xml=.cache/tests/unit.xml $(PYTEST)

test-simulation: .venv  ## Run the real planner against hundreds of real agent reducers over a lossy network
	@$(BIN)/pytest tests/simulation --junit-xml=.cache/tests/simulation.xml $(PYTEST)

test-integration: .venv  ## Run against real mosquitto, SQLite, PostgreSQL, LiteRT and HTTP
	@deploy/ci/prepare
	@$(BIN)/pytest tests/integration --ignore tests/integration/converters --junit-xml=.cache/tests/integration.xml $(PYTEST)

test-converters: .venv  ## Run every front end in its own environment (installs them into .cache), search, gate and cards
	@$(BIN)/pytest tests/integration/converters --junit-xml=.cache/tests/converters.xml $(PYTEST)

test-system: .venv  ## Run whole processes, and kill them at seeded moments
	@deploy/ci/prepare
	@$(BIN)/pytest tests/system --junit-xml=.cache/tests/system.xml $(PYTEST)

test-web: .venv  ## Run the pages: their modules in node, then whole in headless Chromium
	@deploy/ci/prepare node browser
	@$(MAKE) web
	@node --test tests/web/*.test.mjs
	@$(BIN)/pytest tests/web --junit-xml=.cache/tests/web.xml $(PYTEST)

test-demo: .venv
	@$(MAKE) demo ARGS=--ci

full: test  ## Run everything, then 200 simulated fleets, 1,000 Hypothesis examples, 20,000 damaged models (long)
	@LITEFLEET_SIMULATION_SEEDS=200 $(BIN)/pytest tests/simulation --timeout=0 --hypothesis-profile=full $(PYTEST)
	@LITEFLEET_MUTANTS=4000 $(BIN)/pytest tests/integration/converters/test_mutants.py --timeout=0 $(PYTEST)
	@LITEFLEET_TRIALS=500 $(BIN)/pytest tests/integration/serving/test_hostile_models.py --timeout=0 $(PYTEST)
	@LITEFLEET_HOT_SWAP_REQUESTS=100000 $(BIN)/pytest tests/integration/serving/test_hot_swap.py --timeout=0 $(PYTEST)

# --- static checks ------------------------------------------------------------------------------

check: .venv  ## Lint, formatting, types, import contracts, dependencies, locks: all of them, then say what failed
	@$(MAKE) --keep-going lint formatting types imports dependencies scripts locks-check

lint: .venv
	@$(BIN)/ruff check .

formatting: .venv
	@$(BIN)/ruff format --check .

types: .venv
	@$(BIN)/mypy

imports: .venv
	@$(BIN)/lint-imports --no-logo

# A part is checked against its own extra: the other extras count as development tools, whose import is then an offence
# (DEP004). The demo's folders belong to an extra of their own, and the last run looks at everything together.
dependencies: .venv
	@$(BIN)/deptry agent shared --optional-dependencies-dev-groups cluster,controller,converters,demo,dev
	@$(BIN)/deptry controller shared --extend-exclude '^shared/runtime' --extend-exclude '^controller/demo' \
	  --optional-dependencies-dev-groups agent,converters,demo,dev,grpc
	@$(BIN)/deptry converters shared --extend-exclude '^converters/examples' \
	  --optional-dependencies-dev-groups agent,controller,demo,dev,grpc
	@$(BIN)/deptry agent controller converters shared --optional-dependencies-dev-groups dev

# The tools are not what is shipped, and so lie in a folder of their own.
$(WEB)-tools/.ready: deploy/web/package-lock.json
	@deploy/ci/prepare node
	@mkdir -p $(WEB)-tools
	@cp deploy/web/package.json deploy/web/package-lock.json deploy/web/.npmrc $(WEB)-tools
	@cd $(WEB)-tools && npm ci --loglevel=error
	@touch $@

scripts: $(WEB)-tools/.ready
	@cp deploy/web/eslint.config.mjs $(WEB)-tools
	@$(WEB)-tools/node_modules/.bin/eslint --config $(WEB)-tools/eslint.config.mjs $(PAGE_SOURCES)
	@$(WEB)-tools/node_modules/.bin/prettier --config deploy/web/prettier.json --check --log-level warn $(PAGE_SOURCES) shared/web

format: .venv  ## Format, and repair what ruff can repair
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(MAKE) $(WEB)-tools/.ready
	@$(WEB)-tools/node_modules/.bin/prettier --config deploy/web/prettier.json --write --log-level warn $(PAGE_SOURCES) shared/web

# Existing pins stay unless the dependencies ask otherwise; `make locks UPGRADE=--upgrade` moves them. What a device, a
# controller or a converter installs is pinned to what the tests ran with.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
UPGRADE ?=

# Not .venv: what the locks do not name yet cannot be asked to generate anything.
locks: $(READY)  ## Make the lock files from pyproject.toml (needs the network)
	@$(COMPILE) $(UPGRADE) --extra dev --constraints $(LOCKS)/constraints.txt pyproject.toml --output-file $(LOCKS)/dev.txt
	@for part in agent cluster controller converters; do \
	  $(COMPILE) $(UPGRADE) --extra $$part --constraints $(LOCKS)/dev.txt pyproject.toml --output-file $(LOCKS)/$$part.txt; done
	@$(COMPILE) $(UPGRADE) tests/support/outside/clients.in --output-file tests/support/outside/clients.txt
	@$(COMPILE) $(UPGRADE) tests/support/outside/triton.in --output-file tests/support/outside/triton.txt
	@$(COMPILE) $(UPGRADE) tests/support/outside/mlserver.in --output-file tests/support/outside/mlserver.txt
	@$(COMPILE) $(UPGRADE) tests/support/outside/old_runtime.in --output-file tests/support/outside/old_runtime.txt
	@for front in $(basename $(notdir $(wildcard converters/environments/*.in))); do \
	  $(COMPILE) $(UPGRADE) converters/environments/$$front.in --output-file converters/environments/$$front.txt; done
	@cd deploy/web && npm install --package-lock-only --no-save
	@node deploy/web/build.mjs lock deploy/web/package-lock.json
	@$(BIN)/python $(LOCKS)/freshness.py --write

locks-check: .venv
	@$(BIN)/python $(LOCKS)/freshness.py

clean:  ## Remove caches and build leftovers (the environment stays: rm -rf .venv)
	@rm -rf .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist ./*.egg-info
	@find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
