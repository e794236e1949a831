"""What the suite leaves to `just long`: sweeps of which it runs a sample."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
from longcat_dora import LongcatDoraError, check

# Ray would start every worker by `uv run` where the tests were: seconds each, for the same
# environment.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else they give way until a test times out
# Matrices of tests are small: threads would wait for each other more than they compute, above all on
# a busy machine. Set before torch is loaded, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: sweeps, run by `just long` (LONGCAT_LONG=1)")
    _keep_bytecode(config)


def _keep_bytecode(config):
    """Where Python is told to keep none, every process of a test would compile all it imports."""
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        folder = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, folder
        os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=folder)


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


def _recount():
    spec = importlib.util.spec_from_file_location("recount", Path(__file__).with_name("recount.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MOST_BYTES = 4 * 2**20
"""Of a log that is counted again."""


@pytest.fixture(autouse=True)
def _two_readers_agree(request):
    """Every log that a test leaves and the checker calls clean is counted by the second reader."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    for file in () if folder is None else folder.rglob("events.jsonl"):
        log = file.parent
        if sum(path.stat().st_size for path in log.glob("events*.jsonl")) > _MOST_BYTES:
            continue
        try:
            report = check(log)
        except LongcatDoraError:
            continue
        if report.is_clean:
            _recount().agree(log, report)
