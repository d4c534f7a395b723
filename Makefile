# One environment for everything, made when it is missing. Without make: see README.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: quickstart test lint

quickstart: .venv/ready
	$(PY) train.py experiment=quickstart

test: .venv/ready
	$(PY) -m pytest

lint: .venv/ready
	$(PY) -m pip install -q -c constraints.txt -e '.[dev]'
	$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'vitbn needs Python 3.11 or newer; try make PYTHON=python3.12')"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install -q -c constraints.txt -e '.[test]'
	touch $@
