# Two commands on a bare machine with Python 3.11 and make:   make demo      make test
# `make help` lists the rest. Everything is installed into $(VENV), nothing else is touched.

PYTHON ?= python3.11
VENV ?= .venv
# torch goes in first and pinned: a range would take the newest build, with gigabytes of CUDA libraries on Linux.
# Where this version comes with CUDA too and none is wanted, name a CPU wheel: make demo TORCH=<path or address>
TORCH ?= torch==2.13.0
DEMO ?= out/demo

BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := pyproject.toml setup.py README.md $(shell find otreg cli -name "*.py" -o -name py.typed -o -path "*/page/*" -o -path "*/native/*" -o -name "*.cu")
MOVING := data/metacarpal_1.vtk
FIXED := data/metacarpal_2.stl

.NOTPARALLEL:
.PHONY: help demo test slow lint accuracy minimum clean

help:
	@echo "make demo      register two real bones; prints the figures and the path of a picture"
	@echo "make test      lint, types and tests"
	@echo "make slow      the tests that take minutes of processor time each: whole templates"
	@echo "make lint      lint and types alone"
	@echo "make accuracy  error against truth, time and folding on the surfaces of data/, otreg beside others"
	@echo "make minimum   the tests with the oldest versions that pyproject.toml allows (.ci/minimum.txt)"
	@echo "make clean     remove $(VENV), out and caches"

# build/ is removed before each install: setuptools would put modules that no longer exist into the package
$(VENV)/torch.stamp:
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	touch $@

$(VENV)/otreg.stamp: $(VENV)/torch.stamp $(SOURCES)
	rm -rf build
	$(PIP) .
	touch $@

# the package itself comes along, so the two stamps are renewed together
$(VENV)/dev.stamp: $(VENV)/torch.stamp pyproject.toml
	rm -rf build
	$(PIP) ".[dev]"
	touch $(VENV)/otreg.stamp $@

$(DEMO)/report.json: $(MOVING) $(FIXED) $(VENV)/otreg.stamp
	mkdir -p $(dir $(DEMO))
	$(BIN)/otreg register $(MOVING) $(FIXED) -o $(DEMO)

$(DEMO)/picture.png: $(DEMO)/report.json
	$(BIN)/otreg render $(DEMO) -o $@ --quiet

demo: $(DEMO)/picture.png
	@echo; echo "$(MOVING) moved onto $(FIXED), lengths in mm:"
	@$(BIN)/otreg evaluate $(DEMO)/moved.vtk $(FIXED) --moving $(MOVING) --transform $(DEMO)
	@echo; echo "picture: $(DEMO)/picture.png"

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tests run against the installed package, not against this folder (--import-mode=append in pyproject.toml).
# A file of tests is one process's, one thread each: all cores are used, and what is timed or weighed stays comparable.
test: lint $(VENV)/otreg.stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

slow: $(VENV)/dev.stamp $(VENV)/otreg.stamp
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder -m slow

accuracy: $(VENV)/otreg.stamp
	$(BIN)/python benchmarks/registration.py data

# torch 2.4 itself has no CPU build in the registry, so the pinned torch stands in for it here; where one is at hand:
# make minimum TORCH=<its wheel>
minimum:
	rm -rf .venv-minimum build
	$(PYTHON) -m venv .venv-minimum
	grep -v "^torch" .ci/minimum.txt > .venv-minimum/constraints.txt
	.venv-minimum/bin/python -m pip install --quiet "$(TORCH)" -c .venv-minimum/constraints.txt
	.venv-minimum/bin/python -m pip install --quiet ".[dev]" -c .venv-minimum/constraints.txt
	.venv-minimum/bin/pytest

clean:
	rm -rf $(VENV) .venv-minimum build out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
