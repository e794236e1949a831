"""N-gram embeddings: a token is embedded together with what came just before it.

    e_i = (E_0(t_i) + sum_n sum_k W_nk E_nk(H_nk(t_{i-n+1}, ..., t_i))) / ((N - 1) K + 1)

- The hash of the 2-gram to N-gram that ends in a token picks a row of each of K tables; no table
  knows which n-grams share a row.
- Nothing reaches across the end of a text: the token after an EOS has no neighbours, and a missing
  neighbour counts as id 0.

Dimension key: B sequences, T tokens, N longest n-gram (`emb_neighbor_num`), K tables per length
(`emb_split_num`), D model width.

Source: LongCat-Flash-Lite, arXiv 2601.21204, equations 1 to 3; table sizes, hashing and the restart
after EOS as in the released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._config import LongcatConfig


class NgramEmbedding(nn.Module):
    """The tables and their projections; the token's own embedding comes from outside."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.vocab_size, self.eos = config.vocab_size, config.eos_token_id
        self.longest, self.split = config.emb_neighbor_num, config.emb_split_num
        self.sizes, self.amplify = table_sizes(config), config.emb_amplify
        width = config.hidden_size // len(self.sizes)
        self.embedders = nn.ModuleList(nn.Embedding(size, width) for size in self.sizes)
        self.post_projs = nn.ModuleList(
            nn.Linear(width, config.hidden_size, bias=False) for _ in self.sizes
        )

    def forward(self, word_BTD: Tensor, ids_BT: Tensor, before_BTN: Tensor | None) -> Tensor:
        """Add what the n-grams say to the tokens' own embeddings.

        Args:
            word_BTD: The tokens' own embeddings.
            ids_BT: The tokens.
            before_BTN: (B, T, N - 1), see `neighbours`; computed from `ids_BT` when absent.
        """
        if before_BTN is None:
            before_BTN = neighbours(ids_BT, num=self.longest - 1, eos=self.eos)
        total = word_BTD
        for place, (table, project) in enumerate(zip(self.embedders, self.post_projs, strict=True)):
            total = total + project(table(self.rows(place, ids_BT, before_BTN)))
        mean = total / (len(self.sizes) + 1)
        return mean * mean.shape[-1] ** 0.5 if self.amplify else mean

    def before_packed(self, ids_BT: Tensor, lengths: Sequence[int]) -> Tensor:
        """What stands before each token of packed sequences: (1, T, N - 1)."""
        parts = ids_BT.split(list(lengths), dim=1)
        return torch.cat([neighbours(x, num=self.longest - 1, eos=self.eos) for x in parts], dim=1)

    def rows(self, place: int, ids_BT: Tensor, before_BTN: Tensor) -> Tensor:
        """Rows (B, T) of table `place`: the n-gram as a number in base V, modulo the table's size.

        Powers are reduced as they grow, so that nothing leaves 64 bits.
        """
        size, row, power = self.sizes[place], ids_BT, 1
        for back in range(place // self.split + 1):
            power = power * self.vocab_size % size
            row = row + before_BTN[..., back] * power
        return row % size


def neighbours(ids_BT: Tensor, *, num: int, eos: int) -> Tensor:
    """The `num` tokens before each token, nearest first, (B, T, num); 0 where there is none."""
    is_end = (ids_BT == eos).long()
    text_BT = is_end.cumsum(1) - is_end  # an EOS still belongs to the text it ends
    found: list[Tensor] = []
    for back in range(1, num + 1):
        ids = nn.functional.pad(ids_BT, (back, 0))[:, : ids_BT.shape[1]]
        text = nn.functional.pad(text_BT, (back, 0), value=-1)[:, : ids_BT.shape[1]]
        found.append(ids * (text == text_BT))
    return torch.stack(found, dim=-1)


def table_sizes(config: LongcatConfig) -> list[int]:
    """Rows of each table, the K of 2-grams first."""
    base = config.ngram_vocab_size_ratio * config.vocab_size
    num = (config.emb_neighbor_num - 1) * config.emb_split_num
    return [int(base + 2 * place + 1) for place in range(num)]


def collides(config: LongcatConfig) -> bool:
    """Whether table sizes are so close to a multiple of V or of V / 2 that 2-grams collide heavily.

    With `M = r V` and r whole, the hash `t_i + t_{i-1} V mod M` knows only r classes of the token
    before (paper section 3.4; half-integers are as bad by our own count, see the tests).
    """
    twice = 2 * config.ngram_vocab_size_ratio
    return config.ngram_vocab_size_ratio > 0 and abs(twice - round(twice)) < 0.1
