"""What a model can take: which tokens, and how long a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from ._adapters import base_model
from ._attempts import check_samples, check_tokens
from ._config import TrainerConfig
from ._samples import Sample
from ._tensors import num_words


class Longest(NamedTuple):
    """A number of tokens, and what happens beyond."""

    num_tokens: int
    why: str

    def refuse(self, num: int, what: str) -> None:
        """Refuse what is longer.

        Raises:
            ValueError: It is.
        """
        if num > self.num_tokens:
            raise ValueError(
                f"{what} must be of at most {self.num_tokens} tokens, got {num}: {self.why}"
            )


def check_batch(samples: Sequence[Sample], config: TrainerConfig, model: nn.Module) -> None:
    """Check a batch as `check_samples` does, and that the model can take its lengths.

    Raises:
        ValueError: It cannot, or see `check_samples`.
    """
    check_samples(samples, config, num_words(model))
    _check_lengths(samples, model)


def check_texts(samples: Sequence[Sample], model: nn.Module) -> None:
    """Check what is learned without rewards: tokens, masks and lengths.

    Raises:
        ValueError: One is not what the model can take.
    """
    check_tokens(samples, num_words(model))
    _check_lengths(samples, model)


def _check_lengths(samples: Sequence[Sample], model: nn.Module) -> None:
    most = longest(model)
    if most is None:
        return
    for number, sample in enumerate(samples):
        most.refuse(len(sample.token_ids), f"sample {number}")


def longest(model: nn.Module) -> Longest | None:
    """How long a sequence may be, where its model says so."""
    base = base_model(model)
    config: Any = getattr(base, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    own = getattr(text, "max_position_embeddings", None)
    found = [_of_rope(text, rope, own) for rope in _ropes(text)]
    if isinstance(own, int) and _has_table(base, own):
        found.append(Longest(own, "the model has no more positions"))
    return min((one for one in found if one is not None), default=None)


def _ropes(text: Any) -> list[dict[str, Any]]:
    """Parameters of rotary positions, under the name of now or of before; of each kind of layer."""
    names = ("rope_parameters", "rope_scaling")
    given = next((found for name in names if (found := getattr(text, name, None))), None)
    if not isinstance(given, dict):
        return []
    of_kinds = [rope for rope in given.values() if isinstance(rope, dict)]
    return of_kinds or [given]


def _of_rope(text: Any, rope: dict[str, Any], own: Any) -> Longest | None:
    """Where the longest row decides on the positions of all rows beside it."""
    kind = str(rope.get("rope_type", rope.get("type")))
    if kind in ("longrope", "su"):
        name = "original_max_position_embeddings"
        own = rope.get(name) or getattr(text, name, None) or own
    elif "dynamic" not in kind:
        return None
    why = f"with rope_type {kind!r} a longer one changes the positions of all others in its batch"
    return Longest(own, why) if isinstance(own, int) else None


def _has_table(base: nn.Module, most: int) -> bool:
    """Whether there is one with a row for each position; some keep two more, for padding."""
    return any(
        isinstance(module, nn.Embedding)
        and any(part in name.rpartition(".")[2] for part in ("position", "wpe"))
        and 0 <= module.num_embeddings - most <= 2
        for name, module in base.named_modules()
    )
