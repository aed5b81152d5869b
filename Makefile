# Each target sets up what it needs: a virtual environment in .venv, with the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
# Stamps: what the demo needs is installed, and what the checks need, which is everything.
READY_TO_RUN := .venv/ready-to-run
READY := .venv/ready
READY_FOR_DOCS := .venv/ready-for-docs
READY_FOR_DIST := .venv/ready-for-dist
READY_FOR_FOREIGN := .venv/ready-for-foreign
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e
# Processes that share the tests, of one thread each.
WORKERS ?= 2
# The folder that keeps the demo's results.
DEMO ?= runs/demo

.PHONY: help setup demo report-example docs links gallery dist test test-long test-foreign check format clean

help:
	@echo "make demo    install, then train the handwritten digits through two simulated devices (3 minutes)"
	@echo "make report-example  an example of the page that blackprop report makes (2 minutes)"
	@echo "make test    install everything, then run every check"
	@echo "make check   every check, in an environment that is set up: what continuous integration runs"
	@echo "make docs    the documentation site, in docs/_build/html (6 minutes, most of them for the gallery)"
	@echo "make links   whether the pages that the documentation links to elsewhere are there (needs a network)"
	@echo "make test-long     the tests of more than ten seconds, which make test leaves out"
	@echo "make test-foreign  the tests of bp.foreign with the other libraries, which it installs (900 MB, 2 minutes)"
	@echo "make dist    wheel and source package in dist/, checked, and tried in an empty environment (3 minutes)"
	@echo "make gallery  run every script of the gallery (4 minutes)"
	@echo "make format  put the code into its one layout"

setup: $(READY)

$(READY_TO_RUN): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[recipes]"
	@touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[recipes,tensorboard,language,lab,ray,dev]"
	@touch $(READY_TO_RUN) $@

$(READY_FOR_DOCS): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[recipes,lab,docs]"
	@touch $(READY_TO_RUN) $@

$(READY_FOR_DIST): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[release]"
	@touch $@

$(READY_FOR_FOREIGN): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[recipes,lab,dev,foreign]"
	@touch $(READY_TO_RUN) $@

demo: $(READY_TO_RUN)
	$(BIN)/blackprop compare digits --devices built-modulator undeclared-modulator --samples 20 --jobs 2 --run-dir $(DEMO) --overwrite

report-example: $(READY_TO_RUN)
	$(BIN)/blackprop compare digits --methods oracle frozen paper default row memory --epochs 10 --samples 20 \
		--read-noise 0.02 --run-dir runs/example --overwrite
	$(BIN)/blackprop report runs/example --output runs/example/report.html

docs: $(READY_FOR_DOCS)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --jobs 2 --quiet docs docs/_build/html
	$(BIN)/python docs/check_site.py docs/_build/html
	@echo "open docs/_build/html/index.html"

# Asks each other host that a page links to, so it is not a part of the checks.
links: $(READY_FOR_DOCS)
	$(BIN)/python -m sphinx --builder linkcheck --keep-going --jobs 2 --quiet -D plot_gallery=0 docs docs/_build/links

gallery: $(READY_FOR_DOCS)
	@for script in $$($(BIN)/python docs/_extension/needs.py examples/gallery/plot_*.py); do \
		echo "$$script"; MPLBACKEND=agg timeout 120 $(BIN)/python -W ignore::UserWarning $$script || exit 1; done

dist: $(READY_FOR_DIST)
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/check_dist.py dist

test: $(READY)
	@$(MAKE) --no-print-directory check

test-long: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long --numprocesses $(WORKERS)

# Their installation takes longer than the tests of the library may, so `make test` skips what needs them.
test-foreign: $(READY_FOR_FOREIGN)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/test_foreign.py tests/test_foreign_instruments.py tests/test_gallery.py

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright --level error
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

format: $(READY)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv runs dist docs/_build docs/gallery
