# Each target sets up what it needs; a second call reuses it.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
BIN := .venv/bin
READY := .venv/.ready
INSTALLED := build/installed
QUICK := not slow and not browser and not wheel
LOWEST := build/lowest
# All but export, which asks for a newer torch than the rest.
EXTRAS := crowd,tensorboard,timm,transformers
WORKERS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help quickstart test slow browser wheel lowest kills chaos errors gpu overhead lint format format-check installed types docs
.PHONY: doctest structure bench check clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "Installing into .venv (once; PyTorch is large)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@

quickstart: $(READY)  ## Train CE, then L_DMI, on digits with wrong labels, in under a minute
	OMP_NUM_THREADS=1 $(BIN)/ldmi fit --config configs/quickstart.yaml $(ARGS)

test: $(READY)  ## Run the tests in two processes (WORKERS=N; ARGS="-k name" for some)
	$(BIN)/python -m pytest -m "$(QUICK)" -n $(WORKERS) --dist loadfile $(ARGS)

slow: $(READY)  ## Run the proofs that take many minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

browser: $(READY)  ## Look at the pages in headless Chromium (where it is installed)
	$(BIN)/python -m pytest -m browser $(ARGS)

wheel: $(READY)  ## Build the wheel, and run the quickstart from it in an empty environment
	$(BIN)/python -m pytest -m wheel tests/test_wheel.py $(ARGS)

lowest:  ## Run the tests with the lowest versions that pyproject.toml allows, in build/lowest
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(LOWEST)/bin/uv pip compile --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --extra $(EXTRAS) \
	  --output-file $(LOWEST)/versions.txt pyproject.toml
	$(LOWEST)/bin/uv pip install --quiet --compile-bytecode --python $(LOWEST)/bin/python --constraint $(LOWEST)/versions.txt \
	  --editable '.[$(EXTRAS)]' build hypothesis pytest pytest-timeout pytest-xdist setuptools
	$(LOWEST)/bin/python -m pytest -W default -m "$(QUICK)" -n $(WORKERS) --dist loadfile $(ARGS)

lint: $(READY)  ## Lint
	$(BIN)/ruff check .

format: $(READY)  ## Format the code
	$(BIN)/ruff format .

format-check: $(READY)  ## Check the format
	$(BIN)/ruff format --check .

installed: $(READY)
	@rm -rf $(INSTALLED) build/lib build/bdist*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(INSTALLED) .

types: installed  ## Check types on an installed copy
	cd $(INSTALLED) && ../../$(BIN)/mypy --config-file ../../pyproject.toml --package ldmi_lightning

docs: installed  ## Build the documentation site into build/site; a dead link or a missing docstring fails
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

doctest: $(READY)  ## Run the examples in the docstrings, on the installed names
	$(BIN)/python -m pytest -q --doctest-modules --pyargs ldmi_lightning ldmi_lightning.datamodules ldmi_lightning.models

structure: $(READY)  ## Check who imports whom, and what the wheel holds
	$(BIN)/python -m pytest -q tests/test_structure.py

kills: $(READY)  ## Kill a hundred runs at random moments, on one rank and on two, and resume them
	$(BIN)/python -m pytest -m kills $(ARGS)

chaos: $(READY)  ## Let a hundred random faults hit all commands that train (ARGS="--faults N --seed S")
	$(BIN)/python benchmarks/chaos.py $(ARGS)

errors: $(READY)  ## Write docs/errors.md from the mistakes that its test makes
	@mkdir -p build && rm -f build/errors.tsv
	-WRITE_ERRORS=$(CURDIR)/build/errors.tsv $(BIN)/python -m pytest -q tests/test_errors.py
	$(BIN)/python tests/test_errors.py build/errors.tsv

gpu: $(READY)  ## Test and measure on a GPU, where there is one (ARGS="--root FOLDER" for real data)
	$(BIN)/python -m pytest tests/test_cuda.py tests/test_precision.py tests/test_ranks.py -k "cuda or gpu"
	$(BIN)/python benchmarks/gpu.py $(ARGS)

overhead: $(READY)  ## Compare fit with a hand-written loop (ARGS="--root FOLDER" for real data)
	$(BIN)/python benchmarks/overhead.py $(ARGS)

bench: $(READY)  ## Compare the resident data path with a per-sample pipeline (ARGS="--root FOLDER" for real data)
	$(BIN)/python benchmarks/data_path.py $(ARGS)

check: test lint format-check types docs doctest  ## Everything that CI runs

clean:  ## Remove what was built; .venv and runs stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
