# `make train` and `make test` each prepare .venv on their own; a second call finds it ready.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test lint docs clean
.DEFAULT_GOAL := help

help:
	@echo "make train   train an autoencoder on handwritten digits and draw what it learned"
	@echo "make test    run the test suite"
	@echo "make lint    style, types and import contracts"
	@echo "make docs    the documentation as a site, in build/docs"

train: $(VENV)/.ready
	$(BIN)/halfstride train

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.ready-dev
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -d build/doctrees docs build/docs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing halfstride into $(VENV) (once, about a minute) ..."
	@$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.ready-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing halfstride and its test tools into $(VENV) (once, about a minute) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.ready

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
