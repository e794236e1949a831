"""A world may fork, and the copy may do some work and end; it is never a second controller.

The copy holds the loop, the engine and the files of the controller. If it comes back to them, by a
return or by an await, it would answer for rollouts that are the controller's: it ends there.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Generator
from typing import Any


def end_copy(home: int) -> None:
    """End this process, without a word, if it is another one than `home`."""
    if os.getpid() != home:
        os._exit(1)


def keep_at_home(loop: asyncio.AbstractEventLoop) -> None:
    """Have no task of a loop take a step in a copy of this process."""
    home = os.getpid()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        if asyncio.iscoroutine(coroutine):
            coroutine = _AtHome(coroutine, home)
        return asyncio.Task(coroutine, loop=loop, **options)

    loop.set_task_factory(make)


class _AtHome(Coroutine[Any, Any, Any]):
    """A coroutine that is looked after at each step."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], home: int) -> None:
        self._coroutine, self._home = coroutine, home

    def send(self, value: Any) -> Any:
        end_copy(self._home)
        try:
            return self._coroutine.send(value)
        finally:  # it may have forked
            end_copy(self._home)

    def throw(self, *error: Any) -> Any:
        end_copy(self._home)
        try:
            return self._coroutine.throw(*error)
        finally:
            end_copy(self._home)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        # Who asks a task for its coroutine's state or name is told those.
        return getattr(self._coroutine, name)
