# Everything a new machine needs: Python >= 3.11 and a package registry.
PYTHON ?= python3
VENV ?= .venv
OUT ?= quickstart-out
BIN := $(VENV)/bin

.PHONY: quickstart test lint clean

quickstart: $(VENV)/.demo
	$(BIN)/setclip quickstart --out $(OUT)

test: lint
	$(BIN)/pytest -n 2
	$(BIN)/pytest -m slow -n 2

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(OUT) build dist
