"""Train mode without chance: in RL a model that drops what it computes is another policy.

Checkpointing asks for train mode, and so may counts of a router; dropout acts in it. Its
probability is often a number that a layer hands to attention, not a module of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ._adapters import base_model
from ._tensors import evaluating

_DROPOUT = nn.modules.dropout._DropoutNd  # pyright: ignore[reportPrivateUsage]
_CHANCES = ("drop", "jitter")
_IS_RANDOM: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Of models that draw random numbers in train mode all the same: whether these show."""


class _Chance(NamedTuple):
    """A probability above 0, and who holds it."""

    owner: Any
    name: str
    value: float


@contextmanager
def without_chance(model: nn.Module) -> Generator[None]:
    """Set train mode for a step, its backward passes included, with every dropout off.

    What holds a probability is in eval mode; what checkpoints must not be, and its probabilities
    are 0 until the step is over. A model whose pass is random nevertheless is set to eval mode
    there and then, with a warning.
    """
    model.train()
    held: list[_Chance] = []
    for module in model.modules():
        chances = list(_chances(module))
        if getattr(module, "gradient_checkpointing", False):
            held += chances
        elif chances:
            module.training = False
    if _IS_RANDOM.get(model, False):
        model.eval()
    hooks = [] if model in _IS_RANDOM else _watch(model)
    for chance in held:
        setattr(chance.owner, chance.name, 0.0)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for chance in reversed(held):
            setattr(chance.owner, chance.name, chance.value)


def _chances(module: nn.Module) -> Iterator[_Chance]:
    """Those that its pass may read: its own, its dropouts', its configuration's."""
    for one in (module, *module.children()):
        if isinstance(one, _DROPOUT) and one.p:
            yield _Chance(one, "p", one.p)
    for owner in (module, vars(module).get("config")):
        for name, value in getattr(owner, "__dict__", {}).items():
            if isinstance(value, float) and value > 0 and any(part in name for part in _CHANCES):
                yield _Chance(owner, name, value)


def _watch(model: nn.Module) -> list[RemovableHandle]:
    """Look whether the next pass draws random numbers; if they show, it is done again without."""
    base = cast("Any", base_model(model))
    core = getattr(base, "base_model", base)  # below the output matrix, which may be passed by
    core = core if isinstance(core, nn.Module) else base
    device = next(model.parameters()).device
    before: list[Tensor] = []
    hooks: list[RemovableHandle] = []

    def begin(*_: Any) -> None:
        before[:] = _drawn(device)

    def end(module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        for hook in hooks:
            hook.remove()
        if all(map(torch.equal, before, _drawn(device))):
            return None
        with evaluating(model):
            again = module(*args, **kwargs)
        _IS_RANDOM[model] = not _is_alike(_first(out), _first(again))
        if not _IS_RANDOM[model]:  # drawn for a layer that might have been left out, and was not
            return None
        warnings.warn(
            f"{type(base).__name__} is random in train mode, which RL cannot be: it is trained in "
            "eval mode, where transformers does not checkpoint",
            stacklevel=2,
        )
        model.eval()
        return again

    hooks.append(core.register_forward_pre_hook(begin))
    hooks.append(core.register_forward_hook(end, with_kwargs=True))
    return hooks


def _drawn(device: torch.device) -> list[Tensor]:
    """How far the generators are that a pass may draw from."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def _first(out: Any) -> Tensor | None:
    """States or logits, in whatever a model returns."""
    names = ("last_hidden_state", "logits")
    found = next((getattr(out, name) for name in names if hasattr(out, name)), out)
    found = found[0] if isinstance(found, list | tuple) and found else found
    return found.detach() if isinstance(found, Tensor) else None


def _is_alike(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return False
    return bool((one - other).abs().max() <= 1e-3 * other.abs().max())
