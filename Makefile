# Needs Python 3.10 or newer and make. `make install` sets up $(VENV); the others set it up first where needed.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
SHAPES := datasets/shapes
QUICK_START := output/quick_start

.PHONY: install quickstart test lint docs matrix format audit clean

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml hiera_det/cli/install_detectron2.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'error: $(PYTHON) is older than Python 3.10; name a newer one: make install PYTHON=python3.12' >&2; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install 'torch>=2.5' torchvision
	$(RUN) -m pip install -e '.[test,peers]'
	$(RUN) -m hiera_det install-detectron2
	touch $@

quickstart: install
	$(RUN) tools/make_shapes_dataset.py $(SHAPES)
	$(RUN) tools/train_net.py --config-file configs/quick_start.yaml --auto-resume \
		--train-json $(SHAPES)/annotations/train.json --train-images $(SHAPES)/images/train \
		--val-json $(SHAPES)/annotations/val.json --val-images $(SHAPES)/images/val \
		OUTPUT_DIR $(QUICK_START)

# Two test files at a time; threads that wait for each other would otherwise keep the processors busy.
test: install lint docs
	OMP_WAIT_POLICY=PASSIVE $(RUN) -m pytest -n $(WORKERS) --dist loadfile

lint: install
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

# The site, in build/site; a link or a name that leads nowhere is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

# The light tests on the oldest and the newest of what is declared; a table at the end. CELLS="3.10-oldest-0.6" for one.
matrix: install
	$(RUN) tests/matrix.py $(CELLS)

format: install
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

# Known vulnerabilities of the installed packages: a report, whatever it finds. pip-audit stays out of what it looks at.
audit: install
	test -x $(VENV)/audit/bin/pip-audit || { $(RUN) -m venv $(VENV)/audit && $(VENV)/audit/bin/pip install -q pip-audit; }
	-$(VENV)/audit/bin/pip-audit --progress-spinner off \
		--path "$$($(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
