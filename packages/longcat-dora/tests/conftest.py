"""What the suite leaves to `just long`: sweeps of which it runs a sample."""

import os

import pytest

# Ray would start every worker by `uv run` where the tests were: seconds each, for the same
# environment.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else they give way until a test times out


def pytest_configure(config):
    config.addinivalue_line("markers", "long: sweeps, run by `just long` (LONGCAT_LONG=1)")


def pytest_collection_modifyitems(config, items):
    if os.environ.get("LONGCAT_LONG") == "1" or "long" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="a long sweep: set LONGCAT_LONG=1")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def importable(request, monkeypatch):
    """Let other processes import a test file, whose name is relative to the root of the tests."""
    monkeypatch.syspath_prepend(str(request.config.rootpath))
