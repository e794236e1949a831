"""Draw words by the inverse of the distribution function.

Dimension key: B rows, V words, C chunks of words, W words of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 256


def drawn(logs_BV: Tensor, draws_B1: Tensor) -> Tensor:
    """Return each row's word, (B, 1), where the sum of probabilities passes a number in [0, 1).

    A large vocabulary is summed in chunks, and only the chunk that is passed word by word. Sums are
    in float64.
    """
    num_words = logs_BV.shape[1]
    num_chunks = -(-num_words // _CHUNK)
    padding = num_chunks * _CHUNK - num_words
    odds_BV = torch.nn.functional.pad(logs_BV.exp(), (0, padding))
    odds_BCW = odds_BV.view(-1, num_chunks, _CHUNK)
    ends_BC = odds_BCW.sum(-1, dtype=torch.float64).cumsum(-1)
    level_B1 = draws_B1 * ends_BC[:, -1:]
    chunk_B1 = torch.searchsorted(ends_BC, level_B1, right=True).clamp_max(num_chunks - 1)
    rows = torch.arange(len(odds_BCW), device=odds_BCW.device)[:, None]
    within_BW = odds_BCW[rows, chunk_B1][:, 0].double().cumsum(-1)
    begin_B1 = ends_BC.gather(1, chunk_B1) - within_BW[:, -1:]
    word_B1 = torch.searchsorted(within_BW, (level_B1 - begin_B1).clamp_min(0), right=True)
    # Rounding of the two sums may pass a chunk's last word, or a word that cannot be.
    last_B1 = (within_BW < within_BW[:, -1:]).sum(-1, keepdim=True)
    return chunk_B1 * _CHUNK + torch.minimum(word_B1, last_B1)


def picked(
    logits_BV: Tensor, heat_B1: Tensor, draws_B1: Tensor, *, has_cold: bool = True
) -> tuple[Tensor, Tensor]:
    """Return each row's next word and its log-prob, (B, 1) each.

    It is drawn at the row's temperature, whose distribution the log-prob is of; at 0, if there may
    be such rows, it is the likeliest one, and the distribution that of 1.
    """
    is_cold_B1 = heat_B1 == 0
    logs_BV = (logits_BV / torch.where(is_cold_B1, 1.0, heat_B1).float()).log_softmax(-1)
    word_B1 = drawn(logs_BV, draws_B1)
    if has_cold:
        word_B1 = torch.where(is_cold_B1, logs_BV.argmax(-1, keepdim=True), word_B1)
    return word_B1, logs_BV.gather(1, word_B1)
