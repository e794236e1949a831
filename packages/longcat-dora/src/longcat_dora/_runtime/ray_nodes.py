"""Which node of a Ray cluster the next actor goes to: see `_placement.py`."""

# Ray's own functions are typed in part:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

try:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError as error:  # pragma: no cover
    raise ImportError("Ray is wanted: pip install 'longcat-dora[ray]'") from error

from .placement import choose_node, idle_cpus

_MOST_MEASURE_S, _MOST_LATER_S = 10.0, 0.5
"""Until the first node answers, and then until the others do."""
_LITTLE = 0.1
_OLD_S = 5.0
"""How long a measurement holds."""


class NodeFinder:
    """Finds the node with the most idle CPUs, for actors that all reserve the same.

    Args:
        num_cpus: Reserved for each actor; a node that cannot give them does not answer the
            measurement.
        num_gpus: Likewise.
    """

    def __init__(self, *, num_cpus: float, num_gpus: float = 0) -> None:
        self.num_cpus, self.num_gpus = num_cpus, num_gpus
        self._one_by_one = asyncio.Lock()
        self._idle: dict[str, float] = {}
        """Node to idle CPUs, when last measured."""
        self._measured_at = float("-inf")
        self._placed: list[str] = []
        """Where actors went since then."""

    async def find(self, taken: Sequence[str]) -> str:
        """Return the idlest node; empty while none can give what is reserved.

        Args:
            taken: The node of each actor that is there already.
        """
        async with self._one_by_one:  # each counts those before it
            if time.monotonic() - self._measured_at > _OLD_S:
                await self._measure(taken)
            alive = _alive_nodes()
            idle = {node: cpus for node, cpus in self._idle.items() if node in alive}
            # One that reserves nothing uses something all the same.
            node = choose_node(idle, self._placed, num_cpus=self.num_cpus or _LITTLE)
            if node is not None:
                self._placed.append(node)
            return node or ""

    async def _measure(self, taken: Sequence[str]) -> None:
        """Ask each node with room; one that is late has none, or is lost."""
        probe = ray.remote(idle_cpus)
        asked = {
            asyncio.ensure_future(_result(probe.options(
                num_cpus=self.num_cpus, num_gpus=self.num_gpus, max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            ).remote())): node
            for node, cpus in _alive_nodes().items()
            if cpus > 0 and cpus - self.num_cpus * taken.count(node) >= self.num_cpus
        }  # fmt: skip
        if not asked:
            return
        done, late = await asyncio.wait(
            asked, timeout=_MOST_MEASURE_S, return_when=asyncio.FIRST_COMPLETED
        )
        if late:
            done, late = await asyncio.wait(asked, timeout=_MOST_LATER_S)
        for answer in late:
            answer.cancel()
        self._idle = {asked[a]: a.result() for a in done if a.exception() is None}
        self._measured_at, self._placed = time.monotonic(), []


def on_node(node: str) -> NodeAffinitySchedulingStrategy | str:
    """On a node, or on another if it has just been lost; anywhere if none was found."""
    return NodeAffinitySchedulingStrategy(node, soft=True) if node else "SPREAD"


async def _result(reference: Any) -> Any:
    return await reference


def _alive_nodes() -> dict[str, float]:
    """Node to CPUs that can be reserved there."""
    nodes = cast("list[dict[str, Any]]", ray.nodes())
    return {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]}
