"""Processes that compute beside this one, and end when it ends, however it ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def worker_pool(size: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes; on Ctrl-C or an error they are killed, not waited for."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(size, mp_context=context, initializer=_follow_parent)
    try:
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """End with the parent, even with one that was killed; leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in the processes of a pool"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def tune_process() -> None:
    """Give torch one thread, and keep freed memory for the next tensors.

    Several processes share the cores here, and small operations gain nothing by being split.
    glibc returns large blocks to the system at once; asking for them again page by page costs a
    third of a small model's step.
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
