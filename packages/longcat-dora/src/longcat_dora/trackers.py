"""Metrics to where a team looks.

One door, `on_step`, for a file, TensorBoard, Weights & Biases and trackio.

    from longcat_dora.trackers import each, tensorboard, wandb

    LocalRuntime(config, on_step=each(tensorboard(folder), wandb(project="agents")), ...)

`metrics.jsonl` is written in any case. Each tracker is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from ._runtime.status import Progress

__all__ = ["OnStep", "each", "tensorboard", "trackio", "wandb"]

OnStep = Callable[[Progress], None]


def each(*trackers: OnStep) -> OnStep:
    """Call several, in order."""

    def on_step(progress: Progress) -> None:
        for tracker in trackers:
            tracker(progress)

    return on_step


def tensorboard(folder: Path | str) -> OnStep:
    """Write event files for TensorBoard (`pip install 'longcat-dora[tensorboard]'`)."""
    library = _import("tensorboardX", "tensorboard")
    writer = library.SummaryWriter(str(folder))

    def on_step(progress: Progress) -> None:
        for name, value in numbers_of(progress.metrics):
            writer.add_scalar(name, value, progress.step)
        writer.flush()

    return on_step


def wandb(**options: Any) -> OnStep:
    """Log to a Weights & Biases run (`pip install 'longcat-dora[wandb]'`).

    Options are those of `wandb.init`.
    """
    return _logs_to(_import("wandb", "wandb"), options)


def trackio(**options: Any) -> OnStep:
    """Log to a trackio run (`pip install 'longcat-dora[trackio]'`).

    Options are those of `trackio.init`.
    """
    return _logs_to(_import("trackio", "trackio"), options)


def _import(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{extra} needs: pip install 'longcat-dora[{extra}]'") from error


def _logs_to(library: Any, options: Mapping[str, Any]) -> OnStep:
    """Both have the same two calls."""
    run = library.init(**options)

    def on_step(progress: Progress) -> None:
        run.log(dict(numbers_of(progress.metrics)), step=progress.step)

    return on_step


def numbers_of(metrics: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Yield what can be drawn, dictionaries by `outer/inner`.

    Example:
        >>> dict(numbers_of({"reward": 0.5, "staleness": {0: 8}, "note": "x"}))
        {'reward': 0.5, 'staleness/0': 8.0}
    """
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from numbers_of(cast("Mapping[str, Any]", value), f"{before}{name}/")
        elif isinstance(value, (int, float)):
            yield f"{before}{name}", float(value)
