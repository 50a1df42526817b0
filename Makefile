# Every target makes .venv when it is missing, and brings it up to date when pyproject.toml or
# constraints.txt are newer. Another interpreter: make PYTHON=/path/to/python3.12 test
# Options for pytest: make test ARGS="-k entropy"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
SOURCES := pyproject.toml constraints.txt

.PHONY: help demo test test-slow test-all lint format wheel clean

help:
	@echo "make demo       watch entropy fall under plain GRPO and hold under a control (minutes, CPU)"
	@echo "make test       the fast tests"
	@echo "make test-slow  the tests above ten seconds; several processes, DeepSpeed (compiles: gcc)"
	@echo "make test-all   both"
	@echo "make lint       ruff, formatting, mypy"
	@echo "make format     let ruff repair and format"
	@echo "make wheel      build dist/rlvr-*.whl"
	@echo "make clean      remove .venv and what was built; runs/ stays"

demo: .venv/.rlvr
	@$(BIN)/rlvr demo

test: .venv/.test
	@$(PYTEST) -n auto --dist loadfile -m "not slow and not gpu" $(ARGS)

test-slow: .venv/.test-all
	@$(PYTEST) -n auto --dist loadfile -m "slow and not gpu" $(ARGS)

test-all: .venv/.test-all
	@$(PYTEST) -n auto --dist loadfile -m "not gpu" $(ARGS)

lint: .venv/.lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/.lint
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

wheel: .venv/.rlvr
	@rm -rf build dist
	@$(PIP) wheel --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:
	rm -rf .venv build dist *.egg-info

# torch comes first and by itself: whatever asks for "torch" later finds it there and takes no other
.venv/.rlvr: $(SOURCES)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "rlvr needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "==> $$("$(PYTHON)" --version) environment in .venv"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@$(PIP) install --upgrade "pip>=25.1"
	@echo "==> $$(grep '^torch==' constraints.txt)"
	@$(PIP) install "$$(grep '^torch==' constraints.txt)"
	@echo "==> rlvr and the packages it needs"
	@$(INSTALL) --editable .
	@touch $@

.venv/.test: .venv/.rlvr
	@echo "==> test tools"
	@$(INSTALL) --group test
	@touch $@

# no build isolation: DeepSpeed's set-up looks at the torch that is installed
.venv/.test-all: .venv/.test
	@echo "==> packages of the slow tests: DeepSpeed, reasoning-gym, trackio"
	@$(PIP) install --upgrade "setuptools>=77" wheel ninja
	@DS_BUILD_OPS=0 $(INSTALL) --no-build-isolation --group test-all
	@touch $@

.venv/.lint: .venv/.rlvr
	@echo "==> ruff and mypy"
	@$(INSTALL) --group lint
	@touch $@
