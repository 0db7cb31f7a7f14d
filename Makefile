# Each target starts from a bare Python: the first call makes .venv and
# installs everything, later calls reuse it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# make demo MIMIC3=path OUT=folder
DEMO_OPTIONS := $(if $(MIMIC3),--mimic3 "$(MIMIC3)") $(if $(OUT),--out "$(OUT)")

# The oldest and the newest that are supported, each in an environment of its own.
OLDEST := torch==2.7.1 captum==0.7.0 pyhealth==2.0.2
NEWEST := torch captum pyhealth
# Captum Insights, which Captum dropped in 0.9, beside the newest torch and PyHealth.
INSIGHTS := torch captum==0.7.0 pyhealth
COMPAT := .compat

# One process for each core; each takes what shares a model or a fixture.
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_OPTIONS)

.PHONY: help demo test check test-compat test-insights mutants lint docs tutorials \
	bench dist dist-check clean
.DEFAULT_GOAL := help

help:
	@echo "make demo                train on the built-in cohort and explain it"
	@echo "make demo MIMIC3=path    the same on a MIMIC-III folder"
	@echo "make demo OUT=folder     where the demo writes"
	@echo "make test                ruff, mypy, then the default tier of tests and doctests"
	@echo "make check               the same, then all other tests"
	@echo "make test-compat         the tests with the oldest and newest torch, captum, pyhealth"
	@echo "make test-insights       the bridge to Captum Insights, with Captum 0.7.0"
	@echo "make mutants             the package made wrong in many ways, each caught by a test"
	@echo "make docs                the documentation, into build/docs"
	@echo "make tutorials           run the notebooks again, and keep what they show"
	@echo "make bench               the benchmarks; an interrupted run goes on"
	@echo "make bench MIMIC3=path   the same, with those on MIMIC-III"
	@echo "make dist                sdist and wheel, into dist"
	@echo "make dist-check          the wheel installed in an empty environment, and used"
	@echo "make clean               remove the environment and all caches"
	@echo "PYTHON=python3.13 names another Python (3.12 or 3.13); first make clean."
	@echo "UV_TORCH_BACKEND=cpu installs PyTorch without CUDA."

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 14))' || { \
		echo "captum_ehr needs Python 3.12 or 3.13, which '$(PYTHON)' is not;" \
			"name one with: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "'$(PYTHON)' could not make a virtual environment;" \
			"on Debian and Ubuntu install python3-venv." >&2; exit 1; }

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv

$(STAMP): setup.cfg pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -e '.[test]'
	@touch $@

demo: $(STAMP)
	$(BIN)/captum-ehr demo $(DEMO_OPTIONS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	@$(PYTEST) --tier default

check: test
	@$(PYTEST) --tier complete

$(COMPAT)/oldest/.installed: PINS := $(OLDEST)
$(COMPAT)/newest/.installed: PINS := $(NEWEST)
$(COMPAT)/insights/.installed: PINS := $(INSIGHTS)
$(COMPAT)/insights/.installed: EXTRAS := ,captum-insights
$(COMPAT)/%/.installed: setup.cfg pyproject.toml | $(BIN)/uv
	rm -rf $(@D) && $(BIN)/uv venv --quiet --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --upgrade --compile-bytecode --python $(@D)/bin/python -e '.[test$(EXTRAS)]' $(PINS)
	@touch $@

# The tests import the package from the working tree.
test-compat: $(COMPAT)/oldest/.installed $(COMPAT)/newest/.installed
	@for pair in oldest newest; do \
		$(COMPAT)/$$pair/bin/python -c 'from importlib.metadata import version as v; \
			print(*(f"{n} {v(n)}" for n in ("torch", "captum", "pyhealth")))' && \
		PYTHONPATH=$(CURDIR) $(COMPAT)/$$pair/bin/python -m pytest \
			-n $(WORKERS) --dist loadgroup --tier all $(PYTEST_OPTIONS) || exit 1; \
	done

test-insights: $(COMPAT)/insights/.installed
	PYTHONPATH=$(CURDIR) $(COMPAT)/insights/bin/python -m pytest \
		captum_ehr/insights/bridge.py tests/test_insights_bridge*.py $(PYTEST_OPTIONS)

# make mutants MUTANTS="-n 4 -k relu"
mutants: $(STAMP)
	@$(BIN)/python tests/mutants.py $(MUTANTS)

$(VENV)/.installed-docs: $(STAMP)
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -e '.[docs]'
	@touch $@

# All of it anew: what is not read again does not warn again.
docs: $(VENV)/.installed-docs
	@rm -rf build/docs
	@$(BIN)/sphinx-build -W --keep-going -q -E -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

tutorials: $(STAMP)
	$(BIN)/python tests/notebooks.py tutorials/*.ipynb

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(if $(MIMIC3),--mimic3 "$(MIMIC3)") $(BENCH_OPTIONS)

# The wheel is made from the sdist, so that each shows what the other lacks.
dist: | $(BIN)/uv
	rm -rf dist && $(BIN)/uv build --quiet --python $(BIN)/python --out-dir dist

# Away from the working tree, and -I keeps the rest of this machine out of it.
dist-check: dist
	$(BIN)/uv tool run twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(COMPAT)/dist
	$(BIN)/uv pip install --quiet --python $(COMPAT)/dist/bin/python dist/*.whl
	cd $(COMPAT)/dist && bin/python -I $(CURDIR)/tests/installed.py $(CURDIR)/README.md

clean:
	rm -rf $(VENV) $(COMPAT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
