# `make demo` and `make serve` install what inference needs, without PyTorch; `make test` installs everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --require-hashes --disable-pip-version-check
# The console script `facemask`, in the environment; built by the pinned hatchling, without the network.
SCRIPT := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
PHOTO ?=
PORT ?= 8000
KILLS ?= 20
MINUTES ?= 10
JS := onnxruntime-node@1.30.0 onnxruntime-web@1.30.0

.DELETE_ON_ERROR:
.PHONY: help demo serve install-serve install test slow js kills fuzz check format lock clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: $(VENV)/light ## Find the faces in a photo: make demo PHOTO=me.jpg
	@$(BIN)/python -m pipeline.detect.demo $(if $(PHOTO),"$(PHOTO)")

serve: $(VENV)/serve ## Web page and HTTP API on this machine; installs video, too: make serve PORT=8080
	@$(BIN)/python -m pipeline.serve --port $(PORT)

install-serve: $(VENV)/serve ## Install what the web page, the API and videos need, without PyTorch

install: $(VENV)/full ## Install everything, PyTorch too (some 8 GB)

test: $(VENV)/full ## Run the tests, without the slow ones
	$(BIN)/python -m pytest -n auto -m "not slow"

slow: $(VENV)/full ## Run the slow tests: a real browser (Debian: chromium), real photos, kills, trainings, short fuzzing
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

js: $(VENV)/js ## Install ONNX Runtime for Node and browsers with npm, which some of the slow tests use

kills: $(VENV)/full ## Kill every command at KILLS random moments, and resume it
	KILLS=$(KILLS) $(BIN)/python -m pytest tests/pipeline/test_kills.py

fuzz: $(VENV)/full ## Fuzz every reader for MINUTES each
	for name in $$($(BIN)/python -c "from tests.fuzz.targets import TARGETS; print(*TARGETS)"); do \
		$(BIN)/python tests/fuzz/run.py $$name --seconds $$(($(MINUTES) * 60)) || exit 1; done

check: $(VENV)/full ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/full ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Pin the newest versions that pyproject.toml admits (needs uv)
	.ci/lock

clean: ## Remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(VENV)/light: requirements.lock pyproject.toml | $(BIN)/python
	sed '/^# --- serving and video/,$$d' requirements.lock > $(VENV)/light.lock
	$(PIP) -r $(VENV)/light.lock
	$(SCRIPT)
	touch $@

$(VENV)/serve: requirements.lock pyproject.toml | $(BIN)/python
	sed '/^# --- everything else/,$$d' requirements.lock > $(VENV)/serve.lock
	$(PIP) -r $(VENV)/serve.lock
	$(SCRIPT)
	touch $@ $(VENV)/light

$(VENV)/full: requirements.lock .ci/no-deps.lock pyproject.toml | $(BIN)/python
	$(PIP) -r requirements.lock
	$(PIP) --no-deps -r .ci/no-deps.lock
	$(SCRIPT)
	touch $@ $(VENV)/serve $(VENV)/light

$(VENV)/js: pipeline/export/runtime.py | $(BIN)/python
	npm install --prefix $@ --no-save --ignore-scripts --no-audit --no-fund --loglevel error $(JS)
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
