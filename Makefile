# make demo · make test · make docs — each sets up .venv first (from constraints.txt, torch before the rest) and is quick the second time.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# The report's browser test needs Chromium; where there is none it is left out, and says so.
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
NO_BROWSER := $(if $(BROWSER),,UNTRAIN_NO_BROWSER=1)
# So many tests run at a time, each in one thread: make test JOBS=8 where there are more cores and some 2 GB of memory for each.
JOBS ?= 2

.PHONY: setup demo test lint docs check clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "untrain needs Python 3.10 or newer")'
	@echo "setting up .venv (once; torch takes a while)"
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) -e ".[dev]"
	@touch $@

demo: setup
	@rm -rf runs/demo
	$(BIN)/untrain run recipes/demo.yaml

test: setup
	@$(if $(BROWSER),,echo "no Chromium found: the report's browser test is left out")
	$(NO_BROWSER) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "docs: site/index.html"

check: lint docs test

clean:
	rm -rf .venv runs site build dist src/*.egg-info .pytest_cache .ruff_cache .mypy_cache
