# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= python3
# The consumer's lock file allows Python 3.10 and 3.11.
CONSUMER_PYTHON = $(shell for p in $(PYTHON) python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))' 2>/dev/null && echo $$p && exit; done; echo $(PYTHON))
BIN := .venv/bin
RUN := outputs/demo/latest
MODEL := outputs/demo/model
ELSEWHERE := data/demo-elsewhere
MARKDOWN := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs .github

.PHONY: demo test test-all coverage lint docs setup consumer clean

demo: setup  ## The main job on synthetic street scenes: from photos to a detector that is judged, packed and used
	$(BIN)/roadwork train --config configs/experiment/demo.yaml
	$(BIN)/roadwork evaluate $(RUN)
	$(BIN)/roadwork calibrate $(RUN)
	test -d $(ELSEWHERE) || $(BIN)/roadwork demo-data $(ELSEWHERE) --images 160 --size 640x360 --seed 1 --elsewhere
	$(BIN)/roadwork evaluate $(RUN) --on $(ELSEWHERE)
	$(BIN)/roadwork report $(RUN)
	$(BIN)/roadwork export $(RUN) --format hf --out $(MODEL) --training-places
	$(BIN)/roadwork verify-export $(MODEL) --run $(RUN) --consumer streetvision
	$(BIN)/roadwork predict $(MODEL) data/demo/images --out outputs/demo/predictions.geojson --sites outputs/demo/sites.geojson --overwrite
	$(BIN)/roadwork predict $(MODEL) $(ELSEWHERE)/images --out outputs/demo/elsewhere.geojson --overwrite

test: setup  ## The tests, in under 8 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: setup  ## The long tests too
	$(BIN)/python -m pytest -n 2 --dist worksteal

coverage: setup  ## The tests, with the lines and branches they miss; htmlcov/index.html shows them in the code
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --cov --cov-report=term --cov-report=html

lint: setup  ## Style, types, spelling and Markdown
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/mdformat --check $(MARKDOWN)

docs: .venv/.docs-complete  ## The documentation site in site/; fails on a broken link and on a page that the navigation lacks
	PYTHONPATH=. NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/.docs-complete: .venv/.complete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

consumer: .venv-consumer/.complete .venv-torchvision/.complete  ## What users of exported detectors have, for the tests: a StreetVision miner's environment, and torchvision

.venv-consumer/.complete: constraints-consumer.txt
	$(CONSUMER_PYTHON) -m venv --clear .venv-consumer
	.venv-consumer/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-consumer.txt transformers torch torchvision pillow
	touch $@

# A folder beside .venv and not in it: a torchvision that does not fit torch breaks lightning, peft and transformers.
.venv-torchvision/.complete: .venv/.complete
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps --upgrade --target .venv-torchvision torchvision
	touch $@

setup: .venv/.complete

.venv/.complete: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("roadwork needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:  ## Removes the environments and the caches; data and outputs stay
	rm -rf .venv .venv-consumer .venv-torchvision .*_cache .hypothesis .coverage .coverage.* htmlcov dist build
