"""A cache of transformers as the attention's `CacheView`: it holds latents, as the engine's does.

Dimension key: B rows, T new tokens of each, P = B * T, S tokens so far, L latent width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._attention import Stretch
from ._config import LongcatConfig

if TYPE_CHECKING:
    from transformers import Cache


class LatentView:
    """A `CacheView` over a cache of transformers; new tokens of all rows stand in one line."""

    def __init__(
        self,
        cache: Cache,
        config: LongcatConfig,
        mask_BS: Tensor | None,
        batch: int,
        num: int,
        past: int,
        device: torch.device,
    ) -> None:
        if getattr(cache, "is_compileable", False):
            raise ValueError(
                f"a cache must grow, as DynamicCache does: {type(cache).__name__} is not done here"
            )
        self.cache, self.config, self.shape = cache, config, (batch, num)
        self.rows_BT = torch.arange(batch * num, device=device).view(batch, num)
        key_S, own_T = (
            torch.arange(past + num, device=device),
            torch.arange(past, past + num, device=device),
        )
        real_BS = torch.ones(batch, past + num, dtype=torch.bool, device=device)
        if mask_BS is not None:
            if mask_BS.shape != real_BS.shape:
                raise ValueError(
                    f"attention_mask must have one entry for each of {tuple(real_BS.shape)} tokens "
                    f"so far, got {tuple(mask_BS.shape)}"
                )
            real_BS = mask_BS.bool()
        is_own_TS = key_S == own_T[:, None]
        # Padding sees itself, since something must be seen.
        self.sees_BTS = ((key_S <= own_T[:, None]) & real_BS[:, None]) | is_own_TS
        self.place_BS = (real_BS.long().cumsum(1) - 1).clamp_min(0)

    def extend(self, index: int, latent_PL: Tensor) -> Iterator[Stretch]:
        """Store new latents; return what each new token may see of all so far."""
        batch, num = self.shape
        latent_B1TL = latent_PL.view(batch, 1, num, -1)
        sizes = [self.config.kv_lora_rank, self.config.qk_rope_head_dim]
        content, rotary = latent_B1TL.split(sizes, dim=-1)
        latents_BSL = torch.cat(self.cache.update(content, rotary, index), dim=-1)[:, 0]
        sees_BTS, window = self.sees_BTS, self.config.window_of(index)
        if window is not None:
            own_BT1 = self.place_BS[:, -num:, None]
            sees_BTS = sees_BTS & window.sees(own_BT1, self.place_BS[:, None])
        bias_BTS = torch.zeros(sees_BTS.shape, dtype=latent_PL.dtype, device=latent_PL.device)
        yield Stretch(self.rows_BT, latents_BSL, bias_BTS.masked_fill(~sees_BTS, float("-inf")))
