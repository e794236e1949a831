"""Will it work? How the task vectors of the experts lie to each other, from one pass over files.

The sums are of tensors; layers, kinds and the whole are sums of these. What the figures mean:

    cosine         of the angle between two task vectors: 0 orthogonal, 1 alike, -1 opposed
    overlap        of the elements that either of two experts moved, the share that both did
    sign conflict  of the elements that both moved, the share moved in opposite directions
    unchanged      share of the elements that an expert left as they were
    cancelled      of the absolute change of all experts, the share that a sum takes away
    lost           of the elements that the mean of the experts changes, the share that rounding
                   to the stored dtype puts back
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from ._config import MergeConfig
from ._engine import TensorTask
from ._kinds import kind_of, layer_of
from ._numbers import FLOATS, decode, encode
from ._plan import fit_memory, read_inputs, tasks_of
from ._sources import Source
from ._view import Sums, View

CANCELLED = (0.15, 0.3)
"""Up to the first, merging is likely to work, from the second unlikely. Three dense unrelated task
vectors cancel 0.42, two 0.29; disjoint ones nothing."""
FAR = 0.5
"""A task vector of this share of the base's norm is no expert of this base."""
UNEVEN = 10.0
"""Between the largest and the smallest norm: the small one drowns unless norms are evened out."""
LOST = 0.5
"""Share of updates lost to rounding from which a mean in this dtype is no mean."""


@dataclass(slots=True)
class Tally:
    """Additive figures of some tensors."""

    size: int = 0
    base_square: float = 0.0
    squares: list[float] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    dots: list[float] = field(default_factory=list)
    """By pair of experts, (0, 1), (0, 2), ..., as the next two."""
    both: list[int] = field(default_factory=list)
    opposed: list[int] = field(default_factory=list)
    absolute: float = 0.0
    absolute_of_sum: float = 0.0
    mean_moved: int = 0
    mean_lost: int = 0

    def add(self, other: Tally) -> None:
        """Add the figures of other tensors."""
        for name in ("squares", "moved", "dots", "both", "opposed"):
            mine, more = getattr(self, name), getattr(other, name)
            setattr(self, name, [a + b for a, b in zip(mine, more, strict=True)] if mine else more)
        for name in ("size", "base_square", "absolute", "absolute_of_sum", "mean_moved",
                     "mean_lost"):  # fmt: skip
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def figures(self) -> dict[str, Any]:
        """The figures that people read, as plain data."""
        norms = [math.sqrt(square) for square in self.squares]
        pairs = list(combinations(range(len(norms)), 2))
        lengths = [norms[i] * norms[j] for i, j in pairs]
        either = [
            self.moved[i] + self.moved[j] - both
            for (i, j), both in zip(pairs, self.both, strict=True)
        ]
        moved = [norm for norm in norms if norm > 0]
        base = math.sqrt(self.base_square)
        return {
            "elements": self.size,
            "norm": norms,
            "relative_norm": [norm / base if base else 0.0 for norm in norms],
            "norm_ratio": max(moved) / min(moved) if moved else 1.0,
            "unchanged": [1 - count / self.size if self.size else 1.0 for count in self.moved],
            "cosine": [d / length if length else 0.0
                       for d, length in zip(self.dots, lengths, strict=True)],
            "overlap": [_share(b, e) for b, e in zip(self.both, either, strict=True)],
            "sign_conflict": [_share(o, b) for o, b in zip(self.opposed, self.both, strict=True)],
            "cancelled": 1 - self.absolute_of_sum / self.absolute if self.absolute else 0.0,
            "lost": _share(self.mean_lost, self.mean_moved),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interference:
    """The report on a set of experts."""

    experts: tuple[str, ...]
    tensors: dict[str, Tally]

    def total(self) -> Tally:
        """All tensors together."""
        return _sum(self.tensors.values())

    def by(self, group: Callable[[str], Any]) -> dict[Any, Tally]:
        """Tensors together by a key of their name; without those of key None."""
        keys = sorted({key for name in self.tensors if (key := group(name)) is not None})
        return {key: _sum(t for n, t in self.tensors.items() if group(n) == key) for key in keys}

    def verdict(self) -> tuple[str, list[str]]:
        """`likely`, `uncertain` or `unlikely` to work, and why.

        The bounds are rules of thumb, stated above and in the report; they were not fitted to
        trained models.
        """
        return verdict_of(self.total().figures(), self.experts)

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain data."""
        word, reasons = self.verdict()
        return {
            "experts": list(self.experts),
            "pairs": [list(pair) for pair in combinations(self.experts, 2)],
            "verdict": word,
            "reasons": reasons,
            "bounds": {"cancelled": list(CANCELLED), "relative_norm": FAR, "norm_ratio": UNEVEN,
                       "lost": LOST},
            "total": self.total().figures(),
            "layers": {str(k): t.figures() for k, t in self.by(layer_of).items()},
            "kinds": {kind: tally.figures() for kind, tally in self.by(kind_of).items()},
            "tensors": {name: tally.figures() for name, tally in self.tensors.items()},
        }  # fmt: skip


def verdict_of(figures: dict[str, Any], experts: Sequence[str]) -> tuple[str, list[str]]:
    """Judge the figures of the whole; see `Interference.verdict`."""
    reasons, word = [], "likely"
    if figures["cancelled"] >= CANCELLED[0]:
        word = "unlikely" if figures["cancelled"] >= CANCELLED[1] else "uncertain"
        reasons.append(
            f"{figures['cancelled']:.0%} of the experts' change cancels: they want opposite things "
            "of the same weights; distillation from all of them does not have this limit"
        )
    for expert, norm in zip(experts, figures["relative_norm"], strict=True):
        if norm >= FAR:
            word = "unlikely"
            reasons.append(
                f"{expert} is {norm:.0%} of the base's norm away from it: is it an expert of "
                "this base?"
            )
    if figures["norm_ratio"] >= UNEVEN:
        word = "uncertain" if word == "likely" else word
        reasons.append(
            f"the largest task vector is {figures['norm_ratio']:.0f} times the smallest, which "
            "drowns unless norms are evened out (the recipe's normalise)"
        )
    if figures["lost"] >= LOST:
        word = "uncertain" if word == "likely" else word
        reasons.append(
            f"rounding would put back {figures['lost']:.0%} of what a mean changes: add instead "
            "of averaging, round stochastically, or write F32"
        )
    for expert, share in zip(experts, figures["unchanged"], strict=True):
        if share == 1:
            reasons.append(f"{expert} is equal to the base")
    return word, reasons or ["the experts move different weights, or the same ones alike"]


def interference(
    base: str | Path,
    experts: Sequence[str | Path],
    *,
    config: MergeConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Interference:
    """Measure how the experts interfere; nothing is written.

    Args:
        base: Folder of the start that the experts share.
        experts: Their folders.
        config: Options for what fits together, memory and threads; the method does not matter.
        progress: Told the tensors done and their number.

    Raises:
        FileNotFoundError: A folder holds no checkpoint.
        ValueError: The checkpoints do not fit together, or a value is not finite.
    """
    config = config or MergeConfig(method="task_arithmetic")
    paths = [Path(path) for path in experts]
    start, others, labels = read_inputs(Path(base), paths)
    tasks, _ = tasks_of(start, others, labels, config)
    threads, tile_size, _ = fit_memory(tasks, config)
    tasks = [task for task in tasks if task.match.experts and task.match.base.dtype in FLOATS]
    names = unique_names(paths)
    found: dict[str, Tally] = {}
    with ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(_measure, task, tile_size): task for task in tasks}
        for future in as_completed(running):
            found[running[future].name] = future.result()
            if progress:
                progress(len(found), len(tasks))
    return Interference(tuple(names), {task.name: found[task.name] for task in tasks})


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Short names of folders, told apart by a number where they are equal."""
    names = [path.resolve().name for path in paths]
    return [
        name if names.count(name) == 1 else f"{name} ({number})"
        for number, name in enumerate(names)
    ]


def _measure(task: TensorTask, tile_size: int) -> Tally:
    sources: list[Source] = []
    try:
        sources.append(task.match.base_open())
        sources.extend(part.open() for part in task.match.experts)
        view = View(
            task.name, sources[0], sources[1:], weights=[1.0] * (len(sources) - 1),
            tile_size=tile_size, hashes=False,
        )  # fmt: skip
        return _tally(view, task.match.base.dtype)
    finally:
        for source in sources:
            source.close()


def _tally(view: View, dtype: str) -> Tally:
    count = view.num_experts
    pairs = list(combinations(range(count), 2))
    squares, dots, others = Sums(count), Sums(len(pairs)), Sums(3)
    tally = Tally(
        size=view.size, moved=[0] * count, both=[0] * len(pairs), opposed=[0] * len(pairs)
    )
    for tile in view.tiles():
        others.add(0, tile.base * tile.base)
        deltas = tile.deltas()
        moved = [delta != 0 for delta in deltas]
        total = np.zeros_like(tile.base)
        for i, delta in enumerate(deltas):
            squares.add(i, delta * delta)
            others.add(1, np.abs(delta))
            tally.moved[i] += int(np.count_nonzero(moved[i]))
            total += delta
        for place, (i, j) in enumerate(pairs):
            dots.add(place, deltas[i] * deltas[j])
            both = moved[i] & moved[j]
            tally.both[place] += int(np.count_nonzero(both))
            both &= np.signbit(deltas[i]) != np.signbit(deltas[j])
            tally.opposed[place] += int(np.count_nonzero(both))
        others.add(2, np.abs(total))
        if dtype in ("BF16", "F16", "F32"):
            changes = total != 0
            stored = decode(encode(tile.base + total / count, dtype), dtype)
            tally.mean_moved += int(np.count_nonzero(changes))
            tally.mean_lost += int(np.count_nonzero(changes & (stored == tile.base)))
    tally.squares, tally.dots = squares.totals(), dots.totals()
    tally.base_square, tally.absolute, tally.absolute_of_sum = others.totals()
    return tally


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.add(tally)
    return total


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
