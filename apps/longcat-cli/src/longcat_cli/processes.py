"""Processes that compute beside this one, and end when it ends, however it ends."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.context import BaseContext, ForkServerContext
from typing import Any, TypeVar

Result = TypeVar("Result")
TELL_EVERY_S = 1.0
LOOK_EVERY_S = 0.1


class Pool:
    """Fresh processes that say how far they are while one waits for them."""

    def __init__(self, executor: ProcessPoolExecutor, counter: Any) -> None:
        self._executor, self._counter = executor, counter

    def submit(self, function: Callable[..., Result], /, *arguments: Any) -> Future[Result]:
        """Run a module's function in one of the processes."""
        with ctrl_c_waits():  # for this process has to tell a new one what to do
            return self._executor.submit(function, *arguments)

    def finished(
        self, futures: Iterable[Future[Result]], tell: Callable[[int], object]
    ) -> Iterator[Future[Result]]:
        """Yield each as it ends; meanwhile `tell`, once a second, how often `count` was called."""
        left = set(futures)
        while left:
            done, left = wait(left, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED)
            if not done:
                tell(self._counter.value)
            yield from done


PRELOADED = ("longcat_cli.train", "torch._dynamo")
"""What takes a process that trains seconds to load; torch's optimisers load the second."""


def copied() -> ForkServerContext:
    """How processes begin that are copies of one which has loaded what they need.

    Without `load_ahead` that one has loaded nothing, and each loads for itself.
    """
    return multiprocessing.get_context("forkserver")


def load_ahead() -> None:
    """Begin the process that others are copied from, and do not wait for it.

    It loads beside what this process does meanwhile, and ends when this one ends.
    """
    multiprocessing.set_forkserver_preload([*PRELOADED])
    with ctrl_c_waits():
        forkserver.ensure_running()
    atexit.register(_end_loading)


def _end_loading() -> None:
    """End the process that others are copied from: it looks after us only once it has loaded."""
    found = getattr(forkserver, "_forkserver", None)
    pid = getattr(found, "_forkserver_pid", None)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_until_loaded() -> None:
    """Wait for the process that others are copied from; Ctrl-C ends the waiting.

    A process that is begun before that would have Ctrl-C wait for it, too.
    """
    probe = copied().Process(target=_nothing)
    begun = threading.Thread(target=probe.start, daemon=True)
    begun.start()
    while begun.is_alive():
        begun.join(LOOK_EVERY_S)
    probe.join()


def _nothing() -> None:
    pass


@contextmanager
def worker_pool(size: int, context: BaseContext | None = None) -> Iterator[Pool]:
    """A pool of fresh processes; on Ctrl-C or an error they are killed, not waited for."""
    context = context or multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    executor = ProcessPoolExecutor(
        size, mp_context=context, initializer=_begin, initargs=(counter,)
    )
    try:
        yield Pool(executor, counter)
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C has its effect afterwards; in processes that begin meanwhile it never has one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _ctrl_c_is_noted():  # another thread may take the signal, and this one would be told
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _ctrl_c_is_noted() -> Iterator[None]:
    """Of the main thread, which alone is told."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    noted: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: noted.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if noted:
            signal.raise_signal(signal.SIGINT)


def count() -> None:
    """In a process of a pool: something more is done. Elsewhere nothing."""
    if _COUNTER:
        with _COUNTER[0].get_lock():
            _COUNTER[0].value += 1


_COUNTER: list[Any] = []
"""Of this process, if it is one of a pool; a process has no other way to what its pool shares."""


def _begin(counter: Any) -> None:
    _COUNTER[:] = [counter]
    belong_to_parent()


def belong_to_parent() -> None:
    """End with the parent, even with one that was killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in a process that multiprocessing started"

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def tune_process() -> None:
    """Give torch one thread, and keep freed memory for the next tensors.

    Several processes share the cores here, and small operations gain little by being split: a
    supervised step alone on two cores takes two thirds of the time with two threads, and thrice
    the time as soon as something else computes. glibc returns large blocks to the system at once;
    asking for them again page by page costs a third of a small model's step.
    """
    import torch  # late: the processes that grow environments need none

    torch.set_num_threads(1)
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
            libc.mallopt(-2, 1 << 26)  # M_TOP_PAD
        except OSError:
            pass  # another libc: slower, not wrong
