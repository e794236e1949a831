"""A plugin of pytest for `just both`: what shares a fixture stays in one process.

`pytest -n 2 --dist loadgroup` gives each test to whichever process is free. Files share what their
modules make, so a file is a group; tests of the app that look at the smoke run are one group, since
each process would train a run of its own.
"""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test with its group; begin with those that wait for the smoke run."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("smoke" if _waits(item) else str(item.path)))
    items.sort(key=lambda item: not _waits(item))


def _waits(item: pytest.Item) -> bool:
    return "trained" in getattr(item, "fixturenames", ())
