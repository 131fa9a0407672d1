# Every target works in a fresh clone. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
INSTALLED := $(VENV)/.installed
# Errors only: pip's other output is progress, and advice about package sources.
PIP := $(VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input

# The first Python that is new enough; `make venv PYTHON=python3.12` names another.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)

PYTEST_ARGS ?=
PYTEST_WORKERS ?= 5
DEMO_ARGS ?=
LOCK_ARGS ?=

.PHONY: help
help:  ## list the targets
	@awk -F ':|  ## ' '/^[a-z-]+:.*  ## /{printf "  make %-10s %s\n", $$1, $$NF}' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(INSTALLED)  ## create .venv with exactly what requirements.lock names

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv" >&2; exit 1; }
	@echo "python environment: installing what requirements.lock names into $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: provision
provision:  ## install Docker, Compose, sshd, Prometheus … where missing (Debian, as root; elsewhere it says what to do)
	@tests/provision.sh

.PHONY: test
test: provision venv  ## run all tests; PYTEST_ARGS="-k drift" picks some, PYTEST_ARGS=--require-real skips none
	@$(VENV)/bin/pytest -n $(PYTEST_WORKERS) --dist loadgroup $(PYTEST_ARGS)

.PHONY: test-fast
test-fast: venv  ## run the tests that need no real component, in less than a minute
	@$(VENV)/bin/pytest -n auto --dist loadgroup $(PYTEST_ARGS) \
		-m "not (docker or sshd or prometheus or browser or root or slow)"

.PHONY: lint
lint: venv  ## ruff, formatting, mypy --strict, and which layer may import which
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

.PHONY: format
format: venv  ## fix and format the code
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

.PHONY: lock
lock:  ## regenerate requirements.lock from pyproject.toml; LOCK_ARGS=--upgrade takes the newest versions
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(PYTHON) -m venv "$$scratch"; \
	"$$scratch/bin/python" -m pip --quiet --quiet --disable-pip-version-check install pip-tools; \
	"$$scratch/bin/pip-compile" --quiet --extra dev --generate-hashes --strip-extras --allow-unsafe \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
		$(LOCK_ARGS) --output-file requirements.lock pyproject.toml

.PHONY: demo
demo: provision venv  ## the main job end to end in a scratch directory, in about a minute
	@$(VENV)/bin/reconciler demo $(DEMO_ARGS)

.PHONY: man
man: venv  ## write the manual page, deploy/man/reconciler.1, from the same source as --help
	@mkdir -p deploy/man
	@$(VENV)/bin/python -m reconciler.cli.manual > deploy/man/reconciler.1

.PHONY: bench
bench: provision venv  ## measure what docs/performance.md reports
	@$(VENV)/bin/python benchmarks/run.py

.PHONY: figures
figures: venv  ## measure the code in lines, longest modules and functions, shared and vague names
	@$(VENV)/bin/python benchmarks/structure.py

.PHONY: clean
clean:  ## remove .venv and everything made by the tools
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
