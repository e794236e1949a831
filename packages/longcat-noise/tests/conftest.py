"""Sweeps marked `long` run with LONGCAT_LONG=1."""

import os

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "long: a sweep; LONGCAT_LONG=1 switches it on")


def pytest_collection_modifyitems(items):
    if os.environ.get("LONGCAT_LONG") == "1":
        return
    skip = pytest.mark.skip(reason="a sweep: set LONGCAT_LONG=1")
    for item in items:
        if "long" in item.keywords:
            item.add_marker(skip)
