"""Find, for each tensor of the base, what every expert has for it.

This is where checkpoints may differ in form: an adapter, a tied head, a table with more rows. All
is decided from headers and configs; an option decides where there is a choice, and without it the
difference is an error that names the tensor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ._adapters import Adapter
from ._checkpoint import Checkpoint, Weight
from ._config import MergeConfig
from ._headers import Entry
from ._kinds import kind_of
from ._numbers import FLOATS
from ._sources import Extended, Source, Stored

Expert = Checkpoint | Adapter
_PART_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class Input:
    """What one checkpoint has for one tensor."""

    open: Callable[[], Source]
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int
    memory_bytes: int = 0
    """What is held in memory while it is open."""
    stored: Weight | None = None
    """Where it is a plain weight: that weight."""


@dataclass(frozen=True, slots=True)
class Match:
    """One tensor of the result, and where it comes from."""

    name: str
    base: Weight
    base_open: Callable[[], Source]
    experts: tuple[Input, ...]
    """Empty for a tensor that is copied."""
    shape: tuple[int, ...]


class Matcher:
    """Goes through the tensors of the base; collects errors and notes on the way."""

    def __init__(
        self, base: Checkpoint, experts: Sequence[Expert], labels: Sequence[str],
        config: MergeConfig,
    ) -> None:  # fmt: skip
        self.base, self.experts, self.labels, self.config = base, experts, labels, config
        self.notes: list[str] = []
        self._unlike: Counter[tuple[str, str, str]] = Counter()
        self.longest: Expert | None = None
        """The expert whose longer table decides the length, if one does."""

    def all_notes(self) -> list[str]:
        """What was found to differ and is no mistake."""
        return self.notes + [
            f"{label}: {count} tensors are {dtype} where the base has {wanted}"
            for (label, dtype, wanted), count in self._unlike.items()
        ]

    def targets(self) -> dict[str, Weight]:
        """The tensors of the result by name, each with the base's weight that it starts from."""
        targets = dict(self.base.weights)
        for label, expert in zip(self.labels, self.experts, strict=True):
            for name in self._extra(expert):
                head = _head_of(expert, name)
                table = self.base.embedding_for(head) if head else None
                if head and table and not self._is_settled(expert, head, label):
                    targets[name] = table
        return targets

    def check_names(self, copied: Callable[[str], bool]) -> None:
        """Refuse tensors that an expert lacks or has too many.

        Raises:
            ValueError: Names differ, and no option says what to do.
        """
        for label, expert in zip(self.labels, self.experts, strict=True):
            if isinstance(expert, Adapter):
                continue
            missing = [
                name
                for name, weight in self.base.weights.items()
                if name not in expert.weights
                and not copied(name)
                and self._tied_table(expert, weight) is None
            ]
            extra = [name for name in self._extra(expert) if _head_of(expert, name) is None]
            if self.config.extra == "leave_out" and extra:
                self.notes.append(f"{label}: left out {_some(extra)}, which the base has not")
                extra = []
            odd = sorted(missing + extra)
            if odd:
                what = " and ".join(
                    f"{word} {len(names)}"
                    for word, names in (("lacks", missing), ("has too many", extra))
                    if names
                )
                raise ValueError(
                    f"{label} must have the base's {len(self.base.weights)} tensors, differs in "
                    f"{_some(odd)} ({what})"
                )

    def match(self, name: str, start: Weight, *, copied: bool) -> Match:
        """Find what everyone has for one tensor.

        Raises:
            ValueError: A shape or a dtype does not fit; the message names the tensor.
        """
        if copied:
            return Match(name, start, start.open, (), start.shape)
        found = [self._input(expert, name, start) for expert in self.experts]
        for label, part in zip(self.labels, found, strict=True):
            floats = part.dtype in FLOATS, start.dtype in FLOATS
            if floats[0] != floats[1] or (not floats[0] and part.dtype != start.dtype):
                raise ValueError(
                    f"{name}: {label} must hold numbers of the base's kind {start.dtype}, "
                    f"got {part.dtype}"
                )
            if part.dtype != start.dtype:
                self._unlike[label, part.dtype, start.dtype] += 1
        shapes = {part.shape for part in found}
        if shapes <= {start.shape}:
            return Match(name, start, start.open, tuple(found), start.shape)
        return self._resize(name, start, found)

    def _input(self, expert: Expert, name: str, start: Weight) -> Input:
        if isinstance(expert, Adapter):
            name = name if name in self.base.weights else start.name
            if name in expert.updates:
                update = expert.updates[name]
                rank_bytes = 8 * (update.down.size + update.up.size)
                return Input(
                    lambda: update.open(start),
                    start.shape,
                    start.dtype,
                    update.num_bytes + start.num_bytes,
                    rank_bytes,
                )
            weight: Weight | None = expert.whole.get(name, start)
        else:
            weight = expert.weights.get(name)
            if weight is None and kind_of(name) == "head":
                weight = expert.embedding_for(start)
        assert weight is not None, f"{name} passed check_names"
        scales = 8 * weight.scales.size if weight.scales else 0
        return Input(weight.open, weight.shape, weight.dtype, weight.num_bytes, scales, weight)

    def _resize(self, name: str, start: Weight, found: Sequence[Input]) -> Match:
        """Bring tables of different lengths to one, by the policy for vocabularies."""
        for label, part in zip(self.labels, found, strict=True):
            if not _may_resize(name, part.shape, start.shape):
                raise ValueError(
                    f"{name}: every expert must have the base's shape {start.shape}, "
                    f"{label} has {part.shape}"
                )
            if part.shape != start.shape and self.config.vocabulary == "refuse":
                raise ValueError(
                    f"{name}: every expert must have the base's shape {start.shape}, {label} has "
                    f"{part.shape}; vocabulary='base' keeps the base's rows, 'longest' all rows"
                )
        rows = start.shape[0]
        if self.config.vocabulary == "longest":
            lengths = [part.shape[0] for part in found]
            if max(lengths) > rows:
                rows = max(lengths)
                self.longest = self.experts[lengths.index(rows)]
        shape = (rows, *start.shape[1:])
        longer = [part for part in found if part.shape[0] > start.shape[0]]

        def base_open() -> Source:
            return Extended(start.open(), shape, [part.open() for part in longer])

        inputs = tuple(_resized(part, shape, base_open) for part in found)
        return Match(name, start, base_open, inputs, shape)

    def _extra(self, expert: Expert) -> list[str]:
        if isinstance(expert, Adapter):
            return []
        return [name for name in expert.weights if name not in self.base.weights]

    def _tied_table(self, expert: Expert, weight: Weight) -> Weight | None:
        """The embedding of an expert whose head is tied, for the base's own head."""
        if isinstance(expert, Adapter) or kind_of(weight.name) != "head":
            return None
        return None if expert.is_tied is False else expert.embedding_for(weight)

    def _is_settled(self, expert: Expert, head: Weight, label: str) -> bool:
        """Whether a head that the tied base has not is left out; False to write it."""
        assert isinstance(expert, Checkpoint)
        table = expert.embedding_for(head)
        if table is not None and same_bytes(head, table):
            self.notes.append(f"{label}: {head.name} is a copy of {table.name}, left out")
            return True
        if self.config.head == "refuse":
            raise ValueError(
                f"{label} must have the base's {len(self.base.weights)} tensors, differs in "
                f"{head.name}: the base ties it to its embedding; head='untie' writes a head, "
                "head='drop' leaves it out"
            )
        self.notes.append(f"{label}: {head.name} over a tied base: {self.config.head}")
        return self.config.head == "drop"


def _head_of(expert: Expert, name: str) -> Weight | None:
    """The weight `name` of an expert, if it may be a head that its base has not."""
    if isinstance(expert, Adapter) or kind_of(name) != "head":
        return None
    head = expert.weights[name]
    return head if expert.embedding_for(head) else None


def _may_resize(name: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether the shapes are equal, or of tables that differ in their number of rows."""
    if shape == wanted:
        return True
    is_table = kind_of(name) in ("embedding", "head")
    return is_table and len(shape) == len(wanted) > 0 and shape[1:] == wanted[1:]


def _resized(part: Input, shape: tuple[int, ...], base_open: Callable[[], Source]) -> Input:
    if part.shape == shape:
        return part

    def opened() -> Source:
        return Extended(part.open(), shape, [base_open()])

    return Input(opened, shape, part.dtype, part.num_bytes, part.memory_bytes)


def same_bytes(one: Weight, other: Weight) -> bool:
    """Whether two plain weights have the same dtype, shape and bytes; reads both."""
    if (one.shape, one.dtype) != (other.shape, other.dtype) or one.scales or other.scales:
        return False
    return all(
        np.array_equal(*pair) for pair in zip(_parts(one.values), _parts(other.values), strict=True)
    )


def _parts(entry: Entry) -> Iterable[np.ndarray]:
    source = Stored.of(entry)
    try:
        for start in range(0, entry.size, _PART_BYTES):
            yield source.read_raw(start, min(start + _PART_BYTES, entry.size))
    finally:
        source.close()


def label_of(path: Path, number: int) -> str:
    """How messages call an expert."""
    return f"expert {number} ({path})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
