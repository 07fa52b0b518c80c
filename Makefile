# Everything a newcomer types. `make` alone lists the targets.

# Versions of the libraries, each choice in an environment of its own:
#   make test            those of requirements.lock
#   make test LATEST=1   the newest of everything that pyproject.toml allows, looked up each time
#   make test LOWEST=1   the oldest that it allows, with the tests of what runs in other people's programs
CORE := tests/encoders tests/entropy tests/tofc --ignore=tests/tofc/serving --ignore-glob='*_eval.py'
ifdef LATEST
VENV := .venv-latest
UPGRADE := --upgrade --upgrade-strategy eager
else ifdef LOWEST
VENV := .venv-lowest
VERSIONS := $(VENV)/lowest.txt
TESTED := test
# What old libraries warn of, newer ones have mended.
TESTS := -W default $(CORE)
else
VENV := .venv
VERSIONS := requirements.lock
endif

RUN := $(VENV)/bin/python
# As variables, because pip hands those on to where it builds a library from its sources; newer ones read the second there.
PINNED := $(if $(VERSIONS),PIP_CONSTRAINT=$(VERSIONS) PIP_BUILD_CONSTRAINT=$(VERSIONS))
# -q hides progress, not errors; indexes and mirrors come from the user's own pip configuration.
PIP_INSTALL := $(RUN) -m pip install --quiet --disable-pip-version-check
RESOLVE := UV_PYTHON_DOWNLOADS=never UV_CUSTOM_COMPILE_COMMAND='make lock' $(VENV)/bin/uv pip compile pyproject.toml --quiet --no-annotate
# An interpreter is tried by running it: version managers put names on the PATH behind which nothing stands.
CANDIDATES := $(PYTHON) python3.12 python3.11 python3 python
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format bench fuzz lock clean always

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.installed-demo  ## answer bundled questions about pictures through the bitstream; writes a figure
	@$(RUN) -m eval.demo

WORKERS := 2

test: $(VENV)/.installed-$(or $(TESTED),dev)  ## run the whole test suite (LATEST=1, LOWEST=1: with other versions of the libraries)
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(WORKERS) --dist loadfile $(TESTS)

lint: $(VENV)/.installed-dev  ## check style (ruff) and types (mypy)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

format: $(VENV)/.installed-dev  ## rewrite the sources in the project's style
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

bench: $(VENV)/.installed-dev  ## time the codec against the field's own; prints tables and JSON lines
	@$(RUN) -m eval.bench

RUNS := 200000
TARGET := packet

fuzz: $(VENV)/.installed-fuzz  ## look for bytes that break a reader (TARGET=packet, pictures, checkpoints, requests, drafts; RUNS=200000 tries); Linux on x86-64
	@mkdir -p build/fuzz/$(TARGET)
	@$(RUN) tests/fuzz/fuzz_$(TARGET).py -runs=$(RUNS) -artifact_prefix=build/ build/fuzz/$(TARGET)

lock: $(VENV)/bin/uv  ## write requirements.lock anew: what it has stays where it may (LATEST=1: the newest of everything)
	@$(RESOLVE) --all-extras --universal --python-version 3.11 $(if $(LATEST),--upgrade) --output-file requirements.lock

clean:  ## remove the environments, caches and build leftovers
	rm -rf .venv .venv-latest .venv-lowest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@for candidate in $(CANDIDATES); do \
	    if "$$candidate" -c '$(SUITABLE)' >/dev/null 2>&1; then \
	        echo "making $(VENV) with $$("$$candidate" --version)"; \
	        exec "$$candidate" -m venv $(VENV); \
	    fi; \
	done; \
	echo "No Python 3.11 or 3.12 with the venv and ensurepip modules was found on the PATH." >&2; \
	echo "Install one (Debian, Ubuntu: the packages python3 and python3-venv), or name it: make PYTHON=/path/to/python3" >&2; \
	exit 1

$(VENV)/bin/uv: | $(VENV)/bin/python
	@$(PIP_INSTALL) 'uv>=0.9'

$(VENV)/lowest.txt: pyproject.toml | $(VENV)/bin/uv
	@$(RESOLVE) --extra test --python $(RUN) --resolution lowest-direct --upgrade --output-file $@

# Installed once for each set of extras; again whenever the versions or the list of dependencies change.
$(VENV)/.installed-%: pyproject.toml setup.py $(VERSIONS) $(if $(LATEST),always) | $(VENV)/bin/python
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(RUN) -m ensurepip --upgrade >/dev/null
	@echo "installing tofc[$*] into $(VENV) (the first time downloads PyTorch, which takes minutes)"
	@$(PINNED) $(PIP_INSTALL) $(UPGRADE) -e '.[$*]'
	@touch $@
