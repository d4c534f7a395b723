# One environment for everything, made when it is missing. Without make: see README.
PYTHON ?= python3
PY := .venv/bin/python
# a process per core, one thread each: the networks of the tests are so small that a second thread only waits
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal

.PHONY: quickstart test test-all lint

quickstart: .venv/ready
	$(PY) train.py experiment=quickstart

test: .venv/ready
	$(PYTEST) -m "not slow and not browser"

test-all: .venv/ready
	$(PYTEST)

lint: .venv/ready
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'vitbn needs Python 3.11 or newer; try make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -c constraints.txt -e '.[test]'
	touch $@
