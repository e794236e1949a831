"""`long`: sweeps that take minutes; LONGCAT_LONG=1 switches them on."""

import os

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes; runs with LONGCAT_LONG=1")


def pytest_collection_modifyitems(items):
    if os.environ.get("LONGCAT_LONG") == "1":
        return
    skip = pytest.mark.skip(reason="long: set LONGCAT_LONG=1")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)
