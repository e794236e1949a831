"""Long tests run with LONGCAT_LONG=1; the server of faults is a fixture."""

import os

import pytest
from hypothesis import settings
from longcat_heavythink.testing.fixtures import fault_server

__all__ = ["fault_server"]
settings.register_profile("patient", deadline=None)  # on a busy machine any example may be slow
settings.load_profile("patient")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: a sweep, run with LONGCAT_LONG=1")


def pytest_collection_modifyitems(items):
    if os.environ.get("LONGCAT_LONG") == "1":
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="a sweep: set LONGCAT_LONG=1"))
