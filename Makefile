# Everything a newcomer needs: `make demo` and `make test` work on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-matrix lint fixtures detection mutations bench clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/python scripts/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The same tests on the oldest, the oracle's and the newest transformers.
test-matrix:
	$(PYTHON) scripts/test_matrix.py 4.57.6 5.6.0 latest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fixtures: $(STAMP)
	$(BIN)/python scripts/make_fixtures.py

# What the rules find in the incidents, and whether they accuse anyone who agrees.
detection: $(STAMP)
	$(BIN)/python scripts/detection.py --write

# Breaks one thing at a time in pairs that agree, and measures what the audit says of it.
mutations: $(STAMP)
	$(BIN)/python scripts/mutations.py

bench: $(STAMP)
	$(BIN)/python benchmarks/cold_start.py

clean:
	rm -rf $(VENV) .venv-* .pytest_cache .mypy_cache .ruff_cache
