.DEFAULT_GOAL := help
# The Python that makes .venv: `make PYTHON=python3.12 up`.
PYTHON ?= python3
# More options for `make test` or `make demo`: `make test ARGS='-k balance --no-cov'`.
ARGS ?=
# How long `make soak` repeats each of its tests, and the seed that it begins with.
MINUTES ?= 10
SEED ?= 1
BIN := .venv/bin
UV_VERSION := 0.13.9
# uv installs into this .venv, with the Python that created it.
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never

.PHONY: help
help: ## List the commands.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: up
up: .venv/.synced ## Run everything: PostgreSQL, migrations, the gRPC server, Envoy. Ctrl-C stops it.
	@$(BIN)/mo-grpc up

.PHONY: demo
demo: .venv/.synced ## Fill the running service with a portfolio, through its public API.
	@$(BIN)/mo-grpc demo $(ARGS)

.PHONY: test
test: .venv/.synced ## Run all tests; fails below 95 % coverage.
	@$(BIN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=95 $(ARGS)

.PHONY: soak
soak: .venv/.synced ## Compare random histories with the reference model: `make soak MINUTES=60 SEED=7`.
	@$(BIN)/pytest --no-cov --capture=no --minutes=$(MINUTES) --seed=$(SEED) tests/model $(ARGS)

.PHONY: fuzz
fuzz: .venv/.synced ## Look for bytes that break a parser, guided by coverage: `make fuzz MINUTES=60`.
	@$(BIN)/uv sync --locked --all-extras --group fuzz --quiet
	@$(BIN)/python -m tests.fuzz $(MINUTES)

.PHONY: mutation
mutation: .venv/.synced ## Put small faults into a copy of the service, and see which checks find them; takes an hour or two.
	@$(BIN)/python -m tests.model.mutation $(ARGS)

.PHONY: bench
bench: .venv/.synced ## Measure the service against its limits; `make bench ROW=8` for one row.
	@$(BIN)/python -m benchmarks $(ROW)

.PHONY: lint
lint: .venv/.synced ## Check everything that needs no run: style, types, protos, lock file.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python protos/generate.py --check
	$(BIN)/python deploy/grafana/generate.py --check
	$(BIN)/python migrations/lint.py
	$(BIN)/python deploy/kubernetes/check.py
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml
	protos/breaking.sh
	$(BIN)/uv lock --check --quiet
	$(BIN)/pre-commit validate-config

.PHONY: format
format: .venv/.synced ## Format the code and the protos, and fix what can be fixed.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/buf format --write

.PHONY: generate
generate: .venv/.synced ## Rebuild generated/ from protos/, and Grafana's dashboards.
	$(BIN)/python protos/generate.py
	$(BIN)/python deploy/grafana/generate.py
	$(BIN)/python deploy/kubernetes/check.py --write

.PHONY: image-test
image-test: .venv/.synced ## Build the image and make a payment through it; needs root, buildah and debootstrap.
	@$(BIN)/python docker/image_test.py

.PHONY: screenshots
screenshots: .venv/.synced ## Take the pictures of the README from a service of its own; needs Chromium.
	@$(BIN)/python -m tests.screenshots
	@$(BIN)/python -m tests.trace_picture

.PHONY: breaking
breaking: .venv/.synced ## Check that the protos do not break clients of main.
	protos/breaking.sh

# Newer than the lock file if .venv has exactly what that lists. From a .venv that uv created, uv would remove itself, so it is
# created again.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
.venv/.synced: pyproject.toml uv.lock
	@if ! $(BIN)/python $(NEW_ENOUGH) 2>/dev/null || grep -q '^uv = ' .venv/pyvenv.cfg; then \
		$(PYTHON) $(NEW_ENOUGH) || { \
			echo 'Python 3.11 or newer is needed, and "$(PYTHON)" is not: try `make PYTHON=python3.12 $(MAKECMDGOALS)`.' >&2; exit 1; }; \
		echo 'Setting up .venv (once; it may take a minute) ...'; \
		$(PYTHON) -m venv --clear .venv; \
	fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/uv --version 2>/dev/null | grep -qF 'uv $(UV_VERSION)' || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'
	@$(BIN)/uv sync --locked --all-extras --compile-bytecode --quiet
	@touch $@
