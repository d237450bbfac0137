# Everything a fresh Debian or Ubuntu with Python 3.11 needs: `make demo`, `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
NETWORKS := tests/e2e
SEEDS := tests/simulation/test_seeds.py
WORKERS := -n logical --maxprocesses 8 --dist worksteal

.PHONY: install install-node install-js demo test test-networks test-seeds lint clean

install: $(VENV)/.installed

# torch first and by name: a range pulls gigabytes of CUDA packages.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch==2.13.0"
	$(PIP) --editable ".[dev]"
	touch $@

# A node without the tools of development, as the Dockerfile installs it.
install-node:
	$(PYTHON) -m venv $(VENV)
	$(PIP) "torch==2.13.0"
	$(PIP) .

# Strangers' clients that some tests start; Node.js comes from the system.
# polkadot.js, and chopsticks that runs the real runtime; NPM_FLAGS=--omit=dev leaves that out.
install-js:
	cd tests/js && npm ci --no-audit --no-fund $(NPM_FLAGS)

demo: install
	$(BIN)/mesh localnet --hosters 4 --validators 2 --epochs 2

test: install
	$(BIN)/python -m pytest tests/ --ignore $(NETWORKS) --ignore $(SEEDS) $(WORKERS)
	$(MAKE) --no-print-directory --jobs 2 test-networks test-seeds

# Networks of real processes, one at a time. They wait more than they compute, so the search
# through simulated networks runs beside them.
test-networks: install
	$(BIN)/python -m pytest $(NETWORKS)

test-seeds: install
	$(BIN)/python -m pytest $(SEEDS)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info
