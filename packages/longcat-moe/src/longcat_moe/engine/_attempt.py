"""A step that may fail: what it gave, and who failed, the others unharmed.

- A step that raises is computed again conversation by conversation. What one of them brought in
  fails it alone; the others get the tokens that they would have got.
- A device that is lost (a CUDA error that stays) is no failure of a conversation: it is raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from longcat_moe._model import LongcatForCausalLM
from longcat_moe._packed import PackedExperts, PackedLinear

from ._scheduler import Work
from ._step import NotFiniteError, Outcome

Compute = Callable[[list[Work]], list[Outcome]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of a step."""

    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    failures: list[tuple[Work, Exception]] = field(default_factory=list[tuple[Work, Exception]])


def attempt(batch: list[Work], compute: Compute) -> Attempt:
    """Compute a batch, and each of it alone where that fails."""
    if not batch:
        return Attempt()
    try:
        return Attempt(compute(batch))
    except Exception as error:
        _raise_if_lost(error)
        if len(batch) == 1:
            return Attempt(failures=[(batch[0], error)])
    result = Attempt()
    for work in batch:
        work.conversation.rng.rewind()
        alone = attempt([work], compute)
        result.outcomes.extend(alone.outcomes)
        result.failures.extend(alone.failures)
    return result


def _raise_if_lost(error: Exception) -> None:
    if isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError):
        raise error


def explain(error: BaseException, model: LongcatForCausalLM | None) -> str:
    """Say why a conversation failed; of numbers that are none, where they come from."""
    if not isinstance(error, NotFiniteError) or model is None:
        return f"the request could not be computed: {error!r}"
    name = not_finite_weight(model)
    if name is None:
        dtype = model.model.embed_tokens.weight.dtype
        return f"logits must be finite, got NaN or infinity; no weight is: a state left {dtype}"
    return f"logits must be finite, got NaN or infinity, as the weight {name!r} holds"


def not_finite_weight(model: LongcatForCausalLM) -> str | None:
    """Return the name of the first weight that holds NaN or infinity; all of them are read."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear) and _is_odd(module.packed):
            return f"{name}.weight"
        if isinstance(module, PackedExperts):
            for kind, packed in (("gate_up_proj", module.gate_up), ("down_proj", module.down)):
                for expert, weight in enumerate(packed):
                    if _is_odd(weight):
                        return f"{name}.{kind}[{expert}]"
    return None


def _is_odd(packed: torch.Tensor) -> bool:
    return not bool(packed.to_dense().isfinite().all())
