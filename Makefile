# `make` shows what there is to make.
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
FORMATS := $(VENV)/formats
MAKEFLAGS += --no-print-directory

.PHONY: help demo test check lint generated bench packages test-packages venv install clean
.NOTPARALLEL:

help:
	@echo 'make demo   [ARGS=--json]      start a Slurm cluster here, train, break a GPU, watch the recovery'
	@echo 'make test   [PYTEST_ARGS=...]  check, then every test, also those on a real Slurm cluster'
	@echo 'make check                     ruff, mypy, import-linter (make lint is the same)'
	@echo 'make generated                 completions/, man/ and the table of settings, from the code'
	@echo 'make bench  NAME="recovery"    run benchmarks; a table on stderr, JSON on stdout'
	@echo 'make install                   only install what the others need: packages and $(VENV)'
	@echo 'make clean                     remove $(VENV) and caches'

demo: packages $(STAMP)
	@$(BIN)/sovctl lab demo $(ARGS)

test: test-packages check $(FORMATS)
	@sh scripts/test.sh $(BIN)/python $(PYTEST_ARGS)

check lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generated: $(STAMP)
	$(BIN)/python scripts/generated.py

bench: packages $(STAMP)
	@sh scripts/bench.sh $(BIN)/python $(NAME)

packages:
	@sh scripts/packages.sh

test-packages:
	@sh scripts/packages.sh tests

venv: $(STAMP)

install: packages $(STAMP)

$(STAMP): pyproject.toml scripts/python.sh
	@sh scripts/python.sh $(VENV)

$(FORMATS): $(STAMP) tests/formats/requirements.txt
	@sh scripts/python.sh $(VENV) formats

clean:
	rm -rf $(VENV) build dist plugins/spank/build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
