# Everything a developer does here. `make` alone lists it. Each target sets up what it needs, on a machine with Python 3.11+ and make.

PORT ?= 8000
BIN := .venv/bin
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help run test check bench clean lock setup

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PORT=8001 make run              another port"
	@echo "  PYTHON=python3.13 make test     another Python"

run: setup ## PostgreSQL, Valkey, a demo tenant, the API and the worker; Ctrl-C stops all of it
	@exec $(BIN)/python -m deploy.local run --port $(PORT)

test: setup ## The whole test suite, on servers of its own
	@$(BIN)/python -m pytest

check: setup ## Lint, format, types, then the tests: what CI runs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: setup ## The API against a bare handler, side by side
	@$(BIN)/python -m benchmarks

clean: ## Stop what runs here and forget .local/ with its data; .venv stays
	@if [ -d .local ]; then $(MAKE) --no-print-directory setup && $(BIN)/python -m deploy.local clean; else echo "Nothing to forget."; fi

lock: ## Write the requirements files anew after a change of pyproject.toml; UPGRADE=1 takes newer versions
	@command -v uv > /dev/null || { echo "uv is needed for this: 'python3 -m pip install --user uv', or see https://docs.astral.sh/uv/." >&2; exit 1; }
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt

LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url $(if $(UPGRADE),--upgrade)

setup:
	@sh deploy/local/setup.sh
