"""Replicas of a model in threads that share its weights and have gradients of their own.

On a few CPU cores two threads that each run half of the micro-batches beat one that splits every
small operation in two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import nn

Item = TypeVar("Item")


class Replicas:
    """The model itself and `num - 1` copies over the same parameters and saved buffers."""

    def __init__(self, model: nn.Module, num: int) -> None:
        if num < 1:
            raise ValueError(f"num must be at least 1, got {num}")
        self.models = [model, *(_alias(model) for _ in range(num - 1))]
        self._pool = ThreadPoolExecutor(num - 1) if num > 1 else None

    def map(self, work: Callable[[nn.Module, Item], Any], items: Sequence[Item]) -> list[Any]:
        """Run `work(model, item)` over items, spread over the replicas; sum gradients in the model.

        Results come in the order of the items. An error of any item is raised.
        """
        num = len(self.models)
        shares = [list(range(place, len(items), num)) for place in range(num)]

        def run(replica: int) -> list[Any]:
            if num > 1:
                torch.set_num_threads(1)
            return [work(self.models[replica], items[place]) for place in shares[replica]]

        if self._pool is None:
            return run(0)
        threads = torch.get_num_threads()
        futures = [self._pool.submit(run, replica) for replica in range(1, num)]
        try:
            parts = [run(0), *(future.result() for future in futures)]
        finally:
            torch.set_num_threads(threads)
        self._gather()
        results: list[Any] = [None] * len(items)
        for places, part in zip(shares, parts, strict=True):
            for place, result in zip(places, part, strict=True):
                results[place] = result
        return results

    def _gather(self) -> None:
        for replica in self.models[1:]:
            for own, other in zip(self.models[0].parameters(), replica.parameters(), strict=True):
                if other.grad is not None:
                    own.grad = other.grad if own.grad is None else own.grad.add_(other.grad)
                    other.grad = None


def _alias(model: nn.Module) -> nn.Module:
    replica = copy.deepcopy(model)
    state = model.state_dict(keep_vars=True)
    for name, parameter in replica.named_parameters():
        parameter.data = state[name].data
    for name, buffer in replica.named_buffers():
        if name in state:
            buffer.data = state[name].data
    return replica
