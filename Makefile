# Each target makes the virtual environment it needs. PYTHON chooses the interpreter, VENV the folder.
PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
BUILD_INPUTS := $(shell find csrc build_backend -type f -not -name '*.pyc') setup.py pyproject.toml

.PHONY: help demo test test-long sanitize gpu-check gpu-rehearsal gpu-docs bench bench-quick bench-docs lint format clean

help:
	@echo "make demo       train on the embedded digits and show where the pictures are"
	@echo "make test       the test suite    (make test-long: the tests that take minutes)"
	@echo "make sanitize   the operators' tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make gpu-check  the CUDA kernels' tests and benchmarks on this machine's GPU, with the torch of PYTHON"
	@echo "make gpu-rehearsal  the GPU's tests on a simulated one, with the torch of PYTHON, which has to be built for CUDA"
	@echo "make gpu-docs RECORD=benchmarks/results/....json    the documentation's table and picture from its record"
	@echo "make bench      the benchmarks    (make bench-quick: the step's tables in about a minute)"
	@echo "make bench-docs RECORD=benchmarks/results/...-step.json    the documentation's tables and plot from a record"
	@echo "make lint       ruff's checks     (make format: apply its format)"
	@echo "make clean      remove what was built"

demo: $(VENV)/.demo
	$(BIN)/fastgan train

# In two processes, each file in one of them, since fixtures of whole files compile; in order, since those are early.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -q $(PARALLEL)
	FASTGAN_ENGINE=native $(BIN)/python -m pytest -q $(PARALLEL) tests/ops -k 'gradients or properties or float32 or float64'

test-long: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m long

sanitize: $(VENV)/.dev
	$(BIN)/python tools/sanitize.py

# With the interpreter as it is, and no environment of its own: a machine with a GPU may have no network.
gpu-check:
	$(PYTHON) tools/gpu_check.py

gpu-rehearsal:
	$(PYTHON) tools/rehearse_gpu.py

gpu-docs: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python benchmarks/gpu_report.py $(RECORD)

bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks
	PYTHONPATH=tests $(BIN)/python benchmarks/report.py

bench-quick: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python benchmarks/report.py --quick

bench-docs: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python benchmarks/report.py --from $(RECORD) --docs

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info fastgan/*.so .pytest_cache .ruff_cache .hypothesis $(VENV)/.demo $(VENV)/.dev $(VENV)/.lint

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch: that of the environment PYTHON stands in, where it is new enough, seen through a .pth file; otherwise the pinned one.
# It comes first, because a dependency on torch alone would be free to fetch a build of several gigabytes.
$(VENV)/.torch: | $(VENV)/.made
	@site="$$(PYTHONPATH=build_backend $(PYTHON) -m fastgan_build.find_torch site)"; \
	if [ -n "$$site" ]; then \
		echo "using the torch in $$site"; \
		echo "$$site" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared-torch.pth"; \
	else \
		$(BIN)/python -m pip install "$$(PYTHONPATH=build_backend $(PYTHON) -m fastgan_build.find_torch pin)"; \
	fi
	@touch $@

$(VENV)/.demo: $(VENV)/.torch $(BUILD_INPUTS)
	$(BIN)/python -m pip install -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(BUILD_INPUTS)
	$(BIN)/python -m pip install -e '.[test,bench]'
	@touch $@

# Into this environment even where another's packages are seen, because the program of that one is not in $(BIN).
$(VENV)/.lint: | $(VENV)/.made
	$(BIN)/python -m pip install --ignore-installed 'ruff>=0.12'
	@touch $@
