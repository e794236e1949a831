"""Write one shard: threads merge its tensors, and one follows them with the digest and the disk.

    tensors -> workers -> bytes at their places -> digest, in the order of the file
                                                -> onto the disk, every `_SYNC_BYTES`

What always holds: a shard that was written is on the disk whole, and its digest is of its bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from typing import Any

from ._engine import Outcome, TensorTask, merge_task
from ._journal import Finished, part_of
from ._numbers import Array
from ._plan import Plan, Shard

_SYNC_BYTES = 64 << 20
"""What may wait for the disk: it writes while more is merged."""
_READ_BYTES = 1 << 18


def write_shard(plan: Plan, shard: Shard, ready: Callable[[int], None]) -> Finished:
    """Write a shard under its other name and sync it.

    Args:
        plan: What is merged.
        shard: Which of its shards.
        ready: Told the bytes of each part of the shard that is merged.
    """
    part = part_of(plan.out, shard.name)
    part.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(part, flags, 0o644)
    try:
        if hasattr(os, "posix_fallocate"):  # so that a full disk is found here
            os.posix_fallocate(file, 0, shard.file_bytes)
        _write_all(file, shard.head, 0)
        ready(len(shard.head))
        return _Work(plan, shard, file).run(ready)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)


class _Work:
    """The tensors of one shard under way."""

    def __init__(self, plan: Plan, shard: Shard, file: int) -> None:
        self.plan, self.shard, self.file = plan, shard, file

    def run(self, ready: Callable[[int], None]) -> Finished:
        """Merge all tensors, take the digest, and put the file on the disk."""
        tasks = self.shard.tasks
        with ExitStack() as stack:
            pool, digesting, syncing = pools = [
                stack.enter_context(ThreadPoolExecutor(count))
                for count in (self.plan.threads, 1, 1)
            ]
            running = [pool.submit(self._merge, task) for task in tasks]
            sizes = dict(zip(running, (task.out_bytes for task in tasks), strict=True))
            digest = digesting.submit(self._digest, running)
            syncs, unsynced = [], 0
            try:
                for future in as_completed(running):
                    future.result()
                    unsynced += sizes[future]
                    if unsynced >= _SYNC_BYTES:
                        syncs.append(syncing.submit(os.fsync, self.file))
                        unsynced = 0
                    ready(sizes[future])
                syncs.append(syncing.submit(os.fsync, self.file))
                for sync in syncs:
                    sync.result()
                sha256 = digest.result()
            except BaseException:
                for executor in pools:
                    executor.shutdown(wait=False, cancel_futures=True)
                raise
        outcomes = [future.result() for future in running]
        return Finished(self.shard.name, self.shard.file_bytes, sha256, _records(tasks, outcomes))

    def _merge(self, task: TensorTask) -> Outcome:
        scales = task.match.base.scales

        def put(is_scales: bool, begin: int, raw: Array) -> None:
            name = scales.name if is_scales and scales else task.name
            _write_all(self.file, raw, self.shard.begins[name] + begin)

        return merge_task(task, self.plan.config, self.plan.tile_size, put)

    def _digest(self, running: Sequence[Future[Outcome]]) -> str:
        """SHA-256 of the file, taken as far as its tensors are there."""
        digest, part, place = hashlib.sha256(), bytearray(_READ_BYTES), 0
        ends = [self.shard.begins[task.name] for task in self.shard.tasks]
        for future, end in zip([None, *running], [*ends, self.shard.file_bytes], strict=True):
            if future is not None:
                future.result()
            while place < end:
                view = memoryview(part)[: min(_READ_BYTES, end - place)]
                count = os.preadv(self.file, [view], place)
                if count == 0:
                    raise OSError(f"{self.shard.name} became shorter while it was written")
                digest.update(view[:count])
                place += count
        return digest.hexdigest()


def _records(tasks: Sequence[TensorTask], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {"name": task.name, "moved": found.moved, "lost": found.lost, "digests": found.digests}
        for task, found in zip(tasks, outcomes, strict=True)
    ]


def _write_all(file: int, data: Any, place: int) -> None:
    view = memoryview(data)
    while len(view):
        count = os.pwrite(file, view, place)
        view, place = view[count:], place + count
