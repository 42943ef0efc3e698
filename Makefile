# Everything runs in .venv, which is made on the first call; nothing but python3 and make has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := nnunet_hypersegnas trainers architectures tests tools benchmarks setup.py

# Many spawned workers and busy-waiting OpenMP threads slow small CPU runs manyfold.
export nnUNet_def_n_proc ?= 2
export nnUNet_n_proc_DA ?= 0
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-latest lint types wheel-check clean

demo: $(VENV)/installed
	$(BIN)/hsnas_demo $(DEMO_ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# With the newest versions that setup.py allows, in an environment of its own, made anew.
test-latest:
	rm -rf .venv-latest
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install --quiet --upgrade pip
	.venv-latest/bin/python -m pip install --quiet --upgrade --editable ".[test]" $(PIP_ARGS)
	.venv-latest/bin/python tools/repair_torchvision.py
	.venv-latest/bin/python -m pip list --format=freeze | grep -iE '^(nnunetv2|torch|optuna|numpy|batchgenerators)'
	.venv-latest/bin/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/installed-dev
	$(BIN)/mypy
	$(BIN)/mypy architectures trainers

wheel-check: $(VENV)/installed-dev
	rm -rf build dist
	$(BIN)/python -m build --wheel --no-isolation
	$(BIN)/python -m pytest tests/test_packaging.py

$(VENV)/installed: setup.py constraints.txt tools/repair_torchvision.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python tools/repair_torchvision.py
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test,dev]"
	touch $@

clean:
	rm -rf $(VENV) .venv-latest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
