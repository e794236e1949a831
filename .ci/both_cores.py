"""A plugin of pytest for `just both`: which tests stay in one process.

`pytest -n 2` gives each unit of work to whichever process is free. A file is a unit, for its tests
share what the module makes; so are all tests of the app, which share a run that takes minutes. That
one is begun first, then what stands in `tests/`, where single tests take long.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

APP = "apps/"


class ByFile(LoadScopeScheduling):
    """Units of work of xdist, in the order of the collection."""

    def _split_scope(self, nodeid: str) -> str:
        return APP if nodeid.startswith(APP) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Take the place of `--dist loadgroup`: xdist 3.8 renames tests, which pytest 9.2 ignores."""
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest; the order is the same in every process."""
    items.sort(key=_place)


def _place(item: pytest.Item) -> int:
    return 0 if item.nodeid.startswith(APP) else 1 if item.nodeid.startswith("tests/") else 2
