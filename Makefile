# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test quick lint docs release-check clean

demo: .venv/installed
	$(BIN)/harness run --all --suite pocket --jobs auto
	$(BIN)/harness leaderboard --suite pocket

# Everything, the slow end-to-end tests included: three processes, for tests of clusters mostly wait, each file in one of
# them, with one thread each.
test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile

# The unit tests alone, for the time between two edits.
quick: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32
	$(BIN)/lint-imports
	$(BIN)/python .ci/structure.py

# The documentation site, in build/docs. A warning is an error; nothing is fetched.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/site/mkdocs.yml

# What a release needs, in dist/: source distribution and wheel, checked as PyPI checks them and against each other.
release-check: .venv/installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/python -m pytest -q tests/whole/test_release.py

.venv/installed: pyproject.toml .ci/constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt --editable ".[dev]"
	touch .venv/installed

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
