"""Means on the sphere, from inner products alone.

Spherical means of some vectors lie in their span. So the Gram matrix of the vectors (one pass, in
float64) decides everything, and the result is a sum of the vectors with the coefficients found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from longcat_fusion._numbers import Array
from longcat_fusion._view import Sums, Tile, View


def gram(view: View, *, with_base: bool) -> Array:
    """Inner products of the experts, after the base if `with_base`."""
    count = view.num_experts + with_base
    pairs = [(i, j) for i in range(count) for j in range(i, count)]
    sums = Sums(len(pairs))
    for tile in view.tiles():
        vectors = ([tile.base] if with_base else []) + tile.experts
        wide = [vector.astype(np.float64) for vector in vectors]
        for place, (i, j) in enumerate(pairs):
            sums.add(place, wide[i] * wide[j])
    found = np.zeros((count, count))
    for (i, j), total in zip(pairs, sums.totals(), strict=True):
        found[i, j] = found[j, i] = total
    return found


def slerp_coefficients(products: Array, t: float) -> tuple[float, float]:
    """Coefficients of the way from vector 0 to vector 1; linear where they are (anti)parallel."""
    norms = math.sqrt(products[0, 0] * products[1, 1])
    cosine = products[0, 1] / norms if norms else 1.0
    angle = math.acos(min(1.0, max(-1.0, cosine)))
    if math.sin(angle) < 1e-6:
        return 1 - t, t
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def karcher_coefficients(products: Array, shares: Sequence[float], steps: int) -> list[float]:
    """Coefficients of the Karcher mean of the directions, times the mean of the norms.

    The mean of directions u_i with shares a_i is where sum_i a_i log_m(u_i) vanishes; each step
    goes along that sum (arXiv 2603.04972).
    """
    norms = np.sqrt(np.diag(products))
    used = norms > 0
    if not used.any():
        return [0.0] * len(norms)
    size = np.where(used, norms, 1.0)
    cosines = products / np.outer(size, size)
    share = np.where(used, np.asarray(shares, float), 0.0)
    share /= share.sum()
    length = math.sqrt(max(0.0, share @ cosines @ share))
    if length < 1e-7:  # directions that cancel have no mean direction: the plain mean is left
        return (np.asarray(shares, float) / np.sum(shares)).tolist()
    mean = share / length  # coefficients of the unit vectors
    for _ in range(steps):
        dots = np.clip(cosines @ mean, -1, 1)
        angles = np.arccos(dots)
        sines = np.sin(angles)
        stretch = share * np.where(sines > 1e-12, angles / np.where(sines > 0, sines, 1), 1.0)
        tangent = stretch - (stretch @ dots) * mean
        length = math.sqrt(max(0.0, tangent @ cosines @ tangent))
        if length < 1e-14:
            break
        mean = math.cos(length) * mean + math.sin(length) * tangent / length
        mean = mean / math.sqrt(mean @ cosines @ mean)
    full = np.asarray(shares, float)
    return (mean * (full @ norms) / full.sum() / size).tolist()


def mix(vectors: Sequence[Array], coefficients: Sequence[float]) -> Array:
    """Sum of the vectors with the coefficients; the arrays are used up."""
    total = vectors[0]
    total *= coefficients[0]
    for vector, coefficient in zip(vectors[1:], coefficients[1:], strict=True):
        vector *= coefficient
        total += vector
    return total


def vectors_of(tile: Tile, *, with_base: bool) -> list[Array]:
    """The tile's values, of the base first if `with_base`."""
    return ([tile.base] if with_base else []) + tile.experts
