# Everything from a bare checkout: each target makes .venv and installs into it what it needs.
#
#   make demo                    the two-minute tour
#   make test                    the fast tests            ARGS="tests/store -x" is passed to pytest
#   make test-all                the slow ones too
#   make lint                    ruff and mypy
#
# Variables, e.g. `make PYTHON=python3.13 TORCH=torch test`:
#   PYTHON   the interpreter .venv is made with (3.11 or newer; default: the first such found)
#   TORCH    what to install as torch, e.g. `torch`, `torch==2.12.0` or a wheel's path. Default:
#            the newest torch where an NVIDIA GPU is visible, else the one of constraints-cpu.txt.
#            pip gets it from wherever it is set up to look (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS).
#   VENV     where the environment goes (default .venv)

SHELL := /bin/sh
VENV ?= .venv
PYTHON ?=
TORCH ?=
ARGS ?=

RUN := $(VENV)/bin/python
REQUIREMENTS := pyproject.toml constraints.txt constraints-cpu.txt

HAS_GPU := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo yes || echo no)
ifneq ($(strip $(TORCH)),)
  TORCH_ARGS := '$(strip $(TORCH))'
else ifeq ($(HAS_GPU),yes)
  TORCH_ARGS := torch
else
  TORCH_ARGS := torch -c constraints-cpu.txt
endif

# The stamp's name says what is installed, so that any change of it installs again, and only that.
HASH := $(shell (cat $(REQUIREMENTS); echo "$(TORCH_ARGS) $(PYTHON)") | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.installed-$(HASH)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint format clean

help:
	@sed -n '3,14s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP)

demo: $(STAMP)
	$(RUN) -m pvtok.demo $(ARGS)

test: $(STAMP)
	$(RUN) -m pytest $(ARGS)

test-all: $(STAMP)
	$(RUN) -m pytest -m '' $(ARGS)

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy pvtok

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(STAMP):
	@set -eu; \
	good='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if [ -x $(RUN) ] && $(RUN) -c "$$good" 2>/dev/null && [ -z "$(PYTHON)" ]; then exit 0; fi; \
	found=; \
	for candidate in $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
	  if "$$candidate" -c "$$good" >/dev/null 2>&1; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  seen=$$("$(or $(PYTHON),python3)" --version 2>/dev/null || echo "not found"); \
	  echo "pvtok needs Python 3.11 or newer, and $(or $(PYTHON),python3) is: $$seen." \
	    "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	"$$found" -m venv --clear $(VENV) || { \
	  echo "$$found could not make $(VENV). On Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt $(TORCH_ARGS) -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
