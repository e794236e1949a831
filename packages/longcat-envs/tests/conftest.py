"""Sweeps marked `long` run when LONGCAT_LONG is set."""

import os

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "long: a sweep; set LONGCAT_LONG=1 to run it")


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
