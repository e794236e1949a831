"""Which samples a supervised step sees."""

from collections.abc import Sequence
from random import Random

_POOL = 256
"""Samples sorted by length together: batches waste little padding and stay well mixed."""


def token_batches(
    lengths: Sequence[int], *, batch_tokens: int, num_batches: int, seed: int
) -> list[list[int]]:
    """Cut shuffled passes over all samples into batches of so many tokens, of similar lengths.

    Args:
        lengths: Tokens of each sample.
        batch_tokens: A batch is full once it holds at least as many.
        num_batches: Passes are repeated until there are as many.
        seed: The same seed gives the same batches.

    Returns:
        `num_batches` lists of places in `lengths`. Within a pass no sample is seen twice; what does
        not fill a batch waits for the next pass.

    Raises:
        ValueError: There is no sample, or a size is not positive.
    """
    if not lengths or batch_tokens < 1 or num_batches < 1:
        raise ValueError(
            f"need at least one sample, batch_tokens >= 1 and num_batches >= 1, got "
            f"{len(lengths)} samples, {batch_tokens} and {num_batches}"
        )
    rng = Random(seed)
    batches: list[list[int]] = []
    while len(batches) < num_batches:
        batches += _one_pass(lengths, batch_tokens, rng)
    return batches[:num_batches]


def _one_pass(lengths: Sequence[int], batch_tokens: int, rng: Random) -> list[list[int]]:
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), _POOL):
        batch: list[int] = []
        size = 0
        for place in sorted(order[start : start + _POOL], key=lambda place: lengths[place]):
            batch.append(place)
            size += lengths[place]
            if size >= batch_tokens:
                batches.append(batch)
                batch, size = [], 0
    rng.shuffle(batches)
    return batches or [order]
