"""Read the headers of safetensors files, and believe nothing in them.

What always holds for a header that was read:

- it lies wholly inside the file, and no name occurs twice;
- every tensor has a known dtype, and exactly the bytes that its shape needs;
- the tensors fill the file from the header to its end, without a gap or an overlap.

Layout (safetensors README): 8 bytes little-endian length, that many bytes of JSON, the data.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of one element, by safetensors dtype."""
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one tensor lies: in a file, or in memory."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    """Of a tensor in memory: whose it is, for messages."""
    begin: int
    """First byte, counted from the start of the file."""
    memory: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Number of bytes."""
        return self.size * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Header:
    """What one safetensors file holds."""

    file: Path
    entries: tuple[Entry, ...]
    """In the order of their bytes."""
    metadata: dict[str, str]
    file_bytes: int
    digest: str
    """SHA-256 of the header: names, dtypes, shapes and offsets."""


def read_header(file: Path) -> Header:
    """Read one file's header, and check it against the file's length.

    Raises:
        ValueError: The file is not a whole safetensors file; the message says in what.
    """
    file_bytes = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(_MAX_HEADER_BYTES, file_bytes - 8):
            raise _broken(file, f"its header of {length} bytes does not fit in {file_bytes} bytes")
        text = opened.read(length)
    try:
        found = json.loads(text, object_pairs_hook=_no_duplicates)
        if not isinstance(found, dict):
            raise ValueError(f"its header is {type(found).__name__}, not an object")
        metadata = found.pop("__metadata__", {}) or {}
        if not isinstance(metadata, dict):
            raise ValueError(f"its metadata is {type(metadata).__name__}, not an object")
        entries = [_entry(file, name, fields, 8 + length) for name, fields in found.items()]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _broken(file, str(error)) from error
    entries.sort(key=lambda entry: (entry.begin, entry.num_bytes))
    place = 8 + length
    for entry in entries:
        if entry.begin != place:
            raise _broken(file, f"{entry.name} begins at byte {entry.begin}, expected {place}")
        place += entry.num_bytes
    if place != file_bytes:
        raise _broken(file, f"its tensors end at byte {place}, the file at {file_bytes}")
    metadata = {str(key): str(value) for key, value in metadata.items()}
    return Header(file, tuple(entries), metadata, file_bytes, hashlib.sha256(text).hexdigest())


def header_bytes(
    tensors: list[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]
) -> tuple[bytes, list[int]]:
    """Build the header of a file that holds (name, dtype, shape) in this order.

    Returns:
        The bytes before the data, padded so that the data begin at a multiple of 8, and where each
        tensor begins in the file.
    """
    fields: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    place, begins = 0, []
    for name, dtype, shape in tensors:
        end = place + math.prod(shape) * ITEM_BYTES[dtype]
        fields[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, end]}
        begins.append(place)
        place = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, [len(head) + begin for begin in begins]


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} occurs twice in its header")
    return found


def _entry(file: Path, name: str, fields: Any, data_begin: int) -> Entry:
    dtype, shape = fields["dtype"], tuple(fields["shape"])
    begin, end = fields["data_offsets"]
    if dtype not in ITEM_BYTES:
        raise ValueError(f"{name} has dtype {dtype}, known are {', '.join(ITEM_BYTES)}")
    if not all(type(size) is int and size >= 0 for size in (*shape, begin, end)):
        raise ValueError(f"{name} must have sizes and offsets that are whole and not negative")
    entry = Entry(name, dtype, shape, file, data_begin + begin)
    if end - begin != entry.num_bytes:
        raise ValueError(
            f"{name} needs {entry.num_bytes} bytes for {dtype} {list(shape)}, has {end - begin}"
        )
    return entry


def _broken(file: Path, what: str) -> ValueError:
    return ValueError(f"{file} must be a whole safetensors file: {what}")
