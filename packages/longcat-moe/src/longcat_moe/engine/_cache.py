"""The cache of compressed latents: one slot per conversation, one tensor per attention.

Dimension key: B sequences, T new tokens, S tokens so far, L latent width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

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

    def view(self, slots: Sequence[int], starts: Sequence[int], num_new: int) -> "BatchView":
        """Open some slots for `num_new` tokens each, from position `starts` on."""
        return BatchView(self, slots, starts, num_new)


class BatchView:
    """What one forward pass sees of the cache: see `longcat_moe.CacheView`."""

    def __init__(
        self, cache: LatentCache, slots: Sequence[int], starts: Sequence[int], num_new: int
    ) -> None:
        self.cache = cache
        self.slots_B = torch.tensor(slots)
        self.positions_BT = torch.tensor(starts)[:, None] + torch.arange(num_new)
        self.end = int(self.positions_BT.max()) + 1
        self.mask_BTS = torch.arange(self.end) <= self.positions_BT[..., None]

    def extend(self, index: int, latent_BTL: Tensor) -> tuple[Tensor, Tensor]:
        """Store new latents; return all so far and what each new token may see."""
        store = self.cache.latents[index]
        # Rows shorter than the batch write a padded tail; it lies beyond what they may see and is
        # overwritten by their next tokens.
        store[self.slots_B[:, None], self.positions_BT] = latent_BTL.to(store.dtype)
        return store[:, : self.end].index_select(0, self.slots_B), self.mask_BTS
