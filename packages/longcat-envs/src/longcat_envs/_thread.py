"""Blocking calls beside an event loop, in threads that never keep the process alive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


async def in_thread(act: Callable[[], T]) -> T:
    """Return what a blocking call returns, or raise what it raises; cancelled, it is left alone.

    Unlike `asyncio.to_thread` the end of the loop does not wait for it: Ctrl-C is not held up by a
    server that does not answer.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # pyright: ignore[reportArgumentType]

    def run() -> None:
        result, error = None, None
        try:
            result = act()
        except Exception as raised:
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, result, error)

    Thread(target=run, daemon=True).start()
    return await future
