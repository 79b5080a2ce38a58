# `make` or `make help` lists the targets. Needs Python 3.11 or newer; the environment has everything else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-requirements
TESTS ?= tests
# `make test` leaves out the slow tests, unless TESTS names the tests to run.
SLOW := $(if $(filter tests,$(TESTS)),-m "not slow")
# Most tests wait for processes, so several files run at a time. The tests of a file stay together and share its
# fixtures. The order of files is kept, because the long ones come first; by default pytest-xdist sorts by test count.
PARALLEL := $(if $(filter tests,$(TESTS)),-n 4 --dist loadfile --no-loadscope-reorder)

.DEFAULT_GOAL := help
.PHONY: help run test lint audit format ci chaos soak bench bench-metrics bench-backlog bench-batch bench-live bench-console profile shape compose-test dashboards screenshots docs clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(STAMP) ## start PostgreSQL, Valkey, a mail catcher, the API and the workers; Ctrl-C stops them
	@exec $(BIN)/python -m devstack

test: $(STAMP) ## run all but the slow tests on their own servers, four files at a time
	@$(BIN)/python -m pytest $(PARALLEL) $(SLOW) $(TESTS)

lint: $(STAMP) ## check style, types and security
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml jobs_service actors

audit: $(STAMP) ## ask for known vulnerabilities of the packages in production
	@.ci/audit

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

ci: ## everything a change must pass: lint, audit, test, and compose-test if there is a Docker engine
	@echo "== lint"; $(MAKE) --no-print-directory lint
	@echo "== audit"; $(MAKE) --no-print-directory audit
	@echo "== test"; $(MAKE) --no-print-directory test
	@echo "== compose-test"; $(MAKE) --no-print-directory compose-test-if-possible

chaos: $(STAMP) ## run all fault tests, including the slow ones
	@$(BIN)/python -m pytest tests/chaos

SECONDS ?= 60
soak: $(STAMP) ## random faults under load for SECONDS=60; SEED= repeats a schedule, ONLY= selects faults
	@PYTHONPATH=.:tests $(BIN)/python tests/chaos/soak.py --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only $(ONLY))

bench: $(STAMP) ## measure jobs per second, CPU and latency beside Node, Celery and a straightforward implementation
	@$(BIN)/python -m bench $(BENCH)

bench-metrics: $(STAMP) ## measure the cost of metrics: this service beside itself without them
	@$(BIN)/python -m bench --metrics --phases load,drain --rounds 10 --jobs 1500 $(BENCH)

bench-backlog: $(STAMP) ## measure with ROWS jobs waiting (a million), or FINISHED jobs in the table, beside an empty queue
	@$(BIN)/python -m bench.backlog --rows $(or $(ROWS),1000000) --finished $(or $(FINISHED),0) $(BENCH)

bench-batch: $(STAMP) ## measure jobs submitted in batches beside single ones
	@$(BIN)/python -m bench.batch $(BENCH)

bench-live: $(STAMP) ## measure how soon clients that watch and wait are told
	@$(BIN)/python -m bench.live $(BENCH)

bench-console: $(STAMP) ## measure how soon the console's pages begin to arrive behind ROWS waiting or FINISHED jobs
	@$(BIN)/python -m bench.console --rows $(or $(ROWS),1000000) --finished $(or $(FINISHED),0) $(BENCH)

profile: $(STAMP) ## write flame graphs of the API and the worker under load to output/profile/
	@$(BIN)/python -m bench.profile $(PROFILE)

shape: $(STAMP) ## print the code's figures (imports, folders, functions, files), also beside another tree: BEFORE=folder
	@$(BIN)/python -m bench.shape $(if $(BEFORE),$(BEFORE)) .

compose-test: $(STAMP) ## start the Compose stack, run the README's commands, stop it
	@$(BIN)/python tests/compose/run

.PHONY: compose-test-if-possible
compose-test-if-possible: $(STAMP)
	@if $(BIN)/python tests/compose/run --can-run; then $(MAKE) --no-print-directory compose-test; \
	else echo "left out: no Docker engine with the images of docker-compose.yml answers here"; fi

dashboards: $(STAMP) ## write the Grafana dashboards from monitoring/grafana/
	@$(BIN)/python monitoring/grafana/build.py

screenshots: $(STAMP) ## take the pictures of the console in docs/console/, with Chromium
	@PYTHONPATH=.:tests $(BIN)/python tests/console/screenshots.py

docs: $(STAMP) ## write docs/metrics.md from the metric catalogue
	@$(BIN)/python -m jobs_service.metrics.page

clean: ## delete the environment, the local data and the caches
	rm -rf $(VENV) .local .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): requirements.txt requirements-otel.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is %d.%d. Name another one: make PYTHON=python3.13 …" % sys.version_info[:2])'
	@echo "creating the environment in $(VENV) (about a minute the first time)"
	@$(PYTHON) -m venv --clear $(VENV) || { echo "python3 -m venv does not work here; on Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
