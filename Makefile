# make demo   trains I-JEPA on real images and shows what it learned (about seven minutes on two cores)
# make test   runs the tests, on as many cores as there are
# make test-all  also those that kill, fuzz or measure for most of a minute each, as CI does
# make check  lint, types and the fast tests, while you work
# make lint   ruff and mypy
# make docs   writes the pages that are made from the code (docs/hooks.md)
# make soak   kills 50 runs at random moments; each must go on bit for bit (about ten minutes)
# make fuzz   damages files of every format the program reads, for an hour (JEPA_FUZZ_SECONDS)
# make bench-peers  times a training step beside lightly's and stable-pretraining's (ten minutes; 9 GB the first time)
# All set up .venv first; the second time nothing is fetched.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.PHONY: demo test test-all check lint docs soak fuzz bench bench-peers clean help

help:
	@sed -n 's/^# //p' Makefile

$(READY): pyproject.toml
	@echo "Setting up $(VENV): torch and friends, about 5.5 GB; one to three minutes on a fast line."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "jepa-core needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Set PYTHON=python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(READY)

demo: $(READY)
	@echo "Training I-JEPA on 45,000 real images (CIFAR-10): about four minutes on two cores, after fetching them once (139 MB)."
	@$(BIN)/jepa train ijepa/demo --run runs/demo --overwrite $(DEMO)
	@echo "Evaluating on the test split, beside a random-initialised twin and raw pixels: about a minute."
	@$(BIN)/jepa eval runs/demo
	@echo "The run, with its masks.png and curves.png, is in runs/demo. Next: $(BIN)/jepa train ijepa/demo masker.name=random"

test: $(READY)
	@$(PYTEST) -m 'not long'

test-all: $(READY)
	@$(PYTEST)

check: lint
	@$(PYTEST) -m 'not slow and not install'

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(READY)
	@$(BIN)/python docs/write_hooks.py

soak: $(READY)
	@$(BIN)/python -m tests.soak --kills 50

fuzz: $(READY)
	@JEPA_FUZZ_SECONDS=$${JEPA_FUZZ_SECONDS:-3600} $(BIN)/python -m pytest tests/fuzz

bench: $(READY)
	@$(BIN)/python -m pytest tests/bench --benchmark-enable --benchmark-only

bench-peers: $(READY)
	@$(BIN)/python -m tests.bench.peers.run $(PEERS)

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
