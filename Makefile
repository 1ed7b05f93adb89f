# Two commands for a newcomer: make demo, make test. Both make .venv and install into it what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# pip brings torch, for which it may have a local wheel; uv brings the rest, several times as fast.
UV := $(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt

.PHONY: help demo test check format peers page bench clean

help:
	@echo "make demo   install, then walk the whole road on drawn films: train, judge, explain, report"
	@echo "make test   install what the tests need, check the code, run every test"
	@echo "make check  format, lint, types, layers"
	@echo "make page   build the physician's page from page/ (needs Node 20); what is built is committed"
	@echo "make bench  compare training with the usual way, and fine-tuning's settings, side by side"

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Rentgen needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) (torch is large; this takes a few minutes once) ..."
	$(PIP) install -c constraints.txt torch torchvision uv
	$(UV) -e '.[train]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV) what the tests need ..."
	$(PIP) install -c constraints.txt torch torchvision uv
	$(UV) -e '.[dev]'
	@touch $@ $(VENV)/demo.stamp

demo: $(VENV)/demo.stamp
	$(BIN)/rentgen demo --out demo-out
	@echo "Real radiographs that packages carry, read by the bundle that ships:"
	@$(BIN)/python scripts/real_films.py demo-out/real-films && \
	    $(BIN)/rentgen predict pneumonia demo-out/real-films --heatmaps demo-out/real-heatmaps || \
	    echo "They could not be had or read; the demo above is complete without them."

test: check peers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/test.stamp
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/test.stamp
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench

# Independent judges from Debian: dcmtk (pixels), dicom3tools (validity). Without root or apt their tests are skipped.
peers: $(VENV)/test.stamp
	@./scripts/install-peers.sh
	@./scripts/install-node-peers.sh

# The built page lies in the package, so that nobody needs Node to run it.
page:
	./scripts/build-page.sh

bench: $(VENV)/demo.stamp
	$(BIN)/python bench/training.py
	$(BIN)/python bench/finetuning.py

clean:
	rm -rf $(VENV) demo-out dist build
