"""`longcat-dora check LOG` replays a log; `longcat-dora demo` trains a tabular policy."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

from ._check import check
from ._log import read_events
from ._runtime import LocalRuntime, Progress, RunConfig
from ._scheduler import SchedulerConfig
from ._types import LongcatDoraError, Task
from .testing import NUM_TOKENS, TabularTrainer, tabular_worker


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="longcat-dora",
        description=__doc__,
        epilog="example: longcat-dora check runs/latest/experts/library/log",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checker = commands.add_parser("check", help="replay an event log and report every breach")
    checker.add_argument("log", type=Path, help="a log folder or its events.jsonl")
    commands.add_parser("demo", help="train a tabular policy with real processes")
    options = parser.parse_args(arguments)
    try:
        return _check(options.log) if options.command == "check" else _demo()
    except LongcatDoraError as error:
        print(f"longcat-dora: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _check(log: Path) -> int:
    report = check(read_events(log))
    for breach in report.breaches:
        print(breach)
    print(report.summary())
    return 0 if report.is_clean else 1


def _demo() -> int:
    tasks = (Task(f"n{n % NUM_TOKENS}", n % NUM_TOKENS) for n in range(160))

    def show(progress: Progress) -> None:
        reward = progress.metrics["reward"]
        print(
            f"step {progress.step:3d}  reward {reward:.2f}  {'#' * round(40 * reward)}", flush=True
        )

    with tempfile.TemporaryDirectory() as folder:
        LocalRuntime(
            RunConfig(
                folder=Path(folder),
                max_steps=100,
                scheduler=SchedulerConfig(groups_per_batch=4, group_size=8),
            ),
            factory=functools.partial(tabular_worker, 0.002),
            trainer=TabularTrainer(),
            tasks=tasks,
            on_step=show,
        ).run()
        return _check(Path(folder) / "log")


if __name__ == "__main__":
    sys.exit(main())
