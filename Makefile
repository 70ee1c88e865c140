# make help says what each target does. VENV=path lets several clones share one environment.
VENV ?= .venv
PYTHON ?= python3
JOBS ?=

BIN := $(VENV)/bin
# The environment is as new as these two files say: a change in either makes a new stamp, and only then pip runs.
STAMP := $(VENV)/.adlib-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
# A clone always runs its own code, also in an environment that another clone has made.
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
export JUPYTER_PREFER_ENV_PATH := 1
ADLIB := $(BIN)/python -m adlib

.DEFAULT_GOAL := help
.PHONY: help setup reproduce test test-all test-browser lab report bench drill lint format clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# In a git checkout the filter "nbstripout" (.gitattributes) drops notebooks' outputs from what is committed; the files
# keep them. What JupyterLab adds on saving is dropped too, so that a notebook which was only run shows no change.
STRIPPED := $(addprefix metadata.language_info.,codemirror_mode file_extension mimetype nbconvert_exporter \
	pygments_lexer version) metadata.widgets
STRIP := "$(abspath $(BIN))/python" -m nbstripout --keep-id --extra-keys "$(strip $(STRIPPED))"

setup: $(STAMP)  ## make the environment in $(VENV): all packages, adlib itself, editable; strip notebooks on commit
	@if [ -e .git ] && command -v git >/dev/null; then \
		git config filter.nbstripout.clean '$(STRIP)'; \
		git config filter.nbstripout.smudge cat; \
		git config diff.ipynb.textconv '$(STRIP) --textconv'; \
	fi

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@rm -f $(VENV)/.adlib-*
	@touch $@

# STRICT=1 fails where a run does not find what was drawn, as CI wants it.
reproduce: $(STAMP)  ## all papers on phantom data; then open reports/index.html
	$(ADLIB) reproduce --profile smoke $(if $(JOBS),--jobs $(JOBS)) $(if $(STRICT),--strict)

# Tests start many processes, which share what one of them has compiled, also where Python was told to keep none of it.
test test-all test-browser: export PYTHONDONTWRITEBYTECODE :=
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadgroup

test: $(STAMP)  ## what guards behaviour, in minutes: all tests but the slow ones and those in a browser
	$(PYTEST) -m "not slow"

test-all: $(STAMP)  ## all tests but those in a browser
	$(PYTEST)

test-browser: $(STAMP)  ## JupyterLab, the app and a report in Chromium, where it is installed
	$(BIN)/python -m pytest tests/browser

# Trusted are the notebooks in git, or without git those that lie there; any other asks you first.
lab: setup  ## JupyterLab on this machine alone, at the first notebook
	-@$(BIN)/python -m jupyter trust $$(git ls-files 'notebooks/*.ipynb' 2>/dev/null | grep . || ls notebooks/*.ipynb) >/dev/null
	$(BIN)/python -m jupyter lab --config nbconfig/jupyter_lab_config.py

report: $(STAMP)  ## render reports/ anew from what has been run
	$(ADLIB) report

bench: $(STAMP)  ## speed and memory, about an hour; see benchmarks/README.md
	$(BIN)/python benchmarks/patchcore.py
	$(BIN)/python benchmarks/coreset.py
	$(BIN)/python benchmarks/predict.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/sharing.py
	$(BIN)/python benchmarks/synthesis.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/peers.py

drill: $(STAMP)  ## faults at random during batches, and 2,000 runs that do nothing; about 15 minutes
	$(BIN)/python benchmarks/drill.py

lint: $(STAMP)  ## style of code and notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)  ## bring code and notebooks into that style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove reports, phantoms and caches (the environment and your data stay)
	rm -rf reports/runs reports/html reports/notebooks reports/plans reports/cache reports/index.html data/phantoms
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache .hypothesis build *.egg-info
