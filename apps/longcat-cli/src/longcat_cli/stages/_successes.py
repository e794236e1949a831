"""What an expert did well, as samples to learn from: its newest passed attempts, mistakes masked.

As in the cold start, a turn whose call failed stays in the context and is not imitated (report
3.1.2, turn-level loss mask), although the attempt passed in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from longcat_dora import Trajectory
from longcat_gspo import Sample


def successes(trajectories: Iterable[Trajectory], *, per_task: int) -> list[Sample]:
    """The newest passed attempts, at most `per_task` of each task."""
    found: dict[str, list[Trajectory]] = {}
    for trajectory in trajectories:
        if trajectory.reward == 1:
            found.setdefault(trajectory.task, []).append(trajectory)
    samples = [
        sample
        for passed in found.values()
        for trajectory in passed[-per_task:]
        for sample in imitated(trajectory)
    ]
    return [sample for sample in samples if any(sample.loss_mask)]


def imitated(trajectory: Trajectory) -> list[Sample]:
    """One sample a segment; tokens of failed turns are not learned.

    A turn is what was sampled in one piece, so that the turns of an attempt are the runs of its
    segments' masks, in order.
    """
    failed = _failed_turns_of(trajectory)
    samples: list[Sample] = []
    turn = 0
    for segment in trajectory.segments:
        mask = list(segment.loss_mask)
        for start, stop in sampled_runs(mask):
            if turn in failed:
                mask[start:stop] = [False] * (stop - start)
            turn += 1
        samples.append(Sample(token_ids=segment.token_ids, loss_mask=mask))
    return samples


def _failed_turns_of(trajectory: Trajectory) -> set[int]:
    return set(trajectory.info["failed_turns"])


def sampled_runs(mask: Sequence[bool]) -> list[tuple[int, int]]:
    """Start and stop of each unbroken run of sampled tokens.

    >>> sampled_runs([False, True, True, False, True])
    [(1, 3), (4, 5)]
    """
    edges = [place for place in range(len(mask) + 1)
             if (place < len(mask) and mask[place]) != (place > 0 and mask[place - 1])]  # fmt: skip
    return list(zip(edges[::2], edges[1::2], strict=True))
