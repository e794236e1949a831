"""Weights as trainers give them: bytes, or named arrays one by one; and their digest.

Arrays are torch tensors, numpy arrays, or anything that shows its memory (`array`, `memoryview`).
None of them is ever joined with another: each is read where it lies, and is given to whoever takes
it as what it was.
"""

# Neither library is there for every user:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

from longcat_dora._types import LongcatDoraError

_PART = 64 * 2**20
"""Bytes of weights that one thread digests."""


class Form(NamedTuple):
    """What the bytes of an array are to be read as."""

    name: str
    library: str
    """`torch`, `numpy`, or `memory`."""
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


class Shard(NamedTuple):
    """An array and its bytes; they are read before the next one is asked for."""

    form: Form
    data: memoryview


def is_plain(weights: Any) -> bool:
    """Whether weights are one stretch of bytes."""
    return isinstance(weights, (bytes, bytearray, memoryview))


def shards_of(weights: Any) -> Iterator[Shard]:
    """Yield the arrays of weights that are no bytes, one by one, as the trainer gives them.

    Raises:
        LongcatDoraError: They are neither a mapping nor pairs of a name and an array.
    """
    given = cast("Any", weights.items() if isinstance(weights, Mapping) else weights)
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise LongcatDoraError(f"they must be bytes or named arrays, got {weights!r:.80}")
    names: set[str] = set()
    for pair in cast("Iterable[Any]", given):
        is_pair = isinstance(pair, tuple) and len(cast("tuple[Any, ...]", pair)) == 2
        if not is_pair or not isinstance(pair[0], str):
            raise LongcatDoraError(f"they must be pairs of a name and an array, got {pair!r:.80}")
        name, value = cast("tuple[str, Any]", pair)
        if name in names:
            raise LongcatDoraError(f"each array must have a name of its own, {name!r} comes twice")
        names.add(name)
        try:
            shard = _shard(name, value)
        except (TypeError, ValueError, RuntimeError) as error:
            told = f"got {type(value).__name__}: {error}"
            raise LongcatDoraError(f"{name!r} must be an array, {told}") from error
        yield shard
    if not names:
        raise LongcatDoraError("they must hold an array, and hold none")


def _shard(name: str, value: Any) -> Shard:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        tensor: Any = value.detach().cpu().contiguous()
        data = memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Shard(Form(name, "torch", dtype, tuple(tensor.shape), data.nbytes), data)
    if numpy is not None and isinstance(value, numpy.ndarray):
        array: Any = numpy.ascontiguousarray(value)
        data = memoryview(array.reshape(-1).view(numpy.uint8))
        return Shard(Form(name, "numpy", array.dtype.str, value.shape, data.nbytes), data)
    view = memoryview(value)
    shape = tuple(view.shape or ())
    return Shard(Form(name, "memory", view.format, shape, view.nbytes), view.cast("B"))


def restored(form: Form, data: memoryview) -> Any:
    """Return an array as it was given, on bytes that it does not copy.

    They must not be written to.

    Raises:
        ImportError: Its library is not installed here.
    """
    if form.library == "torch":
        import torch  # noqa: PLC0415 - who gave tensors has it

        if not form.num_bytes:
            return torch.empty(form.shape, dtype=getattr(torch, form.dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the memory cannot be written to
            flat: Any = torch.frombuffer(data, dtype=getattr(torch, form.dtype))
        return flat.reshape(form.shape)
    if form.library == "numpy":
        import numpy as np  # noqa: PLC0415 - as above

        return np.frombuffer(data, dtype=form.dtype).reshape(form.shape)
    if form.shape:
        return data.cast(cast("Any", form.dtype), form.shape)
    return data.cast(cast("Any", form.dtype))


def digest_of(weights: Any) -> str:
    """Return what the log keeps of weights, bytes or arrays; see `digest_of_bytes` and `Digest`."""
    if is_plain(weights):
        return digest_of_bytes(weights)
    digest = Digest()
    for shard in shards_of(weights):
        digest.take(shard)
    return digest.close()


def digest_of_bytes(weights: bytes | memoryview) -> str:
    """Return the digest of bytes; of many, that of the digests of their parts, side by side."""
    view = memoryview(weights).cast("B")
    if view.nbytes <= _PART:
        return hashlib.blake2b(view, digest_size=16).hexdigest()
    parts = [view[at : at + _PART] for at in range(0, view.nbytes, _PART)]
    with ThreadPoolExecutor(max_workers=min(len(parts), os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_digest, parts))
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _digest(part: memoryview) -> bytes:
    return hashlib.blake2b(part).digest()


def as_bytes(weights: Any, who: str) -> bytes | memoryview:
    """Return weights that are bytes, for an engine that takes no arrays.

    Raises:
        LongcatDoraError: They are arrays.
    """
    if not is_plain(weights):
        raise LongcatDoraError(f"{who} takes weights as bytes; trainer.weights gave named arrays")
    return weights


class Digest:
    """Of arrays as they come.

    The digest of each one's name, type, shape and the digest of its bytes.
    """

    def __init__(self) -> None:
        self._all = hashlib.blake2b(digest_size=16)

    def take(self, shard: Shard, digest: str | None = None) -> None:
        """Take the next array, and the digest of its bytes, if it is known."""
        form = shard.form
        told = digest or digest_of_bytes(shard.data)
        self._all.update(f"{form.name}\n{form.dtype}\n{form.shape}\n{told}\n".encode())

    def close(self) -> str:
        """Return the digest."""
        return self._all.hexdigest()


def digested(shards: Iterable[Shard], digest: Digest) -> Iterator[Shard]:
    """Yield arrays as they come.

    Each is digested in another thread while whoever takes it copies it.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        for shard in shards:
            told = pool.submit(digest_of_bytes, shard.data)
            yield shard
            digest.take(shard, told.result())


class CopiedWeights(NamedTuple):
    """Arrays, copied one by one, as they were at that moment."""

    forms: list[Form]
    parts: list[bytes]

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> CopiedWeights:
        """Copy arrays as they come."""
        copies = [(shard.form, bytes(shard.data)) for shard in shards]
        return cls([form for form, _ in copies], [part for _, part in copies])

    def arrays(self) -> dict[str, Any]:
        """Return them by name, as what they were given as."""
        pairs = zip(self.forms, self.parts, strict=True)
        return {form.name: restored(form, memoryview(part)) for form, part in pairs}


def snapshot(weights: Any) -> Any:
    """Return weights as an engine is given them, which no later step changes."""
    return weights if is_plain(weights) else CopiedWeights.of(shards_of(weights)).arrays()
