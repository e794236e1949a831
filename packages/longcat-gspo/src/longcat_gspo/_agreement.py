"""Does the engine compute what the trainer computes, on the same weights?

Only samples of the weights as they are can tell: of older ones, the difference is also what was
learned since. GSPO's clip is narrower (3e-4) than the rounding of bf16 (sequence ratios of 0.97 to
1.03 for a model of 135M): ratios against such an engine would lose half of the gradient to the
clip, on policy.

- `True`: differences are those of float32. The engine's log-probs are what ratios are taken
  against.
- `False`: they are those of rounding. The trainer's own are, and a warning says so, once.
- `None`: nothing seen yet, or differences are too large for rounding; the engine's are, with a
  warning.

Source: GSPO's cautions as in arXiv 2507.18071 5.1 to 5.3; thresholds are ours.
"""

from __future__ import annotations

import warnings

from torch import Tensor

from ._objective import log_gap, sequence_mean

_EXACT = 5e-4
"""Root mean square of a token's difference, up to which engine and trainer agree."""
_ROUNDING = 0.5
"""Up to which it may be rounding, if sequences' means are within `_ROUNDING_MEAN`."""
_ROUNDING_MEAN = 0.1
_ENOUGH_TOKENS = 64
_ONE_SIDED = 0.005
"""Share of tokens less probable to the engine than to the trainer below which sampling was
truncated."""


class MismatchWarning(UserWarning):
    """Engine and trainer do not agree on the same weights."""


class Agreement:
    """Looks at the on-policy samples of a batch; once they were enough, it can tell.

    Args:
        is_shaped: Whether sampling's temperature is not 1, or it was truncated. Engines differ in
            whether their log-probs are of that, so that any large difference then is this.
        is_low_precision: Whether the trainer itself rounds; then its own log-probs are used until
            the engine was seen to agree.
    """

    def __init__(self, *, is_shaped: bool, is_low_precision: bool) -> None:
        self._is_shaped, self._is_low_precision = is_shaped, is_low_precision
        self._agrees: bool | None = None
        self._has_warned = False

    @property
    def is_open(self) -> bool:
        """Whether it wants to see more before it can tell."""
        return self._agrees is None and not self._has_warned

    @property
    def takes_own(self) -> bool:
        """Whether ratios are to be taken against the trainer's own log-probs."""
        return self._agrees is False or (self._agrees is None and self._is_low_precision)

    def observe(self, own_T: Tensor, engine_T: Tensor, sequence_T: Tensor, num: int) -> None:
        """Take note of on-policy sequences.

        Raises:
            ValueError: Next to no token was more probable to the trainer: the engine sampled from
                fewer words.
        """
        if self._agrees is not None or len(own_T) < _ENOUGH_TOKENS:
            return
        gap_T = log_gap(own_T, engine_T).detach()
        mean_S = sequence_mean(gap_T, sequence_T, num)[sequence_T.unique()]
        self._judge(gap_T, gap_T.square().mean().sqrt().item(), mean_S.abs().median().item())

    def _judge(self, gaps: Tensor, spread: float, mean: float) -> None:
        if spread <= _EXACT:
            self._agrees = True
        elif (gaps > 1e-4).float().mean() <= _ONE_SIDED and gaps.mean() < -1e-3:
            raise ValueError(
                f"{len(gaps)} sampled tokens were nearly all more probable to the engine than to "
                f"the trainer (by {-gaps.mean():.3g} on average): sampling was truncated or at "
                "another temperature. Give TrainerConfig its temperature, top_k and top_p; or "
                "sample without"
            )
        elif self._is_shaped or (spread <= _ROUNDING and mean <= _ROUNDING_MEAN):
            self._agrees = False
            self._warn(
                f"the engine's log-probs differ from the trainer's on the same weights, by "
                f"{spread:.2g} "
                "a token: ratios are taken against the trainer's own (old_log_probs='trainer')"
            )
        elif not self._has_warned:
            self._warn(
                f"the engine's log-probs differ from the trainer's by {spread:.2g} a token, more "
                "than rounding explains: other weights, another temperature, or another template? "
                "Ratios are taken against the engine's (old_log_probs='engine')"
            )

    def _warn(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(text, MismatchWarning, stacklevel=6)
