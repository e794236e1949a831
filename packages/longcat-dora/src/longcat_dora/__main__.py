"""Check, repair, archive or draw a log, train on it again, say who waits for what, plan a bound."""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._books.archive import archive, find_archivable, hold_log
from ._books.config import SchedulerConfig
from ._books.simulate import plan
from ._books.why import why
from ._log.check import check
from ._log.reader import read_events, read_trajectories
from ._log.repair import find_damage, repair
from ._log.replay import replay
from ._log.timeline import timeline
from ._runtime.config import RunConfig
from ._runtime.local import LocalRuntime
from ._runtime.status import Progress
from ._types import LongcatDoraError, Task, Trainer
from .testing import NUM_TOKENS, TabularTrainer, tabular_worker


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.act(options)
    except (LongcatDoraError, ValueError, OSError) as error:
        print(f"longcat-dora: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longcat-dora",
        description=__doc__,
        epilog="example: longcat-dora check runs/latest/experts/library/log",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        name: str, act: Callable[[argparse.Namespace], int], told: str, folder: str = ""
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=told)
        command.set_defaults(act=act)
        if folder:
            command.add_argument("run", type=Path, help=folder)
        return command

    log = "a run folder, or its log folder"
    add(
        "check", lambda o: _check(_log_of(o.run)), "replay an event log and report every breach",
        "a run folder, its log folder, or a file of it",
    )  # fmt: skip
    told = "cut a damaged log back to its last good line; shows first what that loses"
    fixer = add("repair", _repair, told, log)
    told = "move or delete what of a log is trained through; shows first what that is"
    archiver = add("archive", _archive, told, log)
    archiver.add_argument("--to", type=Path, help="move it to this folder")
    archiver.add_argument("--delete", action="store_true", help="delete it")
    for command in (fixer, archiver):
        command.add_argument("--yes", action="store_true", help="do not ask")
    add("why", _why, "say in one line who waits for what in a run", "a run folder")
    _add_planner(add("plan", _plan, "try hard staleness bounds on a finished run's latencies", log))
    drawer = add("timeline", _timeline, "write a trace that ui.perfetto.dev opens", log)
    drawer.add_argument("out", type=Path, help="the trace, a .json file")
    told = "train again on a log; the same bits, or it says where not"
    replayer = add("replay", _replay, told, log)
    told = "who builds the trainer as it was, as package.module:function"
    replayer.add_argument("--trainer", required=True, help=told)
    add("demo", lambda _: _demo(), "train a tabular policy with real processes")
    return parser


def _add_planner(planner: argparse.ArgumentParser) -> None:
    default = SchedulerConfig()
    planner.add_argument("--train-s", type=float, help="seconds of a training step; the run's own")
    planner.add_argument("--max-running", type=int, default=default.max_running)
    planner.add_argument("--groups-per-batch", type=int, default=default.groups_per_batch)
    planner.add_argument("--soft", type=int, default=1, help="soft staleness")


def _why(options: argparse.Namespace) -> int:
    print(why(options.run))
    return 0


def _check(log: Path) -> int:
    report = check(log)
    for line in [*report.breaches, *report.notes]:
        print(line)
    print(report.summary())
    if report.is_clean:
        print(f"{report.num_payloads} trajectories read, all whole")
    return 0 if report.is_clean else 1


def _repair(options: argparse.Namespace) -> int:
    log = _log_of(options.run)
    damage = find_damage(log)
    if damage is None:
        print(f"nothing to repair in {log}")
        return 0
    print(damage.describe())
    if not options.yes and not _agrees("Cut the log there?"):
        print("nothing was changed")
        return 1
    repair(damage)
    print("cut; continue the run as before")
    return 0


def _archive(options: argparse.Namespace) -> int:
    log, to = _log_of(options.run), options.to
    if to is not None and options.delete:
        raise LongcatDoraError("say either --to FOLDER or --delete")
    if to is None and not options.delete:
        if _show_archivable(log):
            print("nothing was changed: say --to FOLDER to move it, or --delete")
        return 0
    with hold_log(log) as lock:
        if not _show_archivable(log):
            return 0
        question = "Delete it?" if to is None else f"Move it to {to}?"
        if not options.yes and not _agrees(question):
            print("nothing was changed")
            return 1
        archive(log, to=to, lock=lock)
    print("done; continue the run as before")
    return 0


def _show_archivable(log: Path) -> bool:
    found = find_archivable(log)
    print(found.describe())
    return bool(found.files or found.payloads)


def _agrees(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to be asked
        print("nobody answers; --yes does not ask")
        return False


def _timeline(options: argparse.Namespace) -> int:
    trace, out = timeline(read_events(_log_of(options.run))), options.out
    try:
        out.write_text(json.dumps(trace), encoding="utf-8")
    except OSError as error:
        raise LongcatDoraError(f"cannot write {out}: {error.strerror}") from error
    print(f"{len(trace['traceEvents']):,} events in {out}; open it at ui.perfetto.dev")
    return 0


def _replay(options: argparse.Namespace) -> int:
    step, num = None, 0
    for step in replay(_log_of(options.run), _trainer(options.trainer)):
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
        build = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise LongcatDoraError(f"cannot import --trainer {name}: {error}") from error
    if not callable(build):
        raise LongcatDoraError(f"--trainer {name} must be a function, is {build!r:.80}")
    try:
        inspect.signature(build).bind()
    except TypeError as error:
        raise LongcatDoraError(f"--trainer {name} is called without arguments: {error}") from error
    except ValueError:  # a builtin that does not say what it takes
        pass
    trainer: Any = build()
    if not all(callable(getattr(trainer, method, None)) for method in ("train", "weights")):
        told = f"{type(trainer).__name__}, which lacks train or weights"
        raise LongcatDoraError(f"--trainer {name} must return a trainer, returned {told}")
    return trainer


def _plan(options: argparse.Namespace) -> int:
    log = _log_of(options.run)
    trajectories = list(read_trajectories(log))
    if not trajectories:
        raise LongcatDoraError(f"{log} must hold a finished trajectory, and holds none")
    opened = next((event for event in read_events(log) if event["kind"] == "opened"), None)
    if opened is None:
        raise LongcatDoraError(f"{log} must say its bound, and does not")
    config = SchedulerConfig(
        groups_per_batch=options.groups_per_batch,
        group_size=opened.get("group_size", 1),
        soft_staleness=options.soft,
        hard_staleness=max(options.soft, opened["hard_staleness"]),
        max_running=options.max_running,
    )
    train_s = options.train_s
    if train_s is None:
        train_s = _train_s(options.run if log != options.run else log.parent)
    if not 0 < train_s < math.inf:
        raise LongcatDoraError(f"--train-s must be positive and finite, got {train_s:g}")
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
    try:
        last = json.loads(lines[-1])
        return last["elapsed_s"] * (1 - last["trainer_idle_share"]) / len(lines)
    except (ValueError, KeyError, TypeError) as error:
        raise LongcatDoraError(
            f"{file}, line {len(lines)}, is not what a run wrote ({error!r}); pass --train-s"
        ) from error


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
