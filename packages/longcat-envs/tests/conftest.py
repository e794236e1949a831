"""Sweeps marked `long` run when LONGCAT_LONG is set."""

import os
import sys

import pytest
from longcat_envs import figures
from longcat_envs.tasks import _make

NUM_PASTS = 2
"""Pasts of a domain that tasks begin in, of 16: each is lived through once, for a second or two."""


def pytest_configure(config):
    config.addinivalue_line("markers", "long: a sweep; set LONGCAT_LONG=1 to run it")
    _keep_bytecode(config)


def _keep_bytecode(config):
    """Where Python is told to keep none, every process of a test would compile all it imports."""
    if sys.dont_write_bytecode and hasattr(config, "cache"):
        folder = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode, sys.pycache_prefix = False, folder
        os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=folder)


def pytest_collection_modifyitems(items):
    if os.environ.get("LONGCAT_LONG"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="set LONGCAT_LONG=1 to run sweeps"))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    """Servers of tests are on this machine; a proxy of the environment must not come between."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(autouse=True, scope="module")
def _few_pasts():
    """Tasks of the suite share pasts; in the sweeps they begin in as many as there are."""
    with pytest.MonkeyPatch.context() as patch:
        if not os.environ.get("LONGCAT_LONG"):
            patch.setattr(_make, "NUM_PASTS", NUM_PASTS)
            patch.setattr(figures, "NUM_GOAL_PASTS", NUM_PASTS)
        yield
