# Everything a fresh Debian or Ubuntu with Python 3.11 needs: `make demo`, `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: install install-node install-js demo test lint clean

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

# First all that is quick, on all processors; then the networks of real processes, one at a time:
# they wait more than they compute, so the simulated ones run beside them.
test: install
	$(BIN)/python -m pytest tests/ -m "not (e2e or seeds)" -n logical --maxprocesses 8 --dist worksteal
	$(BIN)/python -m pytest tests/ -m "e2e or seeds" -n 2 --dist loadgroup

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info
