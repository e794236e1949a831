"""For pytest: `pytest_plugins = ["longcat_heavythink.testing.fixtures"]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ._server import FaultServer


@pytest.fixture
def fault_server() -> Iterator[Callable[..., FaultServer]]:
    """Give a function that starts a `FaultServer`; all of them stop with the test."""
    with ExitStack() as stack:

        def start(*args: Any, **options: Any) -> FaultServer:
            return stack.enter_context(FaultServer(*args, **options))

        yield start
