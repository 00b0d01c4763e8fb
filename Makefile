# make setup   a virtual environment in .venv with the pinned packages
# make test    setup, lint and every test (make test-fast: without the slow ones)
# make setup-export   the packages of the export formats into the same environment
# make setup-executorch, make setup-litert   environments of their own for these two formats, which see the torch of .venv
# make benchmark   setup, then every benchmark in its short mode; docs/performance.md holds the figures
# make demo    setup, then draw a small data set, train a detector on it, evaluate it, use it on a picture

VENV := .venv
PYTHON := $(CURDIR)/$(VENV)/bin/python
SYSTEM_PYTHON ?= python3
STAMP := $(VENV)/.installed
EXPORT_STAMP := $(VENV)/.installed-export
TEST_PROCESSES ?= 2
PYTEST := $(PYTHON) -m pytest -n $(TEST_PROCESSES) --dist worksteal

.PHONY: setup setup-export setup-executorch setup-litert test test-fast lint demo benchmark

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@$(SYSTEM_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(SYSTEM_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet -r requirements.txt
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(STAMP)

setup-export: $(EXPORT_STAMP)

$(EXPORT_STAMP): $(STAMP) requirements-export.txt
	$(PYTHON) -m pip install --quiet --no-deps -r requirements-export.txt
	touch $(EXPORT_STAMP)

setup-executorch setup-litert: setup-%: .venv-%/.installed

.venv-%/.installed: $(STAMP) requirements-%.txt
	$(SYSTEM_PYTHON) -m venv .venv-$*
	$(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/encore.pth"
	.venv-$*/bin/python -m pip install --quiet --no-deps -r requirements-$*.txt
	touch $@

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: lint setup-export
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m "not slow"

demo: setup
	$(PYTHON) -m public.test_scripts.demo

benchmark: setup
	$(PYTHON) -m benchmarks.report
