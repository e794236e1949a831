"""Check a log, repair it, train on it again, draw it, say who waits for what, plan a staleness bound, see a small run."""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import sys
import tempfile
from pathlib import Path

from ._books.config import SchedulerConfig
from ._books.simulate import plan
from ._books.why import why
from ._log.check import check
from ._log.log import read_events, read_trajectories
from ._log.repair import find_damage, repair
from ._log.replay import replay
from ._log.timeline import timeline
from ._runtime.config import RunConfig
from ._runtime.local import LocalRuntime
from ._runtime.runtime import Progress
from ._types import LongcatDoraError, Task, Trainer
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
    checker.add_argument("log", type=Path, help="a run folder, its log folder, or a file of it")
    fixer = commands.add_parser(
        "repair", help="cut a damaged log back to its last good line; shows first what that loses"
    )
    fixer.add_argument("run", type=Path, help="a run folder, or its log folder")
    fixer.add_argument("--yes", action="store_true", help="do not ask")
    waiter = commands.add_parser("why", help="say in one line who waits for what in a run")
    waiter.add_argument("run", type=Path, help="a run folder")
    planner = commands.add_parser(
        "plan", help="try hard staleness bounds on the latencies of a finished run"
    )
    planner.add_argument("run", type=Path, help="a run folder with a log and metrics.jsonl")
    planner.add_argument("--train-s", type=float, help="seconds of a training step; the run's own")
    planner.add_argument("--max-running", type=int, default=SchedulerConfig().max_running)
    planner.add_argument("--groups-per-batch", type=int, default=SchedulerConfig().groups_per_batch)
    planner.add_argument("--soft", type=int, default=1, help="soft staleness")
    drawer = commands.add_parser("timeline", help="write a trace that ui.perfetto.dev opens")
    drawer.add_argument("run", type=Path, help="a run folder with a log")
    drawer.add_argument("out", type=Path, help="the trace, a .json file")
    replayer = commands.add_parser(
        "replay", help="train again on a log; the same bits, or it says where not"
    )
    replayer.add_argument("run", type=Path, help="a run folder with a log")
    replayer.add_argument(
        "--trainer",
        required=True,
        help="who builds the trainer as it was, as package.module:function",
    )
    commands.add_parser("demo", help="train a tabular policy with real processes")
    options = parser.parse_args(arguments)
    try:
        if options.command == "check":
            return _check(_log_of(options.log))
        if options.command == "repair":
            return _repair(_log_of(options.run), is_sure=options.yes)
        if options.command == "why":
            print(why(options.run))
            return 0
        if options.command == "timeline":
            return _timeline(options.run, options.out)
        if options.command == "replay":
            return _replay(options.run, options.trainer)
        return _plan(options) if options.command == "plan" else _demo()
    except (LongcatDoraError, ValueError) as error:
        print(f"longcat-dora: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _check(log: Path) -> int:
    report = check(log)
    for line in [*report.breaches, *report.notes]:
        print(line)
    print(report.summary())
    if report.is_clean:
        print(f"{report.num_payloads} trajectories read, all whole")
    return 0 if report.is_clean else 1


def _repair(log: Path, *, is_sure: bool) -> int:
    damage = find_damage(log)
    if damage is None:
        print(f"nothing to repair in {log}")
        return 0
    print(damage.describe())
    if not is_sure and input("Cut the log there? [y/N] ").strip().lower() not in ("y", "yes"):
        print("nothing was changed")
        return 1
    repair(damage)
    print("cut; continue the run as before")
    return 0


def _timeline(run: Path, out: Path) -> int:
    trace = timeline(read_events(_log_of(run)))
    try:
        out.write_text(json.dumps(trace), encoding="utf-8")
    except OSError as error:
        raise LongcatDoraError(f"cannot write {out}: {error.strerror}") from error
    print(f"{len(trace['traceEvents']):,} events in {out}; open it at ui.perfetto.dev")
    return 0


def _replay(run: Path, name: str) -> int:
    step, num = None, 0
    for step in replay(_log_of(run), _trainer(name)):
        num += 1
        if not step.is_exact:
            print(f"step {step.version} differs: {step.recorded} then, {step.digest} now")
            return 1
    last = f", last {step.digest}" if step is not None else ""
    print(f"{num} steps, every bit the same{last}")
    return 0


def _log_of(run: Path) -> Path:
    return run / "log" if (run / "log").is_dir() else run


def _trainer(name: str) -> Trainer:
    module, found, attribute = name.partition(":")
    if not found:
        raise LongcatDoraError(f"--trainer must be package.module:function, got {name!r}")
    sys.path.insert(0, "")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise LongcatDoraError(f"cannot import --trainer {name}: {error}") from error


def _plan(options: argparse.Namespace) -> int:
    run: Path = options.run
    trajectories = list(read_trajectories(run / "log"))
    if not trajectories:
        raise LongcatDoraError(f"{run / 'log'} must hold a finished trajectory, and holds none")
    opened = next(event for event in read_events(run / "log") if event["kind"] == "opened")
    config = SchedulerConfig(
        groups_per_batch=options.groups_per_batch,
        group_size=opened.get("group_size", 1),
        soft_staleness=options.soft,
        hard_staleness=max(options.soft, opened["hard_staleness"]),
        max_running=options.max_running,
    )
    train_s = options.train_s or _train_s(run)
    latencies = [max(t.duration_s, 1e-3) for t in trajectories]
    print(f"{len(latencies)} latencies, at most {max(latencies):.2f} s; {train_s:.2f} s a step")
    print(plan(config, latencies, train_s=train_s))
    return 0


def _train_s(run: Path) -> float:
    """Mean seconds that the trainer was at work for a step."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if not lines:
        raise LongcatDoraError(f"{file} must tell how long steps took, or pass --train-s")
    last = json.loads(lines[-1])
    return last["elapsed_s"] * (1 - last["trainer_idle_share"]) / len(lines)


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
