"""`long`: sweeps that take minutes; LONGCAT_LONG=1 switches them on."""

import os

# Matrices of tests are small: threads would wait for each other more than they compute, above all on
# a busy machine. Set before torch is loaded, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # where another test has loaded torch already
settings.register_profile("patient", deadline=None)  # on a busy machine any example may be slow
settings.load_profile("patient")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes; runs with LONGCAT_LONG=1")


def pytest_collection_modifyitems(items):
    if os.environ.get("LONGCAT_LONG") == "1":
        return
    skip = pytest.mark.skip(reason="long: set LONGCAT_LONG=1")
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(skip)
