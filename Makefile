# `make train` and `make test` each prepare .venv on their own; a second call finds it ready.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# The kernels are for Linux on x86-64, and need a C++ compiler; halfstride works without them.
CAN_BUILD := $(and $(filter Linux-x86_64,$(shell uname -s)-$(shell uname -m)),$(shell command -v c++))
KERNELS := $(shell find kernels -name build -prune -o -type f -print)

.PHONY: train test kernels lint docs clean
.DEFAULT_GOAL := help

help:
	@echo "make train   train an autoencoder on handwritten digits and draw what it learned"
	@echo "make test    run the test suite, with the kernels where a C++ compiler is found"
	@echo "make kernels build and install halfstride-kernels: fused layers for processors"
	@echo "make lint    style, types and import contracts"
	@echo "make docs    the documentation as a site, in build/docs"

train: $(VENV)/.ready
	$(BIN)/halfstride train

test: $(VENV)/.ready-dev $(if $(CAN_BUILD),$(VENV)/.ready-kernels)
	$(BIN)/python -m pytest

kernels: $(VENV)/.ready-kernels

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

$(VENV)/.ready-kernels: $(KERNELS) | $(VENV)/.ready
	@echo "Building halfstride-kernels (half a minute) ..."
	@$(PIP) 'scikit-build-core>=0.11' cmake ninja
	@$(PIP) --no-build-isolation --no-deps --force-reinstall ./kernels
	@touch $@

clean:
	rm -rf $(VENV) build dist kernels/build .pytest_cache .mypy_cache .ruff_cache .hypothesis
