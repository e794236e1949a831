"""Check a finished run against what it left behind, by another way than the one that made it.

A run's files say what was learned; a stage that did nothing, or something else, can leave the
same kinds of files. So each stage is derived a second time:

- grow        golden chains pass in their worlds, empty ones fail, no held-out task was trained on
- cold start  held-out demonstrations are likelier than under fresh weights; masked turns fail
- experts     rewards follow from the sampled tokens; log-probs from the version's weights;
              weights from the batches
- fuse        the merge from its inputs; the samples from the logs; the fused weights from these
- evaluate    each model's answers, asked again
- report      the page's figures from the evaluation

What is checked is what the log and the artefacts hold; how long it takes is bounded by `limit`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from longcat_cli.folder import RunFolder

from . import _cold_start, _evaluate, _experts, _fuse, _grow, _report

Check = Callable[[RunFolder, int], list[str]]

__all__ = ["audit", "checks_of"]


def checks_of(folder: RunFolder) -> dict[str, Check]:
    """The check of each stage, by the stage's name."""
    experts: dict[str, Check] = {
        f"expert-{group}": functools.partial(_experts.complaints, group=group)
        for group in folder.recipe.groups
    }
    return {
        "grow": _grow.complaints,
        "cold_start": _cold_start.complaints,
        **experts,
        "fuse": _fuse.complaints,
        "evaluate": _evaluate.complaints,
        "report": _report.complaints,
    }


def audit(folder: RunFolder, *, limit: int = 64) -> Iterator[tuple[str, list[str]]]:
    """Yield each finished stage with what does not stand in it; an empty list is good news.

    Args:
        folder: A run.
        limit: Tasks, attempts or cells of a stage that are derived again, at most; steps of
            training always are.
    """
    for stage, complaints in checks_of(folder).items():
        if folder.is_done(stage):
            yield stage, complaints(folder, limit)
