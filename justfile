# Once after cloning: install everything, the commit hooks, and the filter that keeps uv.lock free of hosts.
setup:
    git config filter.uvlock.clean "python3 .ci/lock.py"
    git config filter.uvlock.smudge cat
    uv sync --all-packages
    uv run prek install

# What the hooks and CI check: format, lint, types.
check:
    uv run ruff format --check .
    uv run ruff check .
    uv run pyright

# Everything that needs no GPU and no network.
test:
    uv run pytest

# The same on two cores: half the time. What it is told goes to pytest: `just both packages/longcat-dora`.
both *ARGS:
    PYTHONPATH=.ci uv run --with pytest-xdist pytest -p both_cores -n 2 --no-loadscope-reorder {{ARGS}}

# The sweeps that the suite samples: an hour and more. Their outcomes are committed as results.
long:
    LONGCAT_LONG=1 uv run pytest -m long

# Everything that needs a GPU, in at most 8 minutes: one table, one JSON line, the tests marked gpu.
gpu *ARGS:
    uv run python apps/longcat-cli/benchmarks/gpu.py {{ARGS}}

# The twenty slowest tests, and how long each package takes.
slowest:
    uv run pytest --durations=20 --durations-min=0.5

# Each benchmarks/RESULTS.md from what was recorded, and whether every figure stands.
results:
    python3 .ci/results.py render
    python3 .ci/results.py check

# One package from its own wheel, outside the workspace, with only what it declares.
alone PKG:
    python3 .ci/alone.py {{PKG}}

# Build one wheel.
wheel PKG:
    python3 .ci/package.py {{PKG}} dist

# Run every example.
examples:
    uv run pytest tests/test_documents.py -k example

# Lock again, without hosts and without local folders.
lock:
    env -u UV_FIND_LINKS uv lock
    python3 .ci/lock.py < uv.lock > .uv.lock.part && mv .uv.lock.part uv.lock

# Bump a version, date its changelog heading, commit and tag PKG@VERSION.
release PKG BUMP:
    uv version --package {{PKG}} --bump {{BUMP}} --frozen
    python3 .ci/release.py {{PKG}}
