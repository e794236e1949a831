"""What the checker says of a log."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """What a log holds."""

    breaches: list[str] = field(default_factory=list[str])
    not_judged: list[str] = field(default_factory=list[str])
    """What the log does not tell enough of."""
    notes: list[str] = field(default_factory=list[str])
    """What is no breach, and worth saying."""
    num_events: int = 0
    num_started: int = 0
    num_committed: int = 0
    num_moved: int = 0
    """Went on under a newer version."""
    num_masked: int = 0
    """Committed, and not learned from."""
    num_reused: int = 0
    """Trained on once more."""
    num_ended: int = 0
    """Ended or evicted, with a reason."""
    num_open: int = 0
    """Neither, at the end of the log."""
    num_payloads: int = 0
    """Trajectories whose bytes were read and are whole."""
    staleness: Counter[int] = field(default_factory=Counter[int])
    """Staleness to the number of committed trajectories."""
    reasons: Counter[str] = field(default_factory=Counter[str])

    @property
    def is_clean(self) -> bool:
        """Whether everything was judged, and no breach was found."""
        return not self.breaches and not self.not_judged

    def summary(self) -> str:
        """One line for people."""
        ledger = (
            f"{self.num_started} started = {self.num_committed} committed + {self.num_ended} ended"
            f" + {self.num_open} open"
        )
        worst = max(self.staleness, default=0)
        return f"{self._verdict()}: {self.num_events} events, {ledger}, worst staleness {worst}"

    def _verdict(self) -> str:
        if self.breaches:
            return f"{len(self.breaches)} breaches"
        if not self.not_judged:
            return "C1 C2 C3 hold"
        open_rules = {text.partition(" ")[0] for text in self.not_judged}
        held = [rule for rule in ("C1", "C2", "C3") if rule not in open_rules]
        told = "; ".join(self.not_judged)
        return f"{' '.join(held)} hold; {told}" if held and "nothing" not in open_rules else told
