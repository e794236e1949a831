"""The trainer's own thread.

All that is asked of a trainer happens there, one after another, off the loop.

What a trainer returns is looked at before anything is done with it; what it raises says which of
its methods it was.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from longcat_dora._log.tensors import is_plain
from longcat_dora._types import LongcatDoraError, Trainer, Trajectory, wants_arrays

T = TypeVar("T")
METHODS = ("train", "weights", "save", "restore")


def lacking(trainer: Any) -> list[str]:
    """Return the methods that a trainer must have and does not."""
    return [name for name in METHODS if not callable(getattr(trainer, name, None))]


class TrainerThread:
    """Runs a trainer.

    Args:
        trainer: The trainer, or a function that makes it.

    Raises:
        TypeError: It lacks a method, or its `batch_format` is unknown.
        ImportError: It wants numpy arrays, and there is no numpy.
    """

    def __init__(self, trainer: Trainer | Callable[[], Trainer]) -> None:
        if isinstance(trainer, type):
            raise TypeError(f"trainer must be a trainer, got the class {trainer.__name__}: call it")
        self._trainer: Trainer | None = None
        self._make: Callable[[], Trainer] | None = None
        if callable(trainer) and len(lacking(trainer)) == len(METHODS):
            self._make = trainer
        else:
            self._take(cast("Trainer", trainer))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trainer")

    @property
    def trainer(self) -> Trainer:
        """The trainer.

        Raises:
            RuntimeError: It has not been made so far.
        """
        if self._trainer is None:
            raise RuntimeError("the trainer is made when the run begins: it has not begun")
        return self._trainer

    async def made(self) -> Trainer:
        """Return the trainer, made now if a function was given to make it."""
        if self._trainer is None and self._make is not None:
            self._take(await self.call(self._make))
        return self.trainer

    def _take(self, trainer: Trainer) -> None:
        missing = lacking(trainer)
        if missing:
            raise TypeError(
                f"a trainer must have {', '.join(METHODS)}; {type(trainer).__name__} lacks"
                f" {', '.join(missing)}"
            )
        self._trainer, self.wants_arrays = trainer, wants_arrays(trainer)
        if self.wants_arrays and importlib.util.find_spec("numpy") is None:
            raise ImportError('batch_format = "numpy" needs: pip install numpy')

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function after all that was asked before."""

        def run() -> T:
            try:
                return function(*arguments)
            except StopIteration as error:  # no future may hold one
                raise RuntimeError("StopIteration: what it iterates over is at its end") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, run)

    async def train(self, batch: Sequence[Trajectory], *, step: int) -> dict[str, Any]:
        """Take a step; return its metrics.

        Raises:
            LongcatDoraError: They are none.
        """
        metrics: Any = await self._noted("train", step, self.trainer.train, batch)
        if not isinstance(metrics, Mapping):
            raise LongcatDoraError(
                f"trainer.train must return a mapping of metrics, at step {step} it returned"
                f" {metrics!r:.80}"
            )
        try:
            found = {
                str(key): _plain(value) for key, value in cast("Mapping[Any, Any]", metrics).items()
            }
            json.dumps(found)
        except (TypeError, ValueError) as error:
            raise LongcatDoraError(
                f"trainer.train must return metrics that are numbers, at step {step}: {error}"
            ) from error
        return found

    async def weights(self, take: Callable[[Any], T], *, step: int) -> T:
        """Return what `take` makes of the weights; arrays come from the trainer while it is called.

        Raises:
            LongcatDoraError: They are none.
        """

        def give() -> T:
            try:
                weights: Any = self.trainer.weights()
                if is_plain(weights) and not len(weights):
                    raise LongcatDoraError("they must hold a byte, and hold none")
                return take(weights)
            except LongcatDoraError as error:
                raise LongcatDoraError(
                    f"trainer.weights must return bytes or named arrays, at step {step}: {error}"
                ) from error

        return await self._noted("weights", step, give)

    async def _noted(self, method: str, step: int, function: Callable[..., T], *given: Any) -> T:
        try:
            return await self.call(function, *given)
        except Exception as error:
            error.add_note(f"(raised by trainer.{method}, step {step})")
            raise

    def close(self) -> None:
        """Wait for what it is doing."""
        self._thread.shutdown(wait=True)


def _plain(value: Any) -> Any:
    """A number that is no Python number (of numpy, of torch) as one."""
    if isinstance(value, (bool, int, float, str, list, dict, type(None))):
        return cast("Any", value)
    return float(value)
