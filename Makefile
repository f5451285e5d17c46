# The two commands. ARGS are overrides: make train ARGS="model=resnet conv=spatial"
PYTHON ?= python3
VENV := .venv
ARGS ?= model=effnet conv=separable act=swish
READY := $(VENV)/.ready

.PHONY: train test lint docs clean

train: $(READY)
	$(VENV)/bin/python train.py $(ARGS)

test: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal $(PYTEST)

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m mypy

# The site, in site/. Broken links and missing pages are errors; nothing is downloaded.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) dist build site
