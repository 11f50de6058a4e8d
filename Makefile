# make demo       a corpus, a training and translations with their BLEU, in a few minutes on two CPU cores
# make check      what a change must pass: lint, types and test
# make test       the tests; `make test-slow` those that take minutes;
#                 `make fuzz` the property tests on new random examples
# make lint types style; strict types
# Tests run in as many processes as there are cores, of one thread each (tests/conftest.py); WORKERS= changes that.
# The environment is made on first use in $(VENV) and again when setup.py changes.

VENV ?= .venv
# The first interpreter that setup.py accepts.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := $(VENV)/bin
READY := $(VENV)/ready
READY_DEV := $(VENV)/ready-dev
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

WORKERS ?= auto
PYTEST := $(BIN)/pytest -q --numprocesses=$(WORKERS) --maxprocesses=8 --dist=worksteal

.PHONY: demo check test test-slow fuzz lint types clean

demo: $(READY)
	$(BIN)/python scripts/demo.py

check: lint types test

test: $(READY_DEV)
	$(PYTEST) -m "not slow"

test-slow: $(READY_DEV)
	$(PYTEST) -m slow

fuzz: $(READY_DEV)
	HYPOTHESIS_PROFILE=random $(PYTEST) -m "not slow" $$(grep -rl "^from hypothesis" tests --include='test_*.py')

lint: $(READY_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow the mapping of an editable install: it gets a tree of links with the importable layout.
types: $(READY_DEV)
	rm -rf build/types
	mkdir -p build/types/nmt
	ln -s $(addprefix $(CURDIR)/,$(filter-out nmt/__pycache__,$(wildcard nmt/*)) modules criterions conf) build/types/nmt/
	MYPYPATH=build/types $(BIN)/mypy -p nmt
	MYPYPATH=build/types:scripts $(BIN)/mypy $(wildcard scripts/*.py)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis runs/demo
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "nmt needs Python 3.10 to 3.13: give PYTHON=/path/to/it" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(READY): setup.py | $(BIN)/python
	$(PIP) --editable .
	touch $@

$(READY_DEV): setup.py | $(BIN)/python
	$(PIP) --editable '.[dev]'
	touch $(READY) $@
