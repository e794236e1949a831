"""LoRA adapters in PEFT's layout, read as experts over a base (arXiv 2106.09685).

Names are `base_model.model.<module>.lora_A.weight`; modules that were trained whole lie beside
them under their own names.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._checkpoint import ADAPTER, Checkpoint, Weight, read_json
from ._headers import Entry, Header, read_header
from ._sources import Adapted, Source, Stored

_PART = re.compile(r"^(.*)\.lora_(embedding_)?([AB])(\.default)?(\.weight)?$")
_REFUSED = ("use_dora", "megatron_config", "layer_replication", "use_qalora", "arrow_config")


@dataclass(frozen=True, slots=True)
class LowRank:
    """The update of one weight: scaling * up @ down, turned around if `transposed`."""

    down: Entry
    up: Entry
    scaling: float
    transposed: bool

    @property
    def num_bytes(self) -> int:
        """Stored bytes."""
        return self.down.num_bytes + self.up.num_bytes

    def open(self, base: Weight) -> Source:
        """Open base and update."""
        return Adapted(
            base.open(), Stored.of(self.down), Stored.of(self.up),
            scaling=self.scaling, transposed=self.transposed,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Adapter:
    """An expert that is an adapter: low-rank updates of some weights of the base."""

    folder: Path
    headers: tuple[Header, ...]
    updates: dict[str, LowRank]
    """By the base's tensor name."""
    whole: dict[str, Weight]
    """Weights that were trained whole, by the base's tensor name."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a LoRA adapter."""
    return (folder / ADAPTER).is_file()


def read_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Read an adapter's headers, and check each update against the base's shapes.

    Raises:
        FileNotFoundError: There are no adapter weights.
        ValueError: The adapter does not fit the base, or is of a kind that is not understood.
    """
    settings = read_json(folder / ADAPTER)
    if settings.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"{folder}: peft_type must be LORA, got {settings['peft_type']}")
    for name in _REFUSED:
        if settings.get(name):
            raise ValueError(f"{folder}: adapters with {name} are not understood: merge it first")
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"an adapter folder must hold {file.name}, none in {folder}")
    header = read_header(file)
    parts: dict[str, dict[str, Entry]] = {}
    whole: dict[str, Weight] = {}
    for entry in header.entries:
        found = _PART.match(entry.name)
        if found:
            side = ("E" if found[2] else "") + found[3]
            parts.setdefault(_plain(found[1]), {})[side] = entry
        else:
            whole[_base_name(_plain(entry.name), base, folder)] = Weight(entry)
    updates = {}
    for module, sides in parts.items():
        name = _base_name(f"{module}.weight", base, folder)
        updates[name] = _low_rank(module, sides, settings, base.weights[name], folder)
    if not updates and not whole:
        raise ValueError(f"{file} must hold lora_A and lora_B tensors, none found")
    return Adapter(folder, (header,), updates, whole)


def _plain(name: str) -> str:
    name = name.removeprefix("base_model.model.")
    return (
        name.replace(".modules_to_save.default", "")
        .replace(".modules_to_save", "")
        .replace(".base_layer", "")
    )


def _base_name(name: str, base: Checkpoint, folder: Path) -> str:
    for candidate in (name, f"model.{name}", name.removeprefix("model.")):
        if candidate in base.weights:
            return candidate
    raise ValueError(f"{folder}: {name} must be a tensor of the base {base.folder}, is not")


def _low_rank(
    module: str, sides: dict[str, Entry], settings: dict[str, Any], base: Weight, folder: Path
) -> LowRank:
    embedding = "EA" in sides or "EB" in sides
    down, up = (sides.get(side) for side in (("EA", "EB") if embedding else ("A", "B")))
    if down is None or up is None:
        raise ValueError(f"{folder}: {module} must have both lora_A and lora_B")
    transposed = embedding or bool(settings.get("fan_in_fan_out"))
    rank = down.shape[0] if len(down.shape) == 2 else -1
    shape = (up.shape[0], down.shape[-1]) if len(up.shape) == 2 else ()
    if (
        rank < 1 or len(up.shape) != 2 or up.shape[1] != rank
        or (shape[::-1] if transposed else shape) != base.shape
    ):  # fmt: skip
        raise ValueError(
            f"{folder}: lora_A {list(down.shape)} and lora_B {list(up.shape)} of {module} must "
            f"make the base's {list(base.shape)}"
        )
    alpha = _pattern(settings.get("alpha_pattern"), module, settings.get("lora_alpha", rank))
    said = _pattern(settings.get("rank_pattern"), module, settings.get("r", rank))
    if said != rank:
        raise ValueError(f"{folder}: {module} must have rank {said}, has {rank}")
    divisor = math.sqrt(rank) if settings.get("use_rslora") else rank
    return LowRank(down, up, alpha / divisor, transposed)


def _pattern(patterns: Any, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that ends the module's name, after a dot, decides."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
