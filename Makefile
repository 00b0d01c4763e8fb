# make setup   a virtual environment in .venv with the pinned packages
# make test    setup, lint and every test (make test-fast: without the slow ones)
# make demo    setup, then draw a small data set, train a detector on it, evaluate it, use it on a picture

VENV := .venv
PYTHON := $(CURDIR)/$(VENV)/bin/python
SYSTEM_PYTHON ?= python3
STAMP := $(VENV)/.installed
DEMO := detection_experiments/ppyoloe_xs_shapes
TEST_PROCESSES ?= 2
PYTEST := $(PYTHON) -m pytest -n $(TEST_PROCESSES) --dist worksteal

.PHONY: setup test test-fast lint demo

setup: $(STAMP)

$(STAMP): requirements.txt pyproject.toml
	@$(SYSTEM_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	$(SYSTEM_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet -r requirements.txt
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(STAMP)

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test: lint
	$(PYTEST)

test-fast: lint
	$(PYTEST) -m "not slow"

demo: setup
	$(PYTHON) -m public.datasets.shapes
	$(PYTHON) $(DEMO)/train.py
	PYTHON=$(PYTHON) $(DEMO)/test.sh
	PYTHON=$(PYTHON) public/test_scripts/detect_single_image.sh $(DEMO) data/shapes/JPEGImages/$$(head -n 1 data/shapes/ImageSets/Main/val.txt).jpg --output $(DEMO)/runs/detected.jpg
	@echo
	@echo "The demo is done. In $(DEMO)/runs/: the newest folder is its run,"
	@echo "  curves.png     losses, learning rate and AP"
	@echo "  pictures/      training batches as the network saw them, predictions beside ground truth"
	@echo "  best.pth       the weights;  $(DEMO)/runs/detected.jpg is the picture just detected"
