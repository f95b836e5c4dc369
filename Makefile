# Short verbs that run in the project's environment, .venv; each makes it first.
# They need make, git and a python3 with its venv module.
.DEFAULT_GOAL := help
export DAGSTER_HOME ?= $(CURDIR)/dagster_home
# Without bytecode, each of the thousands of processes that tests start compiles what it imports.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
# Installs everything else; requirements.lock has the same release.
UV_VERSION := 0.13.9
PORT ?= 3000
COMPILE = $(BIN)/uv pip compile --quiet --no-emit-package precalc-client --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate
# Test processes; auto is one per core.
CORES ?= auto

.PHONY: help install infra demo ui test slow chaos check docs format lock bench clean

help:  ## List the verbs
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

install: .venv/installed  ## Make the environment in .venv

.venv/installed: requirements.lock pyproject.toml client/pyproject.toml
	@python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "precalc needs python3 3.11, 3.12 or 3.13; this one is $$(python3 -V)" >&2; exit 1; }
	python3 -m venv .venv || { echo "python3 has no venv module: install it (Debian: apt install python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e client -e .
	@touch $@

infra: install infra/.venv/installed infra/node_modules/installed  ## Install the AWS CDK into infra/

infra/.venv/installed: infra/requirements.lock
	python3 -m venv infra/.venv
	$(BIN)/uv pip sync --quiet --python infra/.venv/bin/python --require-hashes infra/requirements.lock
	@touch $@

%/node_modules/installed: %/package.json %/package-lock.json
	@command -v npm >/dev/null || { echo "$*/ needs npm: install Node.js 20 or newer" >&2; exit 1; }
	npm ci --prefix $* --loglevel=error --no-audit --no-fund
	@touch $@

.venv/deploy: .venv/installed deploy/requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r deploy/requirements.lock
	@touch $@

demo: install  ## Run both built-in models over real molecules, on this machine alone
	$(BIN)/precalc run eos0aaa
	$(BIN)/precalc run eos0bbb
	$(BIN)/precalc get eos0aaa 'CN1CCCC1c1cccnc1' RYYVLZVUVIJVGH-UHFFFAOYSA-N
	@echo
	@echo 'These are nicotine and caffeine. What to look at next:'
	@echo '  make ui                                 the asset graph, partitions, checks and runs of this demo'
	@echo '  .venv/bin/precalc api                   the same predictions in a browser: http://127.0.0.1:8000'
	@echo '                                          there, "Find by value" finds molecules by their predictions'
	@echo '  .venv/bin/precalc screen --where "eos0aaa.logp between 2 and 3" --order "eos0aaa.qed desc" --limit 10'
	@echo '                                          the same by command: the ten most drug-like of a range of logP'
	@echo '  .venv/bin/precalc library build FILE    use molecules of your own'
	@echo '  .venv/bin/precalc run eos0aaa           run a model over them; unchanged shards are kept'

ui: install  ## Open Dagster's UI on this machine's data (http://127.0.0.1:3000)
	@$(BIN)/python -c 'import socket; socket.create_server(("127.0.0.1", $(PORT)))' 2>/dev/null || { echo "port $(PORT) is taken; is the UI already open? If not: make ui PORT=3001" >&2; exit 1; }
	$(BIN)/dagster dev --workspace workspace.yaml --host 127.0.0.1 --port $(PORT)

test: install  ## Run the fast tests
	$(BIN)/pytest -n $(CORES)

slow: install infra .venv/deploy tests/executions/node_modules/installed tests/workflows/node_modules/installed  ## Run the tests that use real components
	$(BIN)/pytest -m slow -n $(CORES)

chaos: install  ## Kill commands at random instants for ten minutes, and compare what they leave
	PYTHONPATH=tests $(BIN)/python tests/chaos/kill_matrix.py

check: install  ## Check lint, format, types, layers, definitions, documents and that all tests can be imported
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/dg check defs
	$(BIN)/python docs/build_site.py
	@collected=$$($(BIN)/pytest --collect-only -qq -m '' 2>&1) || { echo "$$collected"; exit 1; }

docs: install  ## Build the documentation site into site/html
	$(BIN)/python docs/build_site.py

format: install  ## Format the code and apply ruff's fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: install  ## Resolve the dependencies again
	$(COMPILE) --group dev pyproject.toml -o requirements.lock
	$(COMPILE) --extra deploy --constraint requirements.lock pyproject.toml -o deploy/requirements.lock
	$(COMPILE) --group infra -o infra/requirements.lock

bench: install  ## Run the benchmarks but the two longest, and print one table of ours, baseline, ratio and limit
	@$(BIN)/python -m benchmarks

clean:  ## Remove the environment and Dagster's records; data/ stays
	rm -rf .venv && git clean -fdXq dagster_home
