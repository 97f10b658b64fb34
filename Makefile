# `make demo` and `make test` work on a fresh machine with Python 3.10+ and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all lint docs results results-table bench clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "distmeta needs Python 3.10 or newer; set PYTHON=python3.X"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/distmeta train configs/demo.yaml --run-dir runs/demo-$$(date +%Y%m%d-%H%M%S)

test: setup
	$(BIN)/python -m pytest --numprocesses 2

test-all: setup
	$(BIN)/python -m pytest --numprocesses 2 -m ''

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	$(BIN)/python -m sphinx -W --keep-going --builder html docs build/docs
	@echo "open build/docs/index.html"

# BUDGET in minutes; DATA for example "--data PATH_TO_OMNIGLOT=~/omniglot --data PATH_TO_CIFAR_FS=~/cifar_fs"
results: setup
	$(BIN)/python benchmarks/results.py --budget $(or $(BUDGET),60) $(DATA)

results-table: setup
	$(BIN)/python docs/results/records.py write

bench: setup
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/roofline.py
	$(BIN)/python benchmarks/memory.py engine.compile=none
	$(BIN)/python benchmarks/end_to_end.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/scaling.py --sizes 0.5 50
	$(BIN)/python benchmarks/waiting.py
	$(BIN)/python benchmarks/heads.py
	$(BIN)/python benchmarks/policies.py physics workers peer
	$(BIN)/python benchmarks/faults.py

clean:
	rm -rf .venv build *.egg-info
