# Everything runs in .venv, which the first target makes.
PYTHON ?= python3.11
VENV := .venv
# Test files run in parallel: many wait more than they compute, above all those of SLURM.
WORKERS ?= 2
BIN := $(VENV)/bin

.PHONY: help demo test lint unit slow test-transformers4 clean

help:
	@echo "make demo                the whole pipeline on real text, CPU: about ten minutes"
	@echo "make test                ruff, pyright and all tests"
	@echo "make lint                ruff and pyright"
	@echo "make unit                the fast tests: under five minutes"
	@echo "make slow                the slow tests"
	@echo "make test-transformers4  the export, loaded by transformers 4 in its own environment"
	@echo "make clean               remove the environments and runs/demo"

# Runs again when setup.cfg or constraints.txt change. The stamp comes last: a pip that fails leaves none.
$(VENV)/.installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,eval,wandb]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python demo/run.py

test: lint unit slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/pyright

unit: $(VENV)/.installed
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile -m 'not slow' --durations=10

slow: $(VENV)/.installed
	$(BIN)/pytest -q -n $(WORKERS) --dist loadfile -m slow --durations=10

test-transformers4: $(VENV)/.installed
	$(BIN)/python tests/transformers4/run.py

clean:
	rm -rf $(VENV) .venv-transformers4 runs/demo
