# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv first; PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
# add camera where Aravis and the headers of girepository-1.0 and cairo are installed: its tests are skipped otherwise
EXTRAS ?= test,lint
# without a GPU driver the CUDA libraries in PyTorch's wheel are dead weight, but PyPI has no smaller wheel
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow lint clean

demo: .venv/demo
	$(BIN)/python benchmarks/demo.py

test: .venv/test
	$(BIN)/python -m pytest -m 'not slow' --numprocesses 2 --dist loadfile

test-slow: .venv/test
	$(BIN)/python -m pytest -m slow

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/demo: pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	@echo "installing into .venv, PyTorch among it: this takes minutes"
	$(INSTALL) --editable '.[train,export,cpu,openvino,demo]'
	touch $@

.venv/test: .venv/demo
	$(INSTALL) --editable '.[$(EXTRAS)]'
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
