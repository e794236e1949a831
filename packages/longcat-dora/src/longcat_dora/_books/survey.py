"""Read a log whole, to say where it may be cut.

Memory grows with the number of its files alone.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from longcat_dora._log.events import Event
from longcat_dora._log.reader import LogReader

NEVER = 2**62


@dataclass(slots=True)
class Survey:
    """What is known of a log then."""

    version_at: dict[int, int] = field(default_factory=dict[int, int])
    """Number of a file to the version at its end, unless a step is half told there."""
    restores_at: dict[int, int] = field(default_factory=dict[int, int])
    """Number of a file to the least version that is restored in it."""
    payloads_at: dict[int, set[str]] = field(
        default_factory=lambda: defaultdict[int, set[str]](set)
    )
    """Number of a file to the payload files that it names."""
    oldest_kept: int = 0
    bound: int = 0
    """The widest that the log had."""
    reuses: bool = False
    """Whether anything was used again."""
    version: int = 0
    is_told: bool = True
    """Whether the last step that was committed was published too."""
    vouched: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])

    def read(self, number: int, event: Event) -> None:
        """Take note of the next event, of the file with a number."""
        match event["kind"]:
            case "opened":
                self.bound = max(self.bound, event["hard_staleness"])
            case "published":
                self.version, self.is_told = event["version"], True
            case "committed":
                self.is_told = False
                self.reuses |= "reused" in event
            case "restored":
                self.version, self.is_told = event["version"], True
                before = self.restores_at.get(number, event["version"])
                self.restores_at[number] = min(before, event["version"])
            case "saved":
                self.oldest_kept = min(event["kept"], default=self.oldest_kept)
            case "produced":
                if "payload" in event:
                    self.payloads_at[number].add(event["payload"][0])
            case "archived":
                self.vouched.add((event["before"], event["digest"]))
            case _:
                pass
        self.version_at.pop(number, None)
        if self.is_told:
            self.version_at[number] = self.version

    def lowest_restore(self, number: int) -> int:
        """Return the least version that is restored from a file on; great if there is none."""
        return min((to for at, to in self.restores_at.items() if at >= number), default=NEVER)

    def first_to_stay(self, numbers: list[int]) -> int:
        """Return the number of the first file that must stay; the last one always does."""
        limit = min(self.oldest_kept, self.version - self.bound)
        for number, after in zip(numbers[-2::-1], numbers[:0:-1], strict=True):
            limit = min(limit, self.restores_at.get(after, limit))
            if self.version_at.get(number, NEVER) <= limit:
                return after
        return numbers[0]


def survey_of(folder: Path) -> Survey:
    """Read a whole log.

    Raises:
        LongcatDoraError: There is no log, or it is damaged.
    """
    log, survey = LogReader(folder), Survey()
    if log.summary is not None:
        head = log.summary.head
        survey.version, survey.bound = head["version"], head["opened"]["hard_staleness"]
        survey.oldest_kept = min(head["saved"]["kept"], default=0) if head["saved"] else 0
    for event in log:
        survey.read(log.number, event)
    return survey
