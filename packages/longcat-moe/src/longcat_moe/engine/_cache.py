"""The cache of compressed latents: one slot per conversation, one tensor per attention.

Dimension key: B sequences, T new tokens of each, P new tokens of all, S tokens so far, L latent
width.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from longcat_moe._attention import Stretch
from longcat_moe._config import LongcatConfig


class LatentCache:
    """`num_slots` conversations of at most `max_length` tokens."""

    def __init__(
        self, config: LongcatConfig, *, num_slots: int, max_length: int, dtype: torch.dtype
    ) -> None:
        shape = (config.num_attentions, num_slots, max_length, config.latent_dim)
        self.latents = torch.zeros(shape, dtype=dtype)
        self.max_length = max_length

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` tokens of slot `source`."""
        self.latents[:, target, :length] = self.latents[:, source, :length]

    def view(
        self, slots: Sequence[int], starts: Sequence[int], nums: Sequence[int]
    ) -> "PackedView":
        """Open slots for `nums` new tokens each, from position `starts` on."""
        return PackedView(self, slots, starts, nums)


class PackedView:
    """What one forward pass sees of the cache: see `CacheView`.

    Sequences with a single new token are one stretch, all others the second.
    """

    def __init__(
        self, cache: LatentCache, slots: Sequence[int], starts: Sequence[int], nums: Sequence[int]
    ) -> None:
        self.cache = cache
        slots_B, starts_B, nums_B = (torch.tensor(values) for values in (slots, starts, nums))
        self.last_B = nums_B.cumsum(0) - 1
        """Where each sequence's last new token stands."""
        first_B = self.last_B + 1 - nums_B
        self.slots_P = slots_B.repeat_interleave(nums_B)
        within_P = torch.arange(len(self.slots_P)) - first_B.repeat_interleave(nums_B)
        self.positions_P = starts_B.repeat_interleave(nums_B) + within_P
        self._stretches: list[tuple[Tensor, Tensor, Tensor]] = []
        for chosen in (nums_B == 1, nums_B > 1):
            if chosen.any():
                width = int(nums_B[chosen].max())
                step_BT = torch.arange(width).minimum(nums_B[chosen, None] - 1)
                rows_BT = first_B[chosen, None] + step_BT
                position_BT = self.positions_P[rows_BT]
                hidden_BTS = torch.arange(int(position_BT.max()) + 1) > position_BT[..., None]
                bias_BTS = torch.zeros(hidden_BTS.shape, dtype=cache.latents.dtype)
                bias_BTS.masked_fill_(hidden_BTS, float("-inf"))
                self._stretches.append((slots_B[chosen], rows_BT, bias_BTS))

    def extend(self, index: int, latent_PL: Tensor) -> Iterator[Stretch]:
        """Store new latents; return all so far and what each new token may see."""
        store = self.cache.latents[index]
        store[self.slots_P, self.positions_P] = latent_PL.to(store.dtype)
        for slots_B, rows_BT, bias_BTS in self._stretches:
            latents_BSL = store[:, : bias_BTS.shape[-1]].index_select(0, slots_B)
            yield Stretch(rows_BT, latents_BSL, bias_BTS)
