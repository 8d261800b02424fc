# Every target sets itself up in .venv from nothing. `make demo` leaves its servers up.
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-benchmarks
BROWSER_STAMP := $(VENV)/.installed-browser
SOURCES := reelroute data_contracts configs tasks flows deployments tests benchmarks examples

ifdef PREFECT_PORT
export REELROUTE__PREFECT__API_URL := http://127.0.0.1:$(PREFECT_PORT)/api
endif
ifdef AWS_PORT
export REELROUTE__AWS__ENDPOINT_URL := http://127.0.0.1:$(AWS_PORT)
endif

.PHONY: demo deploy worker test operation browser test-slow lint format bench-student \
        bench-label bench-monitor bench-promotion chaos conformance down install

## demo: the whole pipeline on this machine (SIZE=1000: a small one)
demo: $(STAMP)
	@$(BIN)/python -m deployments.local up
	@$(BIN)/reelroute run $(if $(SIZE),--size $(SIZE))
	@echo "The servers stay up; 'make down' stops them."

## deploy: work pool, deployments and automations in Prefect (CONFIG=configs/aws.yaml)
deploy: $(STAMP)
	@$(BIN)/python -m deployments deploy $(if $(CONFIG),--config $(CONFIG))

## worker: runs what is deployed, in the foreground (CONFIG=configs/aws.yaml)
worker: $(STAMP)
	@$(BIN)/python -m deployments worker $(if $(CONFIG),--config $(CONFIG))

## test: the whole suite, offline
test: $(STAMP)
	$(BIN)/python -m pytest

## operation: schedule, second runs, dead runs and automations against a real Prefect; minutes
operation: $(STAMP)
	$(BIN)/python -m pytest -m operation tests/operation

## browser: the Prefect UI in a real browser (SCREENSHOTS=1: the README's pictures)
browser: $(BROWSER_STAMP)
	$(BIN)/python -m pytest -m browser tests/browser

## test-slow: what `test` leaves out (a Dask cluster of two workers, a batch of 20,000 queries, runs
## on a CloudFormation stack and with prompts alone)
test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

## lint: format, lint, types, CloudFormation with its policies, the Dockerfile, and an audit of
## the dependencies (which says so where PyPI's advisories can't be reached)
lint: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/cfn-lint deployments/aws/*.yaml
	$(BIN)/hadolint deployments/aws/Dockerfile
	$(BIN)/python -m deployments.audit

format: $(STAMP)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

## bench-student: the local student beside its peers (HELDOUT=FILE: other queries; SIZE=N: fewer
## training rows; MODEL=FOLDER: a trained student)
bench-student: $(BENCH_STAMP)
	$(BIN)/python -m benchmarks.student $(if $(HELDOUT),--heldout "$(HELDOUT)") \
	  $(if $(SIZE),--size $(SIZE)) $(if $(MODEL),--model "$(MODEL)")

## chaos: the pipeline under every kind of fault and under 60 kills, 15 to 45 minutes (KILLS=N,
## FAULTS=KIND,…, SEED=N: parts of it)
chaos: $(STAMP)
	$(BIN)/python -m benchmarks.chaos $(if $(KILLS),--kills $(KILLS)) \
	  $(if $(FAULTS),--faults "$(FAULTS)") $(if $(SEED),--seed $(SEED))

## bench-monitor: the monitor over 2 and 20 million log lines, and what it notices (25 minutes;
## LINES="2000000": fewer lines)
bench-monitor: $(STAMP)
	$(BIN)/python -m benchmarks.monitor $(if $(LINES),--lines $(LINES))

## conformance: the test suite and a demo with every request and answer held against the services'
## API models (SIZE=N: the demo's size); it stops the demo's servers before and after
CALLS := $(CURDIR)/.reelroute/calls
conformance: $(STAMP)
	@rm -rf $(CALLS)
	REELROUTE_RECORD_CALLS=$(CALLS)/suite $(BIN)/python -m pytest
	@$(MAKE) --no-print-directory down
	@REELROUTE_RECORD_CALLS=$(CALLS)/demo $(MAKE) --no-print-directory demo
	@$(MAKE) --no-print-directory down
	@$(BIN)/python -m benchmarks.conformance suite=$(CALLS)/suite demo=$(CALLS)/demo

## bench-promotion: promotions and rollbacks while clients route at 50 requests a second (SECONDS=60)
bench-promotion: $(STAMP)
	$(BIN)/python -m benchmarks.promotion $(if $(SECONDS),--seconds $(SECONDS))

## bench-label: labelling at 64 queries at a time, under a quota, and its memory (30 minutes;
## CURATOR_PYTHON=PYTHON: beside Bespoke Curator, which that Python has)
bench-label: $(STAMP)
	$(BIN)/python -m benchmarks.label

## down: stop what `make demo` left up
down: $(STAMP)
	@$(BIN)/python -m deployments.local down

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ReelRoute needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# The benchmark's peers, which nothing else needs.
$(BENCH_STAMP): $(STAMP)
	@echo "Installing the benchmark's peers into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,benchmarks]'
	@touch $@

# What drives the browser, which is the system's own (Debian: apt-get install chromium).
$(BROWSER_STAMP): $(STAMP)
	@echo "Installing what drives the browser into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser]'
	@touch $@
