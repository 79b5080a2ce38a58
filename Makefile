# `make` or `make help` lists what there is. Needs Python 3.11 or newer; everything else comes with the environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-requirements
TESTS ?= tests
# `make test` leaves the slow ones out, unless it is told which tests to run.
SLOW := $(if $(filter tests,$(TESTS)),-m "not slow")
# Most of them wait for processes; the tests of a file stay together, and share what it has set up. The files come in
# their order, in which the long ones are first: by the number of tests, the default, a few long ones would be left over.
PARALLEL := $(if $(filter tests,$(TESTS)),-n 4 --dist loadfile --no-loadscope-reorder)

.DEFAULT_GOAL := help
.PHONY: help run test lint format ci chaos soak bench bench-metrics bench-backlog compose-test dashboards docs clean

help: ## list these targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP) ## start PostgreSQL, Valkey, a mail catcher, the API and the workers; Ctrl-C stops all
	@exec $(BIN)/python -m devstack

test: $(STAMP) ## run all tests on servers of their own, four files at a time
	@$(BIN)/python -m pytest $(PARALLEL) $(SLOW) $(TESTS)

lint: $(STAMP) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

ci: ## what decides whether a change lands: lint, test, and compose-test where there is a Docker engine
	@echo "== lint"; $(MAKE) --no-print-directory lint
	@echo "== test"; $(MAKE) --no-print-directory test
	@echo "== compose-test"; $(MAKE) --no-print-directory compose-test-if-possible

chaos: $(STAMP) ## break the service on purpose in every way there is a test for, the slow ones too
	@$(BIN)/python -m pytest tests/chaos

SECONDS ?= 60
soak: $(STAMP) ## faults at random under load for SECONDS=60, the same schedule for the same SEED=, some of them with ONLY=
	@PYTHONPATH=.:tests $(BIN)/python tests/chaos/soak.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

bench: $(STAMP) ## measure jobs per second, CPU and latency beside Node, Celery and a straightforward implementation
	@$(BIN)/python -m bench $(BENCH)

bench-metrics: $(STAMP) ## measure what counting costs: this service beside itself without its metrics
	@$(BIN)/python -m bench --metrics --phases load,drain --rounds 10 --jobs 1500 $(BENCH)

bench-backlog: $(STAMP) ## measure submission and claims with ROWS jobs waiting (a million) beside an empty queue
	@$(BIN)/python -m bench.backlog --rows $(or $(ROWS),1000000) $(BENCH)

compose-test: $(STAMP) ## bring the Compose stack up, walk through the README, take it down
	@$(BIN)/python tests/compose/run

.PHONY: compose-test-if-possible
compose-test-if-possible: $(STAMP)
	@if $(BIN)/python tests/compose/run --can-run; then $(MAKE) --no-print-directory compose-test; \
	else echo "left out: no Docker engine with the images of docker-compose.yml answers here"; fi

dashboards: $(STAMP) ## write the Grafana dashboards anew from monitoring/grafana/build.py
	@$(BIN)/python monitoring/grafana/build.py

docs: $(STAMP) ## write docs/metrics.md anew from the metric catalogue
	@$(BIN)/python -m jobs_service.metrics.page

clean: ## remove the environment, the local data and caches
	rm -rf $(VENV) .local .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): requirements.txt requirements-otel.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is %d.%d. Choose another one: make PYTHON=python3.13 …" % sys.version_info[:2])'
	@echo "making the environment in $(VENV) (about a minute the first time)"
	@$(PYTHON) -m venv --clear $(VENV) || { echo "python3 -m venv does not work here; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
