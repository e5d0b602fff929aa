# Everything a new machine needs: Python >= 3.11 and a package registry.
PYTHON ?= python3
VENV ?= .venv
OUT ?= quickstart-out
BIN := $(VENV)/bin
LOWEST := .venv-lowest/bin

# Two processes, each with whole files in their order: what the tests of a file share is made once.
SPREAD := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: quickstart test lowest check docs dev browser chaos clean

quickstart: $(VENV)/.demo
	$(BIN)/setclip quickstart --out $(OUT)

test: check docs browser
	$(BIN)/pytest $(SPREAD)
	$(BIN)/pytest -m slow $(SPREAD)

# The tests of pages need a browser. It is installed if that takes one command; without it these tests are skipped.
browser:
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get install -y -q chromium || { apt-get update -q && apt-get install -y -q chromium; }; \
	fi || true; \
	command -v chromium >/dev/null || echo "there is no Chromium here: the tests of pages will be skipped"

# The tests with the lowest version of each package that pyproject.toml names. Their warnings are not ours to repair.
lowest: $(LOWEST)/.done
	$(LOWEST)/pytest $(SPREAD) -W default

# Programs that try to break setclip, docs/reliability.md. Each prints one line of JSON; MINUTES bounds each of them.
MINUTES ?= 40
chaos: $(VENV)/.dev
	for program in kills fuzz_readers mutations full_disk memory; do \
		$(BIN)/python -m tests.chaos.$$program --minutes $(MINUTES) || failed=1; \
	done; test -z "$$failed"

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dev: $(VENV)/.dev
	$(BIN)/pre-commit install

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.demo

$(LOWEST)/.done: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	$(LOWEST)/python -m pip install --quiet uv
	$(LOWEST)/uv pip install --quiet --python $(LOWEST)/python --resolution lowest-direct --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest $(OUT) build dist site
