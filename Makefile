# One door for people and CI. Everything lives in .venv; every target may be repeated.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 1
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help install dev serve train compare test test-slow check format bench image data recipes clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(VENV)/.serve  ## set .venv up with all that serving and training need

dev: $(VENV)/.dev

serve: $(VENV)/.serve  ## run the service on the shipped models, at http://127.0.0.1:8000
	@exec $(BIN)/python -m service

train: $(VENV)/.serve  ## train the three flagships on their whole data sets and publish them into var/models
	$(BIN)/python -m training fit digit
	$(BIN)/python -m training fit forecast
	$(BIN)/python -m training fit topic

compare: $(VENV)/.serve  ## write one table of all networks, var/compare/compare.md (SEEDS=3 trains each three times)
	$(BIN)/python -m training compare --seeds $(SEEDS)

data: $(VENV)/.serve  ## find or download the data sets, and verify them
	$(BIN)/python -m training data

test: $(VENV)/.dev data  ## run the fast tests (JOBS=4: four at a time)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-slow: $(VENV)/.dev data  ## run the tests that train and drive real services
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "slow and not alone"
	$(BIN)/python -m pytest -m "slow and alone"

check: $(VENV)/.dev  ## lint, format check and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.dev  ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.dev data  ## measure speed beside a plain baseline (PEERS="NAME=URL,form=raw ..." joins running servers); needs wrk
	@mkdir -p var/bench
	$(BIN)/python -m tests.bench.run --json var/bench/digit.json $(foreach peer,$(PEERS),--peer '$(peer)')
	$(BIN)/python -m tests.bench.rows --json var/bench/rows.json
	$(BIN)/python -m tests.bench.steady --json var/bench/steady.json

image:  ## build the container images (needs Docker)
	docker build --target service -t neuroserve:service .
	docker build --target trainer -t neuroserve:trainer .

recipes: $(VENV)/.serve
	$(BIN)/python -m training recipes

clean:  ## remove .venv and the caches; var (models, jobs, data) stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info build

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "neuroserve needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "the venv module is missing; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.serve: $(VENV)/.python pyproject.toml constraints.txt deploy/install_torch.sh
	@echo "setting $(VENV) up (once) ..."
	@sh deploy/install_torch.sh $(BIN)/python
	@$(PIP) install -c constraints.txt -e '.[train,client]'
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	@$(PIP) install -c constraints.txt -e '.[train,client,dev]'
	@touch $@
