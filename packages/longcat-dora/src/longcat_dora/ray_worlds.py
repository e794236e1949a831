"""Environments as Ray actors: on other nodes than the controller whose rollouts use them.

    worlds = RayWorlds(Browser, 16)

    async def rollout(task, policy):
        async with worlds.lease() as world:  # waits until one is free
            page = await world.open(task)    # `Browser.open`, where the actor runs; plain or async
            ...
            return await world.score()

- Actors go to the nodes whose CPUs are idlest, by measurement (`_placement.py`).
- One that is lost, or was left in the middle of a call (a deadline, say), is never leased again:
  another takes its place. The rollout fails, is tried again, and is never a reward.
- It comes as the last lease left it: begin by resetting it, or ask for `fresh=True`, with which
  each lease has an actor of its own (that costs a process's start, some seconds).

Works in a controller of `RayRuntime`, and in any process that has called `ray.init`.
"""

# Ray's own functions are typed in part:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from ._runtime.ray_nodes import NodeFinder, on_node  # says how to get Ray where it is absent
from ._types import LongcatDoraError

import ray  # isort: skip
from ray.exceptions import RayActorError, RayTaskError  # isort: skip


class WorldLostError(LongcatDoraError):
    """The actor of a world, or its node, is gone."""


class _WorldActor:
    def __init__(self, factory: Callable[[], Any]) -> None:
        self.world = factory()

    async def call(self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        result = getattr(self.world, name)(*arguments, **options)
        return await result if inspect.isawaitable(result) else result

    async def where(self) -> str:
        return ray.get_runtime_context().get_node_id()


@dataclass(slots=True)
class _Slot:
    """Room for one actor."""

    actor: Any = None
    node: str = ""
    num_calls: int = 0
    """That have not come back."""


class RayWorld:
    """One leased world: its methods, to be awaited.

    Raises:
        WorldLostError: From any of them, when its actor is gone. What the world itself raises is
            raised here.
    """

    def __init__(self, slot: _Slot) -> None:
        self._slot = slot

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def method(*arguments: Any, **options: Any) -> Any:
            self._slot.num_calls += 1
            try:
                result = await self._slot.actor.call.remote(name, arguments, options)
            except RayTaskError as error:
                self._slot.num_calls -= 1
                raise error.cause from error
            except RayActorError as error:
                raise WorldLostError(f"the world is gone: {str(error).splitlines()[0]}") from error
            self._slot.num_calls -= 1
            return result

        return method


class RayWorlds:
    """A pool of worlds.

    Args:
        factory: Makes a world; must be importable, or what Ray can pickle.
        num: At most so many at once; they are started when they are first wanted.
        fresh: Each lease starts one of its own.
        num_cpus: Reserved for each. Nothing, by default: they go where CPUs are idle, reserved or
            not.
        num_gpus: Reserved for each.
        start_s: Until one must have started.
        options: Of the actors, as in `ray.remote(...).options`.

    Raises:
        ValueError: There is no room for a world.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        num: int,
        *,
        fresh: bool = False,
        num_cpus: float = 0,
        num_gpus: float = 0,
        start_s: float = 60.0,
        **options: Any,
    ) -> None:
        if num < 1:
            raise ValueError(f"num must be at least 1, got {num}")
        self._factory, self._fresh, self._start_s = factory, fresh, start_s
        self._finder = NodeFinder(num_cpus=num_cpus, num_gpus=num_gpus)
        self._options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "max_restarts": 0, **options}
        self._slots = [_Slot() for _ in range(num)]
        self._free: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        for slot in self._slots:
            self._free.put_nowait(slot)

    @property
    def nodes(self) -> list[str]:
        """Where the worlds are that have been started."""
        return [slot.node for slot in self._slots if slot.actor is not None]

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncGenerator[RayWorld]:
        """Wait for a world and have it alone.

        Raises:
            WorldLostError: It could not be started, or is gone.
        """
        slot = await self._free.get()
        try:
            if slot.actor is None:
                await self._start(slot)
            yield RayWorld(slot)
        finally:
            if slot.actor is not None and (self._fresh or slot.num_calls):
                ray.kill(slot.actor)
                slot.actor = None
            self._free.put_nowait(slot)

    async def _start(self, slot: _Slot) -> None:
        slot.node = await self._finder.find(self.nodes)
        actor = ray.remote(_WorldActor).options(
            scheduling_strategy=on_node(slot.node), **self._options
        )
        slot.actor, slot.num_calls = actor.remote(self._factory), 1
        try:
            slot.node = await asyncio.wait_for(slot.actor.where.remote(), self._start_s)
            slot.num_calls = 0
        except TimeoutError as error:
            raise WorldLostError(
                f"a world must start within start_s={self._start_s:g} s; is there a node with "
                f"num_cpus={self._options['num_cpus']:g} and num_gpus={self._options['num_gpus']:g}"
                " free?"
            ) from error
        except RayActorError as error:  # says also what the factory raised
            raise WorldLostError(f"a world could not be started: {error}") from error
