"""Models without memory: shapes and names alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Undrawn(TorchFunctionMode):
    """Leaves fresh weights as they are."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


@contextmanager
def on_meta() -> Iterator[None]:
    """Build modules without their memory, and without drawing values that nobody would see.

    To draw on the device `meta`, torch loads its compiler: more than a second in each process.
    """
    with torch.device("meta"), _Undrawn():
        yield


def take_memory(model: nn.Module, device: torch.device | str) -> None:
    """Give a module that was built on `meta` its memory, with whatever it holds.

    As torch's `to_empty`, which loads two seconds of symbolic shapes for it.
    """
    made: dict[int, Tensor] = {}  # a tensor that is held twice stays one

    def empty(held: Tensor) -> Tensor:
        if id(held) not in made:
            fresh = torch.empty(held.shape, dtype=held.dtype, device=device)
            is_weight = isinstance(held, nn.Parameter)
            made[id(held)] = nn.Parameter(fresh, held.requires_grad) if is_weight else fresh
        return made[id(held)]

    for module in model.modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, held in own:
            setattr(module, name, empty(held))
