"""What a person looks at while `longcat rl` runs: lines, samples, evaluations, a curve."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .errors import UsageError
from .rl_options import RlOptions, read_jsonl

if TYPE_CHECKING:
    from longcat_dora import Progress, Task, Trajectory, Worker
    from longcat_dora.trackers import OnStep


def append_jsonl(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add objects to a file, one a line."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


TELLS_EVERY_S = 5.0
"""Between a step's line and one about the answers that the next step waits for, at least."""


class Reporter:
    """Writes what a person looks at: samples, evaluations, a line a step, a tracker's metrics.

    Args:
        out: The run's folder.
        options: What was asked for.
        held_out: Tasks to evaluate on.
        examiner: Builds the worker that tries them; called once, when it is wanted.
    """

    def __init__(
        self, out: Path, options: RlOptions, held_out: list[Task], examiner: Callable[[], Worker]
    ) -> None:
        self.out, self.options, self.held_out = out, options, held_out
        self._examiner: Worker | None = None
        self._make_examiner = examiner
        self._one_at_a_time = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="before")
        self._before: Future[dict[str, float]] | None = None
        self._is_over = False
        self._track = open_tracker(options.tracker, out, asdict(options))
        self._step = 0
        self._since_step: list[float] = []
        self._told_at = 0.0

    def begin(self) -> None:
        """Evaluate the model as it is, beside the start of the engine, if that was not done yet."""
        path = self.out / "evaluations.jsonl"
        known = read_jsonl(path, "evaluations") if path.is_file() else []
        if self.held_out and not any(line["step"] == 0 for line in known):
            typer.echo(f"loaded; trying {len(self.held_out)} held-out tasks while answers begin")
            self._before = self._pool.submit(self.evaluate, 0, b"")

    def end(self) -> None:
        """Wait for what `begin` began.

        Raises:
            UsageError: All attempts of it failed.
        """
        if self._before is not None:
            self._before.result()

    def close(self) -> None:
        """Record nothing any more: evaluations that are cut off by the end tell nothing."""
        self._is_over = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def group(self, group: list[Trajectory]) -> None:
        """After each task's attempts; before the first step they are the first figures."""
        self._look_at_before()
        self._since_step += [trajectory.reward for trajectory in group]
        if not self._step or time.monotonic() - self._told_at >= TELLS_EVERY_S:
            self._tell(f"answers {len(self._since_step):3d}", statistics.mean(self._since_step))

    def _look_at_before(self) -> None:
        if self._before is not None and self._before.done():
            self.end()
            self._before = None

    def step(self, progress: Progress) -> None:
        """After each step."""
        self._look_at_before()
        metrics = progress.metrics
        lines = [
            {"step": progress.step, "task": t.task, "reward": t.reward, **t.info}
            for t in progress.batch[:: self.options.group_size]
        ]
        append_jsonl(self.out / "samples.jsonl", lines)
        self._step = progress.step
        self._track(progress)
        self._since_step = []
        self._tell(f"step {progress.step:4d}", metrics["reward"])
        if progress.step % 10 == 0:  # a picture to look at while it runs
            draw_curve(self.out)

    def _tell(self, what: str, reward: float) -> None:
        self._told_at = time.monotonic()
        typer.echo(
            f"{what:11s}  reward {reward:.3f} {'#' * round(40 * max(0.0, min(1.0, reward)))}"
        )

    def stop(self) -> None:
        """After Ctrl-C in a step, which may take a minute."""
        typer.echo("\nstopping; the step under way is finished first", err=True)

    def evaluate(self, version: int, weights: bytes | memoryview) -> dict[str, float]:
        """Try the held-out tasks, each once, taking the likeliest words.

        Raises:
            UsageError: All of them fail before anything was trained.
        """
        from longcat_dora.transformers import evaluate

        with self._one_at_a_time:  # they share the engine
            if self._examiner is None:
                self._examiner = self._make_examiner()
            found = evaluate(self._examiner, self.held_out, weights=weights, version=version)
            return {} if self._is_over else self._record(version, found)

    def _record(self, version: int, found: list[Any]) -> dict[str, float]:
        from longcat_dora import Progress

        rewards = [a.reward for a in found if a.reward is not None]
        reasons = [
            str(a.info.get("error") or a.info.get("masked") or a.info)
            for a in found if a.reward is None
        ]  # fmt: skip
        if version == 0 and not rewards:
            raise UsageError(f"all {len(found)} held-out tasks failed, the first: {reasons[0]}")
        exact = sum(reward >= 1 for reward in rewards)
        record = {
            "reward": sum(rewards) / max(1, len(rewards)), "solved": exact / len(found),
            "failed": len(found) - len(rewards),
        }  # fmt: skip
        append_jsonl(self.out / "evaluations.jsonl", [{"step": version, **record}])
        append_jsonl(self.out / "answers.jsonl", [
            {"step": version, "task": a.task, "reward": a.reward, **a.info} for a in found
        ])  # fmt: skip
        failed = f", {len(reasons)} failed, the first: {reasons[0]}" if reasons else ""
        typer.echo(
            f"held out, step {version}: reward {record['reward']:.3f}, solved "
            f"{record['solved']:.1%}{failed}"
        )
        named = {"held_out/step": version, **{f"held_out/{k}": v for k, v in record.items()}}
        # Under the step that was reported last: trackers drop what comes for an earlier one.
        self._track(Progress(max(version, self._step), named, []))
        return record


def open_tracker(kind: str, out: Path, config: dict[str, Any]) -> OnStep:
    """Return what takes a step's metrics.

    Raises:
        UsageError: The tracker is not installed.
    """
    from longcat_dora import trackers

    try:
        if kind == "tensorboard":
            return trackers.tensorboard(out / "tensorboard")
        opens = {"wandb": trackers.wandb, "trackio": trackers.trackio}
        return opens[kind](project="longcat", name=out.name, config=config) if kind else _nowhere
    except ImportError as error:
        raise UsageError(f"--tracker {error}") from error


def _nowhere(progress: Progress) -> None:
    """Metrics are in `run/metrics.jsonl` in any case."""


def draw_curve(out: Path) -> Path | None:
    """Draw reward and evaluations; nothing where there is no step."""
    path = out / "run" / "metrics.jsonl"
    if not path.is_file():
        return None
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    steps = read_jsonl(path, "metrics")
    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    axes.plot([s["step"] for s in steps], [s["reward"] for s in steps], label="reward, training")
    if (out / "evaluations.jsonl").is_file():
        held = sorted(read_jsonl(out / "evaluations.jsonl", "evaluations"), key=lambda e: e["step"])
        axes.plot(
            [e["step"] for e in held], [e["solved"] for e in held], "o-", label="solved, held out"
        )
    axes.set_xlabel("step")
    axes.set_ylim(0, 1)
    axes.legend()
    figure.tight_layout()
    figure.savefig(out / "curve.svg")
    pyplot.close(figure)
    return out / "curve.svg"
