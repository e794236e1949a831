"""Controllers on the machines of a Ray cluster (`pip install 'longcat-dora[ray]'`).

    RayRuntime (driver: manager, queue, log, trainer) <──> controller actors, spread over the nodes

- Orders and messages are actor calls; they are small. Trajectories and weights go through the
  object store, as buffers that are mapped, not copied: weights are put once, and every process of a
  node reads them in place.
- The log is the driver's. An actor or a node that is lost is noticed by its call, what it sampled
  is tried again, and a new actor goes to a node that is left.
- An actor goes to the node whose CPUs were idlest when last measured (`_placement.py`); a node that
  cannot give what a controller reserves does not answer the measurement, and is left out.
- Everything else, the contract included, is `Runtime`'s: the same scheduler, the same log, the same
  checker.
"""

# Ray's own functions are typed in part:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

try:
    import ray
    from ray.exceptions import RayActorError, RayError
except ImportError as error:  # pragma: no cover
    raise ImportError("longcat_dora.ray needs: pip install 'longcat-dora[ray]'") from error

from ._log.payloads import PAYLOAD_BYTES, PayloadFile
from ._log.tensors import Form, Shard, is_plain, restored, shards_of
from ._rollout.controller import Factory, RolloutController
from ._rollout.messages import (
    Broken,
    Loading,
    LoadWeights,
    Order,
    Ready,
    Report,
    RolloutFailed,
    RolloutFinished,
    Stopped,
)
from ._runtime.ray_nodes import NodeFinder, on_node
from ._runtime.runtime import Runtime
from ._types import EndReason, Finished, LongcatDoraError, Trajectory

_MOST_END_S = 10.0
_HEARD_S = 0.02
"""Until a report has left."""


class Buffer:
    """Bytes that the object store keeps aside and maps where they are read."""

    def __init__(self, data: Any) -> None:
        self.view = memoryview(data)

    def __reduce_ex__(self, _: Any) -> tuple[type[Buffer], tuple[pickle.PickleBuffer]]:
        return Buffer, (pickle.PickleBuffer(self.view),)


class _PutArrays(NamedTuple):
    """Arrays in the object store."""

    forms: list[Form]
    references: list[Any]


def put_weights(weights: Any) -> Any:
    """Put weights, bytes or arrays, into the object store, once.

    `weights_of` returns them elsewhere.
    """
    return [ray.put(Buffer(weights))] if is_plain(weights) else put_arrays(shards_of(weights))


def put_arrays(shards: Iterable[Shard]) -> Any:
    """Put arrays into the object store as they come."""
    puts = [(shard.form, ray.put(Buffer(shard.data))) for shard in shards]
    return _PutArrays([form for form, _ in puts], [reference for _, reference in puts])


async def weights_of(put: Any) -> Any:
    """Return weights where the object store has them."""
    if isinstance(put, _PutArrays):
        pairs = zip(put.forms, put.references, strict=True)
        return {form.name: restored(form, (await reference).view) for form, reference in pairs}
    (reference,) = put
    buffer: Buffer = await reference
    return buffer.view


class _ControllerActor:
    """A rollout controller in an actor. Takes: orders. Gives: messages, to whoever calls `take`."""

    def __init__(self, factory: Factory, deadline_s: float) -> None:
        self.factory, self.deadline_s = factory, deadline_s
        self.orders: asyncio.Queue[Order] = asyncio.Queue()
        self.early: dict[int, Order] = {}
        """Orders that came before one that was sent before them."""
        self.next_number = 0
        self.messages: asyncio.Queue[Report] = asyncio.Queue()
        self.tasks: list[asyncio.Task[None]] = []

    async def post(self, number: int, order: Order) -> None:
        """Take an order.

        They are carried out by their numbers: Ray may begin calls out of order.
        """
        self.early[number] = order
        while self.next_number in self.early:
            self.orders.put_nowait(self.early.pop(self.next_number))
            self.next_number += 1

    async def take(self) -> list[Report]:
        """Wait for messages, and return all there are."""
        if not self.tasks:
            self.tasks.append(asyncio.create_task(self._serve()))
        found = [await self.messages.get()]
        while not self.messages.empty():
            found.append(self.messages.get_nowait())
        return found

    async def _serve(self) -> None:
        try:
            worker = self.factory()
        except Exception:
            problem = f"it could not build its worker:\n{traceback.format_exc()}"
            self.messages.put_nowait(Broken(problem))
            return
        controller = RolloutController(
            worker, deadline_s=self.deadline_s, deliver=self._deliver, tell=self._tell
        )
        self._tell(Ready(node=ray.get_runtime_context().get_node_id()))
        while not controller.stopped.is_set():
            order = await self.orders.get()
            if isinstance(order, LoadWeights):
                order = order._replace(weights=await weights_of(order.weights))
                self._tell(Loading(order.version))
                await asyncio.sleep(_HEARD_S)  # the engine may block from here on
            controller.obey(order)
        await controller.close()
        self._tell(Stopped())

    def _tell(self, report: Report) -> None:
        self.messages.put_nowait(report)

    def _deliver(self, trajectory: Trajectory, num_splits: int) -> None:
        reference = ray.put(Buffer(trajectory.to_bytes()))
        finished = Finished.of(trajectory, num_splits=num_splits)
        self._tell(RolloutFinished(finished, [reference]))


class RayController:
    """One actor seen from the manager: see `Controller`."""

    def __init__(self) -> None:
        self.actor: Any = None
        """Absent until a node was found for it."""
        self.node = ""
        self.num_posted = 0
        self.running: set[str] = set()
        self.is_ready = self.is_gone = False
        self.has_stopped = asyncio.Event()
        self.listener: asyncio.Task[None] | None = None

    def post(self, order: Order) -> None:
        """Send an order after all earlier ones.

        Before there is an actor, none is sent but to stop.
        """
        if self.actor is None:
            return
        with contextlib.suppress(
            RayError
        ):  # the listener finds out, and cares for what was running
            self.actor.post.remote(self.num_posted, order)
            self.num_posted += 1

    def kill(self) -> None:
        """End the actor now; its listener finds out."""
        if self.actor is not None:
            ray.kill(self.actor)


class RayRuntime(Runtime):
    """Controllers are actors. Arguments: see `Runtime`, and these.

    Args:
        *arguments: See `Runtime`.
        address: Of a cluster; this machine alone when absent. A Ray that is running already is used
            as it is.
        num_cpus: Reserved for each controller, with what it starts.
        num_gpus: Reserved for each controller.
        **options: See `Runtime`.
    """

    def __init__(
        self,
        *arguments: Any,
        address: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.address, self.num_cpus, self.num_gpus = address, num_cpus, num_gpus
        self._file: PayloadFile | None = None
        self._finder = NodeFinder(num_cpus=num_cpus, num_gpus=num_gpus)

    def run(self) -> int:
        """See `Runtime.run`. Ray is started if it is not running, and then also ended."""
        if ray.is_initialized():
            return super().run()
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # a node that does not come up is of no kind of its own
            wanted = f"be reachable at address={self.address!r}" if self.address else "start here"
            raise LongcatDoraError(f"Ray must {wanted}: {error}") from error
        try:
            return super().run()
        finally:
            ray.shutdown()

    def spawn(self, place: int) -> RayController:
        """Find a node with idle CPUs, start an actor there, and listen to it."""
        handle = RayController()
        handle.listener = asyncio.create_task(self._tend(handle))
        return handle

    async def _tend(self, handle: RayController) -> None:
        try:
            ours = [handle.node for handle in self.handles if isinstance(handle, RayController)]
            handle.node = await self._finder.find(ours)
            if self.is_over:
                return
            actor = ray.remote(_ControllerActor).options(
                num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_restarts=0,
                max_concurrency=1000, scheduling_strategy=on_node(handle.node),
            )  # fmt: skip
            handle.actor = actor.remote(self.factory, self.config.rollout_deadline_s)
        except Exception as error:
            self.crash(error)
            return
        await self._listen(handle)

    async def join(self, handle: RayController) -> None:
        """Wait for an actor to end; it was told to stop."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MOST_END_S if handle.is_ready else 0):
                await handle.has_stopped.wait()
        if handle.listener is not None:
            handle.listener.cancel()
        if handle.actor is not None:
            ray.kill(handle.actor)
        handle.is_gone = True
        if self._file is not None and all(
            h.is_gone for h in self.handles if isinstance(h, RayController)
        ):
            self._file.close()
            self._file = None

    def share(self, weights: bytes | memoryview) -> Any:
        """Put weights into the object store, once."""
        return [ray.put(Buffer(weights))]

    def share_arrays(self, shards: Iterator[Shard]) -> Any:
        """Put arrays into the object store as they come."""
        return put_arrays(shards)

    async def _listen(self, handle: RayController) -> None:
        """Takes: an actor's messages. Stops: when it has ended, or is lost."""
        try:
            while True:
                for report in await handle.actor.take.remote():
                    match report:
                        case Stopped():
                            handle.has_stopped.set()
                            return
                        case Ready():  # Ray may have put it elsewhere than was asked
                            handle.node = report.node
                            self.receive(handle, report)
                        case RolloutFinished(finished, held):
                            await self._keep(handle, finished, held)
                        case _:
                            self.receive(handle, report)
                self.wake()
        except RayActorError as error:
            handle.has_stopped.set()
            try:
                self.lost(handle, str(error).splitlines()[0])
            except LongcatDoraError as end:
                self.crash(end)
            self.wake()
        except Exception as error:
            self.crash(error)

    async def _keep(self, handle: RayController, finished: Finished, held: list[Any]) -> None:
        """Write a trajectory into the log's folder, from where it lies in the object store."""
        try:
            buffer: Buffer = await held[0]
        except RayError as error:  # its node was lost with it
            lost = RolloutFailed(finished.id, EndReason.CONTROLLER_LOST, str(error)[:200])
            self.receive(handle, lost)
            return
        if self.is_over:
            return
        if self._file is None:
            self._file = PayloadFile(
                self.config.path / "log", self.manager.writer(), most_bytes=PAYLOAD_BYTES
            )
        payload = self._file.append([buffer.view])
        self.receive(handle, RolloutFinished(finished, payload))
