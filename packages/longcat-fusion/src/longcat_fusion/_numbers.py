"""From stored bytes to float32 and back, rounded to the nearest.

bfloat16 and the FP8 formats are computed on their bits: numpy has no such dtypes. Values are
float32, and float64 where float64 is stored. Encoding rounds to nearest, ties to even
(IEEE 754); FP8 saturates at its largest finite value, as its scale is chosen to avoid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""The dtypes that are merged; anything else must be equal in every checkpoint."""
FP8_MAX = {"F8_E4M3": 448.0, "F8_E5M2": 57344.0}
_INTEGERS = {
    "BOOL": np.uint8, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
    "U32": np.uint32, "I32": np.int32, "U64": np.uint64, "I64": np.int64,
}  # fmt: skip
# Bits of the exponent: a value is infinite or not a number when all of them are set.
_EXPONENTS = {
    "F64": (np.int64, 0x7FF0 << 48),
    "F32": (np.int32, 0x7F80 << 16),
    "F16": (np.int16, 0x7C00),
    "BF16": (np.int16, 0x7F80),
    "F8_E5M2": (np.int8, 0x7C),
    "F8_E4M3": (np.int8, 0x7F),  # this format has no infinity: only all ones is not a number
}


def _e4m3_values() -> Array:
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    values = np.where(exponent > 0, normal, mantissa * 2.0**-9)
    values[[0x7F, 0xFF]] = np.nan
    return np.where(codes > 127, -values, values).astype(np.float32)


_E4M3_VALUES = _e4m3_values()


def decode(raw: Array, dtype: str) -> Array:
    """Turn the bytes `raw` (uint8) of `dtype` into float32 values, float64 for F64."""
    if dtype == "BF16":
        bits = raw.view(np.uint16).astype(np.uint32)
        bits <<= 16  # in place: fresh memory costs more than the arithmetic
        return bits.view(np.float32)
    if dtype == "F32":
        return raw.view(np.float32)
    if dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    if dtype == "F64":
        return raw.view(np.float64)
    if dtype == "F8_E4M3":
        return _E4M3_VALUES[raw]
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (raw.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    if dtype == "F8_E8M0":  # a power of two: the scale of a block
        return np.exp2(raw.astype(np.float32) - 127)
    return raw.view(_INTEGERS[dtype]).astype(np.float32)


def encode(values: Array, dtype: str, noise: Array | None = None) -> Array:
    """Turn values into the bytes of `dtype`, rounded to nearest.

    Args:
        values: float32 or float64.
        dtype: One of `FLOATS`.
        noise: One uint32 per value, for BF16 alone: a value is rounded up with the probability of
            its distance to the lower neighbour (stochastic rounding), instead of to the nearest.
    """
    if dtype == "F64":
        return values.astype(np.float64).view(np.uint8)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint8)
    values = values.astype(np.float32, copy=False)
    if dtype == "F32":
        return np.ascontiguousarray(values).view(np.uint8)
    if dtype == "BF16":
        return bf16_bytes(round_to_bf16(values, noise))
    bits = np.ascontiguousarray(values).view(np.uint32)
    if dtype == "F8_E4M3":
        return _encode_fp8(bits, mantissa_bits=3, bias=7, largest=448.0)
    if dtype == "F8_E5M2":
        return _encode_fp8(bits, mantissa_bits=2, bias=15, largest=57344.0)
    if dtype == "F8_E8M0":  # a scale: never smaller than asked, so that no value overflows
        return np.clip(np.ceil(np.log2(values)) + 127, 0, 254).astype(np.uint8)
    raise ValueError(f"can write {', '.join(FLOATS)}, not {dtype}")


def round_to_bf16(values: Array, noise: Array | None = None) -> Array:
    """Round float32 values to numbers that bfloat16 holds; see `encode` for `noise`."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits >> 16 if noise is None else noise >> 16
    if noise is None:
        rounded &= 1
        rounded += 0x7FFF
    rounded += bits
    rounded &= 0xFFFF0000
    return rounded.view(np.float32)


def bf16_bytes(values: Array) -> Array:
    """The bytes of values that bfloat16 holds."""
    return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)


def _encode_fp8(bits: Array, *, mantissa_bits: int, bias: int, largest: float) -> Array:
    magnitude = np.minimum((bits & 0x7FFFFFFF).view(np.float32), np.float32(largest))
    code = magnitude.view(np.uint32)
    shift = 23 - mantissa_bits
    code = (code + ((1 << (shift - 1)) - 1) + ((code >> shift) & 1)) >> shift
    code = code - ((127 - bias) << mantissa_bits)
    below = magnitude < 2.0 ** (1 - bias)  # subnormal: whole multiples of the smallest step
    steps = np.rint(magnitude[below] * np.float32(2.0 ** (bias - 1 + mantissa_bits)))
    code[below] = steps.astype(np.uint32)
    return (code | (bits >> 31 << 7)).astype(np.uint8)


def first_not_finite(raw: Array, dtype: str) -> int | None:
    """Index of the first element of `raw` that is infinite or not a number, None without one."""
    if dtype not in _EXPONENTS or not raw.size:
        return None
    kind, mask = _EXPONENTS[dtype]
    # Bits order like magnitudes: of positive numbers as signed ones, of negative ones as unsigned.
    signed = raw.view(kind)
    unsigned = signed.view(f"u{signed.itemsize}")
    if signed.max() < mask and unsigned.max() < mask + (1 << 8 * signed.itemsize - 1):
        return None
    return int(np.argmax((signed & mask) == mask))
