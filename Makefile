# The two commands of the README, and what they are made of. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# Several times as fast; it does not know the way where only pip's configuration says it.
UV := $(BIN)/uv pip install --python $(BIN)/python
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock"
LOCK := $(COMPILE) --constraint requirements/pins.in pyproject.toml requirements/build.in
SIDE_BY_SIDE := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Where tests are marked `aws_stack`: importing all other tests takes half a minute.
AWS_STACK := $(addprefix tests/backends/,test_jobs.py test_notebook_in_account.py test_pipeline_jobs.py test_newer_containers.py) \
	tests/serving/test_stack.py $(addprefix tests/backends/,test_deploy.py test_code_artifact.py)
UNDER_AWS := -m aws_stack -o cache_dir=.pytest_cache/aws $(AWS_STACK)

.PHONY: demo test test-aws again again-aws fast check lint types coverage docs build lock notices inference clean help

demo: .venv/demo  ## the main job on made-up images: search, train, test, export, predict
	$(BIN)/python scripts/launch.py experiment=quickstart
	$(BIN)/python scripts/predict.py runs/latest data/sample/test/*/0001.jpg --top 2

test: .venv/dev  ## all tests but those under AWS's own inference stack
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not aws_stack"

test-aws: .venv/dev inference  ## the tests in AWS's containers: training toolkit, inference stack; needs 5 GB, Java
	$(BIN)/python -m pytest $(UNDER_AWS)

again: .venv/dev  ## the tests that failed last time, one after another
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

again-aws: .venv/dev inference  ## those of test-aws that failed last time; all where it ended before it could say
	$(BIN)/python -m pytest --last-failed $(UNDER_AWS)

fast: .venv/dev  ## the tests that take seconds
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow"

check: lint types docs  ## lint, format, types, spelling, workflows, the docs, the floors that imports keep to

lint: .venv/dev  ## what of `check` takes seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	git ls-files -z ':!requirements/*.txt' | xargs -0 $(BIN)/codespell
	git ls-files -z '*.md' ':!THIRD_PARTY_NOTICES.md' | xargs -0 $(BIN)/proselint check --output-format compact
	$(BIN)/zizmor --offline --no-progress --quiet .github
	$(BIN)/pre-commit validate-config

types: .venv/dev  ## mypy
	$(BIN)/mypy

docs: .venv/dev  ## the documentation, as a site in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@! grep -rnE '(<script[^>]*src|<link[^>]*(stylesheet|preload)[^>]*href|<img[^>]*src)="?https?://|url\(["'"'"']?https?://' build/docs --include='*.html' --include='*.css' \
		|| { echo "the docs ask another host for a script, style, font, or picture" >&2; exit 1; }

coverage: .venv/dev  ## how much of the code the fast tests run, against the floor in pyproject.toml
	mkdir -p build/coverage && rm -f build/coverage/data*
	$(BIN)/python -m coverage run -m pytest $(SIDE_BY_SIDE) -m "not slow and not aws_stack"
	$(BIN)/coverage combine --quiet
	rm -f build/coverage/data.*  # which tests killed as they wrote it
	$(BIN)/coverage report

build: .venv/dev  ## wheel and sdist, in dist/
	rm -rf dist && $(BIN)/uv build --quiet --out-dir dist
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz

lock: .venv/dev  ## pin the newest versions that pyproject.toml allows
	$(LOCK) --extra all --extra dev --upgrade -o requirements/dev.txt
	$(LOCK) --extra debugger --extra pretrained --extra report --extra tensorboard --constraint requirements/dev.txt -o requirements/demo.txt
	$(COMPILE) docker/requirements.in --constraint requirements/dev.txt -o docker/requirements.txt
	grep -oE '^(openvino|safetensors|simplejpeg|timm)==[^ ;]+' requirements/dev.txt > .venv/archive.in
	$(COMPILE) requirements/inference.in .venv/archive.in --upgrade -o requirements/inference.txt
	$(COMPILE) requirements/uv.in --constraint requirements/dev.txt -o requirements/uv.txt
	$(COMPILE) requirements/training-toolkit.in --upgrade -o requirements/training-toolkit.txt

notices: .venv/dev  ## THIRD_PARTY_NOTICES.md, from the lock
	$(BIN)/python docs/make/notices.py

inference: .venv-inference/ready  ## AWS's inference stack, which deploy.py tries an archive in; needs Java to run

clean:  ## everything that was made here, except data and runs
	rm -rf .venv .venv-inference .cache .mypy_cache .ruff_cache .pytest_cache build dist

help:  ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

.DEFAULT:
	@echo "make: there is no target '$@'; 'make help' lists those there are" >&2; exit 2

.venv/demo .venv/dev: .venv/%: requirements/%.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "breedlab needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(PIP) --quiet --require-hashes -r requirements/uv.txt
	$(UV) --compile-bytecode --require-hashes -r requirements/$*.txt || $(PIP) --require-hashes -r requirements/$*.txt
	$(PIP) --quiet --no-deps --no-build-isolation -e .
	touch $@

# Of some 5 GB, most of it CUDA; uv links what it has downloaded once instead of copying it.
.venv-inference/ready: requirements/inference.txt | .venv/dev
	$(BIN)/uv venv --quiet --clear --seed --no-python-downloads --python $(BIN)/python .venv-inference
	$(BIN)/uv pip install --quiet --require-hashes --python .venv-inference/bin/python -r requirements/inference.txt
	touch $@
