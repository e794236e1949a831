"""What a checkpoint folder holds, from its headers, index and config alone.

What always holds for a checkpoint that was opened:

- the index, if there is one, and the shards name the same tensors in the same places;
- no tensor lies in two shards, and no shard is left over;
- the scales of FP8 weights are parts of their weights, never tensors of their own.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ._headers import Entry, Header, read_header
from ._kinds import kind_of
from ._numbers import FLOATS, FP8_MAX
from ._sources import BlockScaled, Source, Stored, matrix_shape

INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_NUMBERED = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
_SCALE_SUFFIXES = ("_scale_inv", "_scale")
_SCALE_LEAVES = (".scale", ".scale_inv", ".scale_weight")
"""What stands in place of `.weight`."""
_OTHER_SCALES = ("input", "output", "act", "k_", "v_")
"""Scales of what flows through, not of weights."""
_BLOCK = 128  # of DeepSeek-V3 and LongCat-Flash, where the config does not say


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor as a model sees it: its values, and the scales of its blocks if it has any."""

    values: Entry
    scales: Entry | None = None
    block: tuple[int, int] = (1, 1)

    @property
    def name(self) -> str:
        return self.values.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> str:
        return self.values.dtype

    @property
    def num_bytes(self) -> int:
        """Stored bytes, scales included."""
        return self.values.num_bytes + (self.scales.num_bytes if self.scales else 0)

    def open(self) -> Source:
        """Open the files that hold it."""
        values = Stored.of(self.values)
        if self.scales is None:
            return values
        return BlockScaled(values, Stored.of(self.scales), self.block)


_INTEGERS = {"U8", "I8", "I32", "U32"}
_PACKED = (".weight", ".qweight", ".weight_packed", "_blocks", ".weight_q")
"""How GPTQ, AWQ, bitsandbytes, compressed-tensors, MXFP4 and HQQ call what they pack."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The weights of one folder."""

    folder: Path
    headers: tuple[Header, ...]
    weights: dict[str, Weight]
    """By name, in the order of files and bytes."""
    config: dict[str, Any]
    """`config.json`, empty without one."""
    has_index: bool
    left_out: tuple[str, ...] = field(default=())
    """Weight files beside the index that other loaders ignore too."""

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read and check a folder's headers.

        Raises:
            FileNotFoundError: There is no folder, or no checkpoint in it.
            ValueError: Index, shards and config do not fit together.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"a checkpoint must be a folder, none at {folder}")
        config = read_json(folder / "config.json")
        index_file = folder / INDEX
        found = sorted(folder.glob("*.safetensors"))
        if index_file.exists():
            headers, left_out = _indexed(folder, found, read_json(index_file))
        else:
            found, left_out = _unindexed(folder, found)
            headers = [read_header(file) for file in found]
        if not headers:
            raise FileNotFoundError(
                f"a checkpoint folder must hold *.safetensors, none in {folder}"
            )
        entries = _unique([entry for header in headers for entry in header.entries])
        if not entries:
            raise ValueError(f"a checkpoint must hold tensors, has none: {folder}")
        _refuse_packed(entries, config, folder)
        weights = _pair_scales(entries, config, folder)
        return cls(folder, tuple(headers), weights, config, index_file.exists(), left_out)

    @classmethod
    def in_memory(cls, label: str, entries: dict[str, Entry]) -> Checkpoint:
        """Take tensors that lie in memory."""
        weights = _pair_scales(entries, {}, Path(label))
        return cls(Path(label), (), weights, {}, has_index=False)

    @property
    def is_tied(self) -> bool | None:
        """Whether the config says that the head is the embedding; None if it does not say."""
        value = self.config.get("tie_word_embeddings")
        return value if isinstance(value, bool) else None

    def embedding_for(self, head: Weight) -> Weight | None:
        """The embedding table that a tied head of this shape would be."""
        found = [
            weight
            for weight in self.weights.values()
            if kind_of(weight.name) == "embedding" and weight.shape[1:] == head.shape[1:]
        ]
        return found[0] if len(found) == 1 else None


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty where there is no file.

    Raises:
        ValueError: The file holds something else.
    """
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} must be JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} must hold a JSON object, got {type(found).__name__}")
    return found


def _indexed(
    folder: Path, found: list[Path], index: dict[str, Any]
) -> tuple[list[Header], tuple[str, ...]]:
    homes = index.get("weight_map")
    if not isinstance(homes, dict) or not all(isinstance(home, str) for home in homes.values()):
        raise ValueError(f"{folder / INDEX} must have a weight_map from tensors to files")
    names = sorted(set(homes.values()))
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{folder / INDEX} names {name}, which is not a file in {folder}")
    spare = [file.name for file in found if file.name not in names]
    left_out = tuple(name for name in spare if name.startswith("consolidated"))
    if len(spare) > len(left_out):
        odd = next(name for name in spare if name not in left_out)
        raise ValueError(f"{folder / odd} is not in the index {INDEX}: move it away, or index it")
    headers = [read_header(folder / name) for name in names]
    stored = {entry.name: header.file.name for header in headers for entry in header.entries}
    for name in sorted(set(homes) | set(stored)):
        if homes.get(name) != stored.get(name):
            raise ValueError(
                f"{folder}: index and shards must agree on {name}: the index says "
                f"{homes.get(name, 'nothing')}, the shards {stored.get(name, 'nothing')}"
            )
    return headers, left_out


def _unindexed(folder: Path, found: list[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """Weight files without an index: `model.safetensors` alone if it is there, else all."""
    names = [file.name for file in found]
    if "model.safetensors" in names:
        return [folder / "model.safetensors"], tuple(n for n in names if n != "model.safetensors")
    numbered = [match for name in names if (match := _NUMBERED.search(name))]
    for match in numbered:
        if len(numbered) != int(match[2]):
            raise ValueError(
                f"{folder} must have all shards of {match.string}, has {len(numbered)} and no index"
            )
    return found, ()


def _unique(entries: list[Entry]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in found:
            raise ValueError(
                f"{entry.name} must lie in one shard, found in {found[entry.name].file} "
                f"and {entry.file}"
            )
        found[entry.name] = entry
    return found


def _pair_scales(
    entries: dict[str, Entry], config: dict[str, Any], folder: Path
) -> dict[str, Weight]:
    weights: dict[str, Weight] = {}
    scales: set[str] = set()
    for name, entry in entries.items():
        if entry.dtype not in FP8_MAX:
            continue
        scale = _scale_of(name, entries, folder)
        if scale is not None:
            scales.add(scale.name)
            weights[name] = Weight(entry, scale, _block(entry, scale, config, folder))
    return {
        name: weights.get(name, Weight(entry))
        for name, entry in entries.items()
        if name not in scales
    }


def _scale_of(name: str, entries: dict[str, Entry], folder: Path) -> Entry | None:
    """The scales of an FP8 weight; None if it has none."""
    stem = name.removesuffix(".weight")
    names = [*(name + s for s in _SCALE_SUFFIXES), *(stem + s for s in _SCALE_LEAVES)]
    found = next((entries[one] for one in names if one in entries), None)
    if found is None:
        odd = [
            other for other in entries
            if other != name and other.startswith((f"{name}.", f"{name}_", f"{stem}."))
            and "scale" in (leaf := other[len(stem) + 1 :]) and not leaf.startswith(_OTHER_SCALES)
        ]  # fmt: skip
        if odd:
            raise ValueError(
                f"{folder}: {odd[0]} must be called {' or '.join(names)} to be the scales of {name}"
            )
    elif found.dtype not in FLOATS:
        raise ValueError(
            f"{folder}: {found.name} must be {', '.join(FLOATS)} to be scales, is {found.dtype}"
        )
    return found


def _refuse_packed(entries: dict[str, Entry], config: dict[str, Any], folder: Path) -> None:
    """Refuse weights that are integers with scales beside them, which do not merge as numbers."""
    method = config.get("quantization_config")
    method = method.get("quant_method") if isinstance(method, dict) else None
    for name, entry in entries.items():
        if entry.dtype in _INTEGERS and len(entry.shape) > 1 and name.endswith(_PACKED):
            raise ValueError(
                f"{folder}: {name} is packed as {entry.dtype}"
                + (f" by {method}" if method else "")
                + "; only FP8 is unpacked here: convert the checkpoint to bf16 first"
            )


def _block(entry: Entry, scale: Entry, config: dict[str, Any], folder: Path) -> tuple[int, int]:
    """Rows and columns that share a scale: as the config says, else what the shapes say."""
    rows, columns = matrix_shape(entry.shape)
    quantisation = config.get("quantization_config")
    said = quantisation.get("weight_block_size") if isinstance(quantisation, dict) else None
    choices = [(_BLOCK, _BLOCK), (rows, columns), (1, columns)]
    if isinstance(said, list) and len(said) == 2 and all(type(n) is int and n > 0 for n in said):
        choices.insert(0, (said[0], said[1]))
    if len(scale.shape) == 2:
        choices.append((-(-rows // max(scale.shape[0], 1)), -(-columns // max(scale.shape[1], 1))))
    for down, across in choices:
        grid = (-(-rows // max(down, 1)), -(-columns // max(across, 1)))
        shapes: list[tuple[int, ...]] = [grid, (grid[0],)] if grid[1] == 1 else [grid]
        if grid == (1, 1):
            shapes.append(())
        if scale.shape in shapes:
            return down, across
    raise ValueError(
        f"{folder}: {scale.name} {list(scale.shape)} must hold one scale for each block of "
        f"{entry.name} {list(entry.shape)}"
    )
