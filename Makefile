# Everything runs in a virtual environment inside the checkout; each target is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := test
.PHONY: install demo docs test lint types unit slow truth coverage coverage-table bench faults faults-table fuzz soundness format clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
		{ echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing mcx and what it needs into $(VENV), once. The package index's torch for Linux brings CUDA along:"
	@echo "several GB to download, 6 GB on the disk. A minute on a fast line, half an hour on a slow one."
	$(BIN)/python -m pip install --disable-pip-version-check --editable ".[dev]"
	@touch $(STAMP)

demo: $(STAMP)
	@echo "The demo downloads nothing more and takes about a minute; results lie in ./results."
	$(BIN)/mcx demo

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu and not table"

slow: $(STAMP)
	$(BIN)/pytest -n auto --dist worksteal -m "slow and not gpu and not truth and not table and not rest"

truth: $(STAMP)
	$(BIN)/pytest -n auto --dist worksteal tests/truth

coverage-table: $(STAMP)
	$(BIN)/pytest -n auto --dist worksteal tests/libraries

coverage: $(STAMP)
	$(BIN)/pytest -n auto --dist worksteal -m "not gpu and not truth and not table" --cov --cov-report=term

bench: $(STAMP)
	$(BIN)/python -m bench
	$(BIN)/python -m bench.growth

# Changed files of every format, N in all: what no reader may do with one is listed, and known by format and number.
N ?= 2000
fuzz: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m attacks.fuzz $(N)

# N networks made at random: every group of units that is found is permuted, and the outputs compared in float64. Printed
# are the networks whose function changed (none may), and why units of others stay. 10,000 take an hour on one core.
soundness: $(STAMP)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m soundness.check $(N)

# What is done to the program, and what it loses: the matrix of faults, a failure at every EVERYth step of writing, KILLS
# random moments, FILES changed files, in half an hour on two cores. `make faults-table` writes what came of the last run
# into README and docs.
EVERY ?= 20
KILLS ?= 60
FILES ?= 20000
FOUND := build/faults
faults: $(STAMP)
	rm -rf $(FOUND) && mkdir -p $(FOUND)
	$(BIN)/pytest -n auto --dist worksteal -m "fault and not gpu" --junitxml $(FOUND)/tests.xml
	( $(BIN)/python tests/faults/every_step.py --every $(EVERY) --part 1 2 --json $(FOUND)/steps1.json && \
	  $(BIN)/python tests/faults/random_kills.py --kills $(KILLS) --json $(FOUND)/kills.json ) & other=$$!; \
	$(BIN)/python tests/faults/every_step.py --every $(EVERY) --part 2 2 --json $(FOUND)/steps2.json && \
	PYTHONPATH=tests $(BIN)/python -m attacks.fuzz $(FILES) --json $(FOUND)/fuzz.json; \
	code=$$?; wait $$other && exit $$code
	$(BIN)/python tests/faults/report.py $(FOUND)

faults-table:
	$(BIN)/python tests/faults/report.py $(FOUND) README.md docs/promises.md

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache
