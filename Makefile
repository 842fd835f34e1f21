# The front door: `make help` lists what can be asked for. On a bare machine begin with ./bootstrap instead.

PYTHON ?= /usr/bin/python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest

# The name of this file says what was installed, by which Python and where to: any change means another name.
INSTALLED := .venv/.installed-$(shell { cat pyproject.toml requirements-dev.txt; $(PYTHON) -V; pwd; } 2>&1 | sha256sum | cut -c1-16)
CODE := $(foreach folder,src tests demo bench docs,$(if $(wildcard $(folder)/*.py $(folder)/*/*.py),$(folder)))

# nft and ip live in sbin, which an ordinary user's PATH lacks; bootstrap may have put a docker client into .venv/bin.
export PATH := $(CURDIR)/$(BIN):$(PATH):/usr/sbin:/sbin

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help venv demo test check style laws format kernel e2e golden docs bench requirements clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-14s%s\n", $$1, $$2 }' Makefile

venv: $(INSTALLED)  ## install the program and its tools into .venv

$(INSTALLED):
	@echo "make: installing the pinned Python packages into .venv (the first time it takes a minute)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q src
	@rm -f .venv/.installed-*
	@touch $@

demo: venv  ## every network mode with real traffic; needs root, or a namespace of one's own
	@$(BIN)/python demo/demo.py

# The laws take a processor for minutes, while those that need root mostly wait: so they go side by side. So that both sides
# take as long, some of those that wait come after the laws: these with shared stores.
STORES := tests/contract/test_kv.py tests/contract/test_kv_secured.py tests/e2e/test_overlay.py tests/e2e/test_encrypted.py
# What failed is said again in the end, where it is found: before it there are thousands of lines.
test: style  ## everything; needs root, or a namespace of one's own
	@$(PYTEST) -p no:cacheprovider tests/laws $(STORES) > .venv/beside.log 2>&1 & beside=$$!; \
	    $(PYTEST) tests/contract tests/kernel tests/e2e $(STORES:%=--ignore=%) | tee .venv/before.log; before=$$?; \
	    wait $$beside; beside=$$?; cat .venv/beside.log; \
	    grep -hE '^(FAILED|ERROR|E  ) ' .venv/before.log .venv/beside.log; exit $$((before || beside))

check: style laws  ## what each commit passes: all that needs no root

style: venv
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports --no-logo
	$(PYTEST) --doctest-modules src tests/unit tests/golden tests/wire

laws: venv
	$(PYTEST) tests/laws

format: venv  ## lay the code out and mend what ruff can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

kernel: venv  ## the real kernel held against the fake one, each test in a namespace of its own; needs root
	$(PYTEST) tests/contract tests/kernel

e2e: venv  ## whole daemons, the stock docker client, kill -9; needs root
	$(PYTEST) tests/e2e

golden: venv  ## renew the golden files; review their diff
	RENEW_GOLDEN=1 $(PYTEST) tests/golden

docs: venv  ## renew the reference page, which is made from the code, and the golden files
	$(BIN)/python docs/build.py
	RENEW_GOLDEN=1 $(PYTEST) tests/golden

bench: venv  ## speed and memory beside the kernel's own floor and the engines installed here; needs root and gcc
	$(BIN)/python -m bench

requirements:  ## pin the newest dependencies, by hash
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install -q --upgrade uv
	build/uv/bin/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	    --custom-compile-command "make requirements" pyproject.toml -o requirements.txt
	build/uv/bin/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	    --custom-compile-command "make requirements" pyproject.toml --group dev -c requirements.txt -o requirements-dev.txt

clean:  ## remove all that was made here
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +
