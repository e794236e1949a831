"""Evaluations beside the training.

On a version's weights, in a thread of their own, holding up nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from longcat_dora._log.tensors import snapshot

from .config import RunConfig
from .trainer_thread import TrainerThread

Evaluate = Callable[[int, Any], Mapping[str, Any]]
"""Takes a version and its weights, as an engine is given them; returns metrics."""


class Evaluations:
    """Calls `evaluate` every `evaluate_every` steps and at the end.

    Results go to `evaluations.jsonl`.

    One runs at a time. If it is not done when the next one is due, that one is left out.
    """

    def __init__(self, config: RunConfig, evaluate: Evaluate | None) -> None:
        self.config, self.evaluate = config, evaluate
        self.file = config.path / "evaluations.jsonl"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="evaluate")
        self._running: asyncio.Future[None] | None = None
        self._last = -1

    async def look(self, version: int, teacher: TrainerThread) -> None:
        """Begin an evaluation if one is due; its errors are raised here, or at the next look."""
        if self._running is not None and self._running.done():
            running, self._running = self._running, None
            running.result()
        every = self.config.evaluate_every
        if self.evaluate is None or not every or version % every or self._running is not None:
            return
        await self._begin(version, teacher)

    async def end(self, version: int, teacher: TrainerThread) -> None:
        """Wait for the one that runs, and evaluate the last version."""
        if self.evaluate is None:
            return
        if self._running is not None:
            await self._running
        if self._last != version:
            await self._begin(version, teacher)
            assert self._running is not None
            await self._running

    def close(self) -> None:
        """Begin none any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _begin(self, version: int, teacher: TrainerThread) -> None:
        weights = await teacher.weights(snapshot, step=version)
        self._last = version
        loop = asyncio.get_running_loop()
        self._running = loop.run_in_executor(self._thread, self._evaluate, version, weights)

    def _evaluate(self, version: int, weights: Any) -> None:
        assert self.evaluate is not None
        record = {"step": version, **self.evaluate(version, weights)}
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
