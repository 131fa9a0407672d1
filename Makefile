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

# The test modules are large: every worker of every run would compile them.
unexport PYTHONDONTWRITEBYTECODE

PYTEST_ARGS ?=
PYTEST_WORKERS ?= 8
DEMO_ARGS ?=
BENCH_ARGS ?=
LOCK_ARGS ?=

# The image: what it is called, what it is made of, and which wheels fit that (the Python and the glibc of Debian 13).
IMAGE ?= reconcilerd
BASE ?= debian:trixie-slim
BASE_PYTHON ?= 3.13
BASE_GLIBC := 17 24 26 28 34 35 39 41
WHEELS ?= build/wheels-$(BASE_PYTHON)
IMAGE_ARGS ?=

.PHONY: help
help:  ## list the targets
	@awk -F ':|  ## ' '/^[a-z-]+:.*  ## /{printf "  make %-12s %s\n", $$1, $$NF}' $(MAKEFILE_LIST)

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
	@$(VENV)/bin/pytest -n auto --dist worksteal $(PYTEST_ARGS) \
		-m "not (docker or sshd or prometheus or browser or root or python or image or swarm or systemd or slow)"

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

.PHONY: dist
dist: venv  ## build sdist and wheel into dist/, the same bytes from the same files
	@rm -rf dist
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || echo 1577836800)} \
		$(VENV)/bin/python -m hatchling build --directory dist

.PHONY: image
image: dist  ## build the Docker image IMAGE on BASE; RELEASE=yes insists on a base with a digest
	@[[ -z "$${RELEASE:-}" || "$(BASE)" == *@sha256:* ]] || { echo "a release needs BASE=…@sha256:…" >&2; exit 1; }
	@# Fetched here, as this machine reaches the package index; the build itself asks none.
	@cmp --quiet deploy/docker/requirements.lock "$(WHEELS)/requirements.lock" || { rm -rf "$(WHEELS)"; \
	$(PIP) download --dest "$(WHEELS)" --only-binary :all: --require-hashes --requirement deploy/docker/requirements.lock \
		--python-version $(BASE_PYTHON) --platform manylinux2014_$$(uname -m) \
		$(foreach minor,$(BASE_GLIBC),--platform manylinux_2_$(minor)_$$(uname -m)); \
	cp deploy/docker/requirements.lock "$(WHEELS)"; }
	@rm -rf build/image && mkdir -p build/image
	@cp dist/*.whl deploy/docker/requirements.lock build/image
	@cp -r "$(WHEELS)" build/image/wheels
	@docker build --file deploy/docker/Dockerfile --build-arg BASE=$(BASE) --build-arg PIP_NO_INDEX=1 \
		--tag $(IMAGE) $(IMAGE_ARGS) build/image

.PHONY: lock
lock:  ## regenerate requirements.lock and that of the image from pyproject.toml; LOCK_ARGS=--upgrade takes the newest versions
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(PYTHON) -m venv "$$scratch"; \
	"$$scratch/bin/python" -m pip --quiet --quiet --disable-pip-version-check install pip-tools; \
	"$$scratch/bin/pip-compile" --quiet --extra dev --generate-hashes --strip-extras --allow-unsafe \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
		$(LOCK_ARGS) --output-file requirements.lock pyproject.toml; \
	"$$scratch/bin/pip-compile" --quiet --extra notify --generate-hashes --strip-extras --allow-unsafe \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header \
		--constraint requirements.lock --output-file deploy/docker/requirements.lock pyproject.toml

.PHONY: demo
demo: provision venv  ## the main job end to end in a scratch directory, in about a minute
	@$(VENV)/bin/reconciler demo $(DEMO_ARGS)

.PHONY: man
man: venv  ## write the manual page, deploy/man/reconciler.1, from the same source as --help
	@mkdir -p deploy/man
	@$(VENV)/bin/python -m reconciler.cli.manual > deploy/man/reconciler.1

.PHONY: docs
docs: venv  ## build docs/ into a site with search, in build/site; a broken link is an error
	@$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going --nitpicky docs build/site
	@echo "open build/site/index.html"

.PHONY: outputs
outputs: provision venv  ## run the demo, and bring what README.md and docs/ show of its output up to date
	@scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; \
	$(VENV)/bin/reconciler demo > "$$scratch/demo.txt"; \
	$(VENV)/bin/python docs/outputs.py "$$scratch/demo.txt"; \
	$(VENV)/bin/python docs/page_picture.py

.PHONY: bench
bench: provision venv  ## measure what docs/performance.md reports; BENCH_ARGS="--only files,hosts" some of it
	@$(VENV)/bin/python benchmarks/run.py $(BENCH_ARGS)

# Environments of their own, for benchmarks only.
build/peers/.installed: benchmarks/peers/requirements.txt
build/plots/.installed: benchmarks/requirements.txt
build/peers/.installed build/plots/.installed:
	@echo "benchmarks: installing what $< names into $(@D)"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input install --requirement $<
	@touch $@

.PHONY: bench-peers
bench-peers: provision venv build/peers/.installed  ## measure beside ansible-pull, harbormaster and a cron script (as root)
	@command -v git-crypt >/dev/null || apt-get install --yes --quiet --quiet git-crypt
	@$(VENV)/bin/python benchmarks/run_peers.py --peers build/peers $(BENCH_ARGS)

.PHONY: bench-report
bench-report: build/plots/.installed  ## write the tables and plots of docs/performance.md from their JSON files
	@build/plots/bin/python benchmarks/report.py

.PHONY: figures
figures: venv  ## measure the code in lines, longest modules and functions, shared and vague names
	@$(VENV)/bin/python benchmarks/structure.py

.PHONY: clean
clean:  ## remove .venv and everything made by the tools
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
