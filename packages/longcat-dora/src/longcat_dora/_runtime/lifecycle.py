"""How a run's coroutine is run.

Alone, inside a running loop (a notebook), and until a signal says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from longcat_dora._types import LongcatDoraError

from .config import RunConfig

T = TypeVar("T")
_SIGNALS = ("SIGTERM", "SIGHUP")


def run_coroutine(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end; where a loop runs already, in a thread of its own.

    Ctrl-C cancels it, and is raised when it has ended.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    return _run_in_thread(make)


def _run_in_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    done: list[T] = []
    failed: list[BaseException] = []
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None
        started.append((asyncio.get_running_loop(), task))
        return await make()

    def run() -> None:
        try:
            done.append(asyncio.run(main()))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="longcat-dora")
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        if started:
            loop, task = started[0]
            loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if failed:
        raise failed[0]
    return done[0]


@contextlib.contextmanager
def signals_cancel(on_signal: Callable[[str], None]) -> Generator[None]:
    """Have SIGTERM and SIGHUP cancel the current task, as Ctrl-C does.

    Each once, and not where they are ignored.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    installed: list[int] = []

    def stop(name: str) -> None:
        on_signal(name)
        task.cancel()

    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                loop.add_signal_handler(number, stop, name)
                installed.append(number)
    try:
        yield
    finally:
        for number in installed:
            loop.remove_signal_handler(number)


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NOT_OURS = (
    errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.ELOOP,
)  # fmt: skip
_NO_FILES = (errno.EMFILE, errno.ENFILE)


def explained(error: OSError, config: RunConfig) -> Exception:
    """What the system says of disk and files, as one line; anything else as it is."""
    if error.errno in _NO_ROOM:
        return LongcatDoraError(f"cannot write {error.filename or config.path}: {error.strerror}")
    if error.errno in _NOT_OURS and str(error.filename).startswith(str(config.path)):
        return LongcatDoraError(f"cannot use {error.filename}: {error.strerror}")
    if error.errno in _NO_FILES:
        return LongcatDoraError(
            f"too few file descriptors for {config.num_controllers} controllers: raise the limit"
            " (`ulimit -n 4096`)"
        )
    return error


def error_of(context: dict[str, Any]) -> BaseException:
    """What a loop's exception handler is told of."""
    return context.get("exception") or LongcatDoraError(context["message"])
