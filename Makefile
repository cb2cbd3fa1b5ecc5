# `make` lists what there is to do. Each target sets up what it needs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
TYPED := protocol config database bridge worker executor monitor cli examples/demo benchmarks scripts
# More for pytest: make unit ARGS="-k topics -x"
ARGS ?=
# Besides the newest, which is in .venv by constraints.txt; each has a constraints-<version>.txt of its own.
OLDER_AIRFLOWS ?= 3.1.8 3.2.2

.PHONY: help setup demo demo-stop fleet test test-brokers test-simulation test-browser test-fab test-faults test-all unit contract security integration acceptance test-airflow-matrix simulate simulate-mutants faults bench bench-retention bench-fleet bench-flood bench-pass env test-compose servers check format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1 — \2/'

setup: ## make .venv with all dependencies (the others do it when it is needed)
	@python=$$(sh scripts/python) && "$$python" scripts/setup.py

demo: setup ## run the example Dag on a worker over MQTT and print what happened (KEEP=1 leaves all of it running)
	@cd examples && exec ../$(BIN)/python -m demo $(if $(KEEP),--keep)

demo-stop: ## stop what `make demo KEEP=1` left running
	@cd examples && ../$(BIN)/python -m demo --stop

fleet: setup servers ## 200 simulated and 3 real workers with all that belongs to them, to look at until Ctrl-C
	@cd examples && PYTHONPATH=../tests:../benchmarks exec ../$(BIN)/python -m demo.fleet $(ARGS)

# Each broker behind one suite takes as long as all other tests together, for the most part waiting: it has a target of
# its own, and runs as several processes (ARGS="-n 0": one).
MATRIX := tests/contract/test_links.py tests/contract/test_brokers.py

test: setup servers ## unit, contract, security, integration and acceptance tests (installs Mosquitto, PostgreSQL and Prometheus if missing)
	@$(BIN)/pytest tests/unit tests/contract tests/security tests/integration tests/acceptance $(MATRIX:%=--ignore=%) $(ARGS)

test-brokers: setup servers ## the links and whole jobs over Mosquitto (MQTT 5 and 3.1.1), NATS, and a cluster of NATS that loses a node
	@$(BIN)/pytest $(MATRIX) -n 4 $(ARGS)

test-simulation: setup ## a slice of the simulation, all its deliberate defects, and the model
	@$(BIN)/pytest tests/simulation tests/model $(ARGS)

test-browser: setup ## the fleet's page, and Airflow's page of a task's log, in a real browser (installs Chromium and Mosquitto if missing)
	@sh scripts/install-debian chromium-headless-shell mosquitto
	@$(BIN)/pytest tests/browser $(ARGS)

test-fab: ## who may look and who may act with Flask-AppBuilder's auth manager, in an environment made for it (.venv-fab)
	@python=$$(sh scripts/python) && "$$python" scripts/setup.py fab
	@.venv-fab/bin/pytest tests/fab $(ARGS)

test-faults: setup servers ## a slice of the real faults, and those of the scheduler on a real Airflow
	@$(BIN)/pytest tests/faults $(ARGS)

test-all: test test-brokers test-simulation test-browser test-fab test-faults ## all of it but the containers

unit: setup ## tests that need no server
	@$(BIN)/pytest tests/unit $(ARGS)

contract: setup servers ## tests of each real database and broker behind its seam
	@$(BIN)/pytest tests/contract $(ARGS)

security: setup servers ## tests with a device whose account was stolen
	@$(BIN)/pytest tests/security $(ARGS)

integration: setup servers ## tests that start our own processes
	@$(BIN)/pytest tests/integration $(ARGS)

acceptance: setup servers ## tests with a real Airflow
	@$(BIN)/pytest tests/acceptance $(ARGS)

test-airflow-matrix: servers ## the acceptance tests, and those in a browser, on each Airflow that is supported
	@sh scripts/install-debian chromium-headless-shell
	@python=$$(sh scripts/python); for version in $(OLDER_AIRFLOWS); do \
	    echo "=== Airflow $$version"; \
	    "$$python" scripts/setup.py $$version; \
	    .venv-$$version/bin/pytest tests/acceptance -q $(ARGS); \
	    .venv-$$version/bin/pytest tests/browser -q $(ARGS); \
	done
	@echo "=== the newest Airflow"
	@$(MAKE) acceptance test-browser

model: setup ## search every state of a small instance of the protocol, and show that it catches each defect (LARGE=1)
	@cd tests && ../$(BIN)/python -m model $(if $(LARGE),--large)
	@cd tests && ../$(BIN)/python -m model --defects

simulate: setup ## the real cores in a world that breaks: SEEDS=1000 schedules, a table of faults and violations
	@cd tests && ../$(BIN)/python -m simulation $(SEEDS:%=--seeds %)

simulate-mutants: setup ## show that the simulation catches each deliberate defect
	@cd tests && ../$(BIN)/python -m simulation --mutants $(SEEDS:%=--seeds %)

SEED ?= 1
faults: setup servers ## break real brokers, bridges, databases and workers under 200 jobs: one table (SLICE=1: a part of it; ONLY=leader-kill,…)
	@cd tests && PYTHONPATH=../examples ../$(BIN)/python -m faults --seed $(SEED) $(if $(SLICE),--slice) $(if $(ONLY),--only $(ONLY)) $(if $(KEEP),--keep $(KEEP))

bench-retention: setup servers ## 300,000 jobs in 30 days on both databases: rows and bytes of each day
	@cd tests && ../$(BIN)/python -m retention $(ARGS)

bench: setup servers ## side by side with LocalExecutor, Celery and the Edge provider, each in an environment made for it; docs/explanation/performance.md (ARGS="--quick", ARGS="--systems celery mqtt")
	@sh scripts/install-debian redis-server
	@cd benchmarks && PYTHONPATH=../examples:../tests ../$(BIN)/python -m peers $(ARGS)

bench-fleet: setup servers ## one bridge under a simulated fleet: jobs/s, latency, CPU; docs/explanation/performance.md (ARGS="--quick", ARGS="--rows 20 sqlite")
	@cd benchmarks && PYTHONPATH=../examples:../tests ../$(BIN)/python -m fleet $(ARGS)

bench-flood: setup servers ## how much longer the jobs of others take while one device floods the site, in each way
	@cd tests && PYTHONPATH=../examples ../$(BIN)/python -m security.flood

bench-pass: setup servers ## a scheduler's pass that hears of 1,000 jobs, on both databases; docs/explanation/performance.md (ARGS=--quick)
	@cd benchmarks && PYTHONPATH=../examples:../tests ../$(BIN)/python -m scheduler_pass $(ARGS)

env: ## write .env (passwords, keys, ports) for compose.yaml; one that is there is kept
	@python=$$(sh scripts/python) && "$$python" scripts/compose/make_env.py

test-compose: setup ## compose.yaml and the images on a Docker engine (Debian: installs and starts it if none answers)
	@python=$$(sh scripts/python) && "$$python" scripts/compose/run_tests.py $(ARGS)

servers: # Mosquitto, PostgreSQL and PgBouncer, Prometheus, what a network namespace needs, nftables and sudo
	@sh scripts/install-debian mosquitto postgresql pgbouncer prometheus iproute2 util-linux nftables sudo

check: setup ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@MYPYPATH=protocol:config:database:bridge:worker:executor:monitor:cli:examples:benchmarks:scripts:scripts/compose $(BIN)/mypy --strict $(TYPED)
	@$(BIN)/lint-imports

format: setup ## rewrite the code in the house's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove what the other targets made
	rm -rf .venv .venv-* .demo .demo-fleet build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
