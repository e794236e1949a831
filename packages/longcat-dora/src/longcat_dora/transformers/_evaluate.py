"""How a version does on tasks that it is not trained on."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from longcat_dora import Invalid, LongcatDoraError, Mask, Segment, Session, Task, Worker

from ._worker import as_reward


@dataclass(frozen=True, slots=True)
class Attempted:
    """One attempt of an evaluation."""

    task: str
    reward: float | None
    """`None`: the attempt failed, or its signal was incomplete; see `info`."""
    info: dict[str, Any]
    segments: list[Segment]


def evaluate(
    worker: Worker, tasks: Sequence[Task], *, weights: bytes | memoryview = b"", version: int = 0,
    temperature: float = 0.0, seed: int = 0, num_running: int = 64,
) -> list[Attempted]:  # fmt: skip
    """Let a version try each task once; may be called while a run goes on, in its `on_step` too.

    Args:
        worker: With an engine of its own, not a run's.
        tasks: Held out.
        weights: As `Trainer.weights` gives them; none: the model as it was loaded.
        version: What to call them.
        temperature: Of the sampling; 0 takes the likeliest.
        seed: Of the sampling.
        num_running: Tasks tried at once.
    """
    cold = dataclasses.replace(worker, temperature=temperature)

    async def go() -> list[Attempted]:
        free = asyncio.Semaphore(num_running)
        cold.engine.load_weights(version, weights)
        try:
            places = range(len(tasks))
            return await asyncio.gather(
                *(_try(cold, tasks[n], version, seed + n, free) for n in places)
            )
        finally:
            cold.engine.retire(version)

    with ThreadPoolExecutor(1) as thread:  # a loop of its own: the caller's may be running
        return thread.submit(asyncio.run, go()).result()


async def _try(
    worker: Worker, task: Task, version: int, seed: int, free: asyncio.Semaphore
) -> Attempted:
    async with free:
        session = Session(worker, version, seed=seed)
        try:
            outcome = await worker.rollout(task.payload, session)
        except Mask as mask:
            return Attempted(task.id, None, {"masked": str(mask)}, session.segments)
        except Exception as error:
            said = str(error) if isinstance(error, LongcatDoraError) else repr(error)
            return Attempted(task.id, None, {"error": said}, session.segments)
        finally:
            await session.close()
    reward, info = outcome if isinstance(outcome, tuple) else (outcome, {})
    if isinstance(reward, Invalid):
        return Attempted(task.id, None, {"invalid": reward.reason}, session.segments)
    number = as_reward(reward)
    if number is None:
        said = f"a reward must be a finite number, got {reward!r:.60}"
        return Attempted(task.id, None, {**info, "error": said}, session.segments)
    return Attempted(task.id, number, info, session.segments)
