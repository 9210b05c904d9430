# Everything a new machine with Python 3.11 or newer needs is set up by the targets themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Tests start hundreds of processes: what Python has compiled once is kept for the next.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-all tools lint format models bench clean

demo: $(READY) ## make a small set of videos, train, evaluate, and print where the report is
	$(BIN)/kinema demo

test: lint tools ## the test suite
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

test-all: lint tools ## the test suite with its exhaustive parts
	$(BIN)/pytest -n auto --dist worksteal

# What tests need from outside Python: a program that reads RAR, FFmpeg's libraries for torchcodec, a browser with its
# driver, and a screen that nobody sees with hands for its keyboard. On Debian they are installed, elsewhere it is said.
tools: $(READY)
	@command -v bsdtar >/dev/null || { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && \
		(apt-get install -y -q libarchive-tools || (apt-get update -q && apt-get install -y -q libarchive-tools)) \
		>/dev/null 2>&1; } || echo "tests of RAR archives are left out: they need bsdtar (libarchive)"
	@ldconfig -p 2>/dev/null | grep -q 'libavdevice\.so' || { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && \
		(apt-get install -y -q --no-install-recommends ffmpeg || (apt-get update -q && \
		apt-get install -y -q --no-install-recommends ffmpeg)) >/dev/null 2>&1; } || \
		echo "tests of the torchcodec decoder are left out where it does not load: it needs FFmpeg's shared libraries"
	@{ command -v chromium && command -v chromedriver; } >/dev/null || { command -v apt-get >/dev/null && \
		[ "$$(id -u)" = 0 ] && (apt-get install -y -q --no-install-recommends chromium chromium-driver || \
		(apt-get update -q && apt-get install -y -q --no-install-recommends chromium chromium-driver)) \
		>/dev/null 2>&1; } || echo "tests of pages in a browser are left out: they need chromium and chromedriver"
	@{ command -v Xvfb && command -v xdotool && command -v import; } >/dev/null || { command -v apt-get >/dev/null && \
		[ "$$(id -u)" = 0 ] && (apt-get install -y -q --no-install-recommends xvfb xdotool imagemagick || \
		(apt-get update -q && apt-get install -y -q --no-install-recommends xvfb xdotool imagemagick)) \
		>/dev/null 2>&1; } || echo "tests of windows are left out: they need xvfb, xdotool and imagemagick"
	@$(BIN)/python -c "import tkinter" 2>/dev/null || { command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] && \
		(apt-get install -y -q --no-install-recommends python3-tk || (apt-get update -q && \
		apt-get install -y -q --no-install-recommends python3-tk)) >/dev/null 2>&1 && \
		$(BIN)/python -c "import tkinter" 2>/dev/null; } || \
		echo "tests of windows are left out: this Python has no Tk (python3-tk)"

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix src tests benchmarks
	$(BIN)/ruff format src tests benchmarks

# After every change of a configuration that is shipped, or of what it comes to: a test asks for it. Takes about two minutes.
models: $(READY) ## measure all shipped configurations: what `kinema models` shows, and docs/models.md
	$(BIN)/python -m kinema.models.shipped

BENCHMARKS := limits decoding loading stores store_study features training_step sequence_length optical_flow memory

# On a machine that does nothing else. Peers that cannot be installed are left out and named.
bench: $(READY) ## all benchmarks, into build/bench/*.json and docs/performance.md; takes about half an hour
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]' || \
		echo "some of the peers cannot be installed here; they are left out"
	mkdir -p build/bench
	for name in $(BENCHMARKS); do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py --json build/bench/$$name.json || exit 1; \
	done
	$(BIN)/python benchmarks/write_performance.py build/bench

# uv installs the same packages as pip in a third of the time; pip is there where uv is not to be had.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	if $(BIN)/pip install --quiet uv; then \
		$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'; \
	else \
		$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'; \
	fi
	touch $(READY)

clean:
	rm -rf $(VENV) build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
