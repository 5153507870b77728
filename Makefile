# The two commands of the README, and what they are made of. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" --constraint requirements/pins.in pyproject.toml requirements/build.in

.PHONY: demo test fast check lock clean

demo: .venv/demo  ## the main job on made-up photos: search, train, test, export, predict
	$(BIN)/python scripts/launch.py experiment=quickstart
	$(BIN)/python scripts/predict.py runs/latest data/sample/test/*/0001.jpg --top 2

test: .venv/dev  ## all tests, whole journeys included
	$(BIN)/python -m pytest

fast: .venv/dev  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

check: .venv/dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: .venv/dev  ## pin the newest versions that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	$(LOCK) --extra pretrained --extra serve --extra engines --extra sagemaker --extra dev --upgrade -o requirements/dev.txt
	$(LOCK) --extra pretrained --constraint requirements/dev.txt -o requirements/demo.txt

clean:  ## everything that was made here, except data and runs
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache build dist

.venv/demo .venv/dev: .venv/%: requirements/%.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "breedlab needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements/$*.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
