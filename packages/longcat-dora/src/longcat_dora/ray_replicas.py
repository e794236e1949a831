"""Engine replicas as Ray actors: on other cards and nodes than the controller that asks them.

    def worker():
        replicas = [RayReplica(build, num_gpus=1) for _ in range(4)]
        return Worker(engine=ReplicatedEngine(replicas), ...)

`build` makes a `Replica` where the actor runs. Works in a controller of `RayRuntime`, and in any
process that has called `ray.init`. Weights are put into the object store once for all replicas, and
mapped there.
"""

# Ray's own functions are typed in part:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ._runtime.replicas import Completion, Replica, ReplicaLostError
from ._types import LongcatDoraError, Sampled
from .ray import put_weights, weights_of  # says how to get Ray where it is absent

import ray  # isort: skip
from ray.exceptions import RayActorError, RayTaskError  # isort: skip


class _ReplicaActor:
    def __init__(self, factory: Callable[[], Replica]) -> None:
        self.replica = factory()

    async def load_weights(self, version: int, held: Any) -> None:
        await self.replica.load_weights(version, await weights_of(held))

    async def complete(self, token_ids: list[int], **options: Any) -> tuple[Any, ...]:
        result = await self.replica.complete(token_ids, **options)
        return result.token_ids, result.log_probs, result.finish_reason


class RayReplica:
    """A replica in an actor; one that is lost is started anew. Implements `Replica`.

    Args:
        factory: Makes the replica; must be importable, or what Ray can pickle.
        options: Of the actor, as in `ray.remote(...).options`: `num_gpus`, `num_cpus`, `resources`,
            `scheduling_strategy`.
    """

    _put: tuple[int, Any, Any] | None = None
    """Version, weights and reference of what was put last, by any replica of this process."""

    def __init__(self, factory: Callable[[], Replica], **options: Any) -> None:
        self._factory = factory
        self._options = {"num_cpus": 1, "max_concurrency": 1000, **options}
        self._actor: Any = None

    async def load_weights(self, version: int, weights: Any) -> None:
        """See `Replica`."""
        if self._actor is None:
            actor = ray.remote(_ReplicaActor).options(**self._options)
            self._actor = actor.remote(self._factory)
        held = RayReplica._put
        if held is None or held[0] != version or held[1] is not weights:
            held = RayReplica._put = version, weights, put_weights(weights)
        await self._call("load_weights", version, held[2])

    async def complete(
        self, token_ids: Sequence[int], *, max_tokens: int, temperature: float, seed: int | None
    ) -> Sampled:
        """See `Replica`."""
        found = await self._call(
            "complete", list(token_ids), max_tokens=max_tokens, temperature=temperature, seed=seed
        )
        return Completion(*found)

    async def _call(self, name: str, *arguments: Any, **options: Any) -> Any:
        try:
            return await getattr(self._actor, name).remote(*arguments, **options)
        except RayTaskError as error:
            if isinstance(error.cause, ReplicaLostError):
                raise error.cause from error
            raise LongcatDoraError(f"a replica failed: {error.cause!r}") from error
        except RayActorError as error:
            self._actor = None
            raise ReplicaLostError(f"the replica's actor is gone: {error}") from error
