# Everything that is done with this repository, by name: `make help`.
#
# A machine needs Linux, Rust, Python 3.10 or newer, gcc and make. The rest is installed here, into .venv* and the caches of
# pip and cargo. A second run repeats only what changed. DuckDB comes as a wheel; none of its C++ is compiled.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
CARGO ?= cargo
# For one run: make test-python-2.0 PYTEST_ARGS="-k ladder -x", make test-rust CARGO_TEST_ARGS="ladder", make demo DEMO_ARGS=--help
PYTEST_ARGS ?=
CARGO_TEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

# CI takes Cargo.lock as it is and fails where it would change.
LOCKED := $(if $(CI),--locked)
PIP := -m pip --disable-pip-version-check --quiet
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
# The interpreter that pyo3 is built against, the same for every cargo command here, so that none undoes another's work.
export PYO3_PYTHON ?= $(shell command -v $(PYTHON))

# One environment for each DuckDB that is supported. 1.4.3 is the version that PyAirbyte pins; beside it stand the oldest
# libraries that are promised.
DUCKDBS := 2.0 1.5 1.4
venv-2.0 := .venv
venv-1.5 := .venv-1.5
venv-1.4 := .venv-1.4
# DuckDB 2.0 needs Python 3.11; on 3.10 the newest there is stands in.
packages-2.0 := "duckdb==2.0.*; python_version > '3.10'" 'duckdb' 'distributed'
packages-1.5 := 'duckdb==1.5.*'
packages-1.4 := 'duckdb==1.4.3' 'pandas<3' "pyarrow==17.*; python_version < '3.13'"
BIN := .venv/bin

.PHONY: help
help: ## Says what there is
	@echo 'duckward: make demo and make test set up all that they need.'
	@awk -F ':.*## ' '/^[a-z][a-z0-9.-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo 'Another Python: make test PYTHON=python3.12. A part of the tests: PYTEST_ARGS="-k name", CARGO_TEST_ARGS=name.'

# ---------------------------------------------------------------- what people run

.PHONY: demo test lint bench fuzz
demo: .venv/.ready ## The main job on real data: queries that plain DuckDB dies of, with and without duckward
	$(BIN)/duckward demo $(DEMO_ARGS)

test: test-rust test-native test-python stubs ## All tests: Rust, the native engine, Python on every supported DuckDB, stubs

lint: lint-rust lint-python deny ## Format, lints, types, documentation, licences

bench: .venv/.ready ## The figures that the README claims, measured
	$(BIN)/python benches/run.py $(BENCH_ARGS)

# Other statements and kills each time; the seed is printed. For long: make fuzz FUZZ_COUNT=100000 FUZZ_KILLS=1000
FUZZ_COUNT ?= 10000
FUZZ_KILLS ?= 100
fuzz: $(foreach duckdb,$(DUCKDBS),$(venv-$(duckdb))/.ready) ## Random statements in pieces and at once must give the same, partitionings that are killed nothing by halves; on every supported DuckDB
	@seed=$$(date +%s); for bin in $(foreach duckdb,$(DUCKDBS),$(venv-$(duckdb))/bin); do \
	    echo "$$bin --seed $$seed"; $$bin/python tests/python/pieces_fuzz.py --seed $$seed --count $(FUZZ_COUNT); \
	    $$bin/python tests/python/partition_killed.py --seed $$seed --count $(FUZZ_KILLS); \
	done

# ---------------------------------------------------------------- pieces of test

.PHONY: test-rust test-native test-python $(DUCKDBS:%=test-python-%) stubs
test-rust: ## Rust tests: units, laws, simulation, documented examples, with and without the Python face
	$(CARGO) test $(LOCKED) $(CARGO_TEST_ARGS)
	@lib=$$($(PYTHON) -c 'import sysconfig as s; print(s.get_config_var("LIBDIR"), s.get_config_var("LDLIBRARY"), sep="/")'); \
	if [[ -e $$lib ]]; then \
	    set -x; LD_LIBRARY_PATH=$${lib%/*}$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH} \
	        $(CARGO) test $(LOCKED) --features python --lib $(CARGO_TEST_ARGS); \
	else \
	    echo "not run: Rust tests of the Python face, which link $$lib (Debian: apt-get install libpython3-dev); pytest tests the face itself"; \
	fi

# The library of the wheel has DuckDB's C interface, so no C++ is compiled. It wants Python's symbols when it is loaded.
NATIVE := $(HOME)/.cache/duckward/native
test-native: .venv/.ready ## Laws of the engine that is DuckDB in the same process, by the library in the wheel
	@lib=$$($(BIN)/python -c 'import sysconfig as s; print(s.get_config_var("LIBDIR"), s.get_config_var("INSTSONAME"), sep="/")'); \
	if [[ ! -e $$lib ]]; then \
	    echo "not run: tests of the native engine, which need $$lib (Debian: apt-get install libpython3-dev)"; exit 0; \
	fi; \
	mkdir -p $(NATIVE); \
	ln -sfn "$$($(BIN)/python -c 'import _duckdb; print(_duckdb.__file__)')" $(NATIVE)/libduckdb.so; \
	set -x; export DUCKDB_LIB_DIR=$(NATIVE) RUSTFLAGS="-C link-arg=-Wl,--unresolved-symbols=ignore-in-shared-libs"; \
	$(CARGO) clippy $(LOCKED) --all-targets --features native --target-dir target/native -- -D warnings; \
	$(CARGO) test $(LOCKED) --features native --target-dir target/native --test native --no-run; \
	LD_PRELOAD=$$lib LD_LIBRARY_PATH=$(NATIVE) $(CARGO) test $(LOCKED) --features native --target-dir target/native --test native $(CARGO_TEST_ARGS)

test-python: $(DUCKDBS:%=test-python-%) ## Python tests on DuckDB 2.0, 1.5 and 1.4 (one of them: make test-python-1.4)

define python_tests
test-python-$(1): $(venv-$(1))/.ready
	@$(venv-$(1))/bin/python -c 'import duckdb, pyarrow, sys; print("== DuckDB", duckdb.__version__, "pyarrow", pyarrow.__version__, "Python", sys.version.split()[0])'
	$(venv-$(1))/bin/python -m pytest $$(PYTEST_ARGS)
endef
$(foreach duckdb,$(DUCKDBS),$(eval $(call python_tests,$(duckdb))))

# PyAirbyte pins DuckDB 1.4.3 and brings 800 MB along, and its source wants an environment of its own: minutes to install, so
# this is not a part of `test`.
.PHONY: test-airbyte
test-airbyte: .venv-airbyte/.ready ## Loads what the real PyAirbyte gives, of its faker source
	timeout 300 .venv-airbyte/bin/python -m pytest tests/python/test_ingest_airbyte.py $(PYTEST_ARGS)

.venv-airbyte/.ready: dist/.built
	$(PYTHON) -m venv .venv-airbyte
	timeout 1200 .venv-airbyte/bin/python $(PIP) install airbyte pytest pytest-timeout
	$(PYTHON) -m venv .venv-airbyte/faker
	timeout 600 .venv-airbyte/faker/bin/python $(PIP) install airbyte-source-faker
	.venv-airbyte/bin/python $(PIP) install --no-deps --force-reinstall dist/duckward-*.whl
	touch $@

stubs: .venv/.ready ## Compares the stubs with the module as it is
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml duckward

# ---------------------------------------------------------------- pieces of lint

PYTHON_SOURCES := $(wildcard python tests/python benches)

.PHONY: lint-rust lint-python deny fmt
lint-rust: ## rustfmt, clippy with and without the Python face, rustdoc
	$(CARGO) fmt --check
	$(CARGO) clippy $(LOCKED) --all-targets -- -D warnings
	$(CARGO) clippy $(LOCKED) --all-targets --features python -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --no-deps --features python

lint-python: .venv/.ready ## ruff and mypy
	$(BIN)/ruff check $(PYTHON_SOURCES)
	$(BIN)/ruff format --check $(PYTHON_SOURCES)
	$(BIN)/mypy

# Built once, from its lock file, unoptimised: a minute, where the optimised one takes many and gains nothing.
DENY_VERSION := 0.20.2
DENY := $(or $(shell command -v cargo-deny),$(HOME)/.cache/duckward/bin/cargo-deny)
CHECKS ?= bans licenses sources
deny: | $(DENY) ## Licences and sources of the dependencies, no crate twice
	$(DENY) $(LOCKED) check $(CHECKS)

$(HOME)/.cache/duckward/bin/cargo-deny:
	env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 $(CARGO) install --quiet --debug --locked --no-default-features \
	    --no-track --root $(HOME)/.cache/duckward cargo-deny@$(DENY_VERSION)

fmt: .venv/.tools ## Formats Rust and Python
	$(CARGO) fmt
	$(BIN)/ruff check --fix-only --quiet $(PYTHON_SOURCES)
	$(BIN)/ruff format $(PYTHON_SOURCES)

# ---------------------------------------------------------------- setting up

.PHONY: wheel environments clean
wheel: dist/.built ## Builds the wheel into dist/
	@ls dist/*.whl

environments: $(foreach duckdb,$(DUCKDBS),$(venv-$(duckdb))/.ready) ## Builds the wheel and all Python environments, without running anything

clean: ## Removes all that was built here, environments too
	$(CARGO) clean
	rm -rf dist .venv .venv-1.5 .venv-1.4 .venv-airbyte .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Files, and folders too, so that a file that was removed counts as a change.
WHEEL_SOURCES := $(shell find src python -not -name '__pycache__' -not -name '*.pyc' -not -name '*.so') \
    $(wildcard Cargo.toml Cargo.lock pyproject.toml README.md DESIGN.md LICENSE-*)

dist/.built: $(WHEEL_SOURCES) | .venv/.tools
	rm -rf dist
	$(BIN)/maturin build --release $(LOCKED) --interpreter $(BIN)/python --out dist
	touch $@

.venv/.tools: .venv/.python-$(PYTHON_VERSION) requirements/dev.txt
	$(BIN)/python $(PIP) install --constraint requirements/dev.txt maturin mypy ruff
	touch $@

# First what the wheel needs, by its own word; then the wheel itself, because pip takes a wheel of the same version for the same.
define environment
$(venv-$(1))/.python-$(PYTHON_VERSION):
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "$(PYTHON) is not a Python 3.10 or newer with venv (Debian: apt-get install python3-venv); name another: make PYTHON=..." >&2; exit 1; }
	rm -rf $(venv-$(1))
	$(PYTHON) -m venv $(venv-$(1))
	touch $$@

$(venv-$(1))/.ready: dist/.built requirements/dev.txt Makefile $(venv-$(1))/.python-$(PYTHON_VERSION)
	wheel=$$$$(echo dist/duckward-*.whl); \
	$(venv-$(1))/bin/python $(PIP) install --constraint requirements/dev.txt "$$$$wheel[test]" $(packages-$(1)); \
	$(venv-$(1))/bin/python $(PIP) install --no-deps --force-reinstall "$$$$wheel"
	touch $$@
endef
$(foreach duckdb,$(DUCKDBS),$(eval $(call environment,$(duckdb))))
