"""`longcat rl`: your model, your tasks, your reward function or world, on DORA and GSPO.

The folder it leaves:

    rl.json            what was asked for; `--resume` reads it
    run/               DORA's log, checkpoints and metrics.jsonl
    samples.jsonl      some answers of every step, to be read while it runs
    evaluations.jsonl  held-out tasks: before, during and after
    answers.jsonl      what was said to each of them, each time
    curve.svg          reward and evaluations
    model/             what transformers and vLLM load: merged, or the adapter with --adapter
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .errors import UsageError
from .models import loaded, model_folder

if TYPE_CHECKING:
    from longcat_dora import Progress, RunConfig, Task, Worker
    from longcat_dora.trackers import OnStep
    from longcat_gspo import GspoTrainer


@dataclass(frozen=True, kw_only=True)
class RlOptions:
    """One run; checked whole before anything is loaded."""

    model: str
    tasks: str = ""
    reward: str = ""
    world: str = ""
    held_out: str = ""
    engine: str = "transformers"
    runtime: str = "local"
    lora: int = 16
    steps: int = 50
    groups: int = 4
    group_size: int = 8
    max_tokens: int = 128
    max_length: int = 1024
    temperature: float = 1.0
    learning_rate: float = 1e-4
    staleness: int = 2
    evaluate_every: int = 10
    adapter: bool = False
    tracker: str = ""
    dtype: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.reward) == bool(self.world):
            raise UsageError("give either --reward FILE.py:NAME or --world FILE.py:NAME")
        if not self.tasks:
            raise UsageError(
                "--tasks must be a JSONL file: one task a line, with prompt or messages"
            )
        for name, allowed in (
            ("engine", ("transformers", "vllm")), ("runtime", ("local", "ray")),
            ("tracker", ("", "tensorboard", "wandb", "trackio")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                said = ", ".join(filter(None, allowed))
                raise UsageError(f"--{name} must be one of {said}, got {getattr(self, name)!r}")
        for name in ("steps", "groups", "group_size", "max_tokens", "max_length"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} must be at least 1, got {getattr(self, name)}")
        if self.group_size < 2:
            raise UsageError(
                "--group-size must be at least 2: attempts are compared with each other"
            )
        if self.temperature <= 0:
            raise UsageError(f"--temperature must be positive, got {self.temperature}")
        if self.lora < 0 or (self.adapter and not self.lora):
            raise UsageError("--lora must be a rank, or 0 for all weights; --adapter needs one")


def read_jsonl(path: Path, what: str) -> list[dict[str, Any]]:
    """Read objects, one a line.

    Raises:
        UsageError: There is no such file, a line is no object, or there is none.
    """
    if not path.is_file():
        raise UsageError(f"{what} must be a file, there is none at {path}")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        if not isinstance(item, dict):
            raise UsageError(f"{path}, line {number}: must be an object, got {type(item).__name__}")
        found.append(item)
    if not found:
        raise UsageError(f"{path} must hold at least one line, it is empty")
    return found


def append_jsonl(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add objects to a file, one a line."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def split_tasks(options: RlOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tasks to train on and to evaluate on: a file of their own, or every fifth, 64 at most."""
    tasks = read_jsonl(Path(options.tasks), "--tasks")
    if options.reward:
        for number, task in enumerate(tasks, start=1):
            if "prompt" not in task and "messages" not in task:
                raise UsageError(f"{options.tasks}, task {number}: must have prompt or messages")
    if options.held_out:
        return tasks, read_jsonl(Path(options.held_out), "--held-out")
    if len(tasks) < 5:
        return tasks, []
    held = tasks[::5][:64]
    return [task for task in tasks if task not in held], held


def build_worker(options: RlOptions, model: str) -> Worker:
    """Built in each controller's process: it must be importable there."""
    import torch
    from longcat_dora.transformers import chat_worker, world_worker

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the other half trains
    if options.engine == "vllm":
        return _vllm_worker(options, model)
    common = {
        "max_tokens": options.max_tokens, "temperature": options.temperature,
        "dtype": options.dtype,
        "max_length": options.max_length, "num_rows": options.groups * options.group_size,
    }  # fmt: skip
    if options.world:
        return world_worker(model, options.world, **common)
    return chat_worker(model, options.reward, **common)


def _vllm_worker(options: RlOptions, model: str) -> Worker:
    from longcat_dora import ReplicatedEngine
    from longcat_dora.transformers import chat_worker, world_worker
    from longcat_dora.vllm import VllmReplica

    replica = VllmReplica(model, max_model_len=options.max_length)
    engine = ReplicatedEngine([replica], max_length=options.max_length)
    made = (
        world_worker(model, options.world, device="meta", max_length=options.max_length)
        if options.world
        else chat_worker(model, options.reward, device="meta", max_length=options.max_length)
    )  # for its rollout and its renderer
    return replace(
        made, engine=engine, max_tokens=options.max_tokens, temperature=options.temperature
    )


class Reporter:
    """Writes what a person looks at: samples, evaluations, a line a step, a tracker's metrics."""

    def __init__(self, out: Path, options: RlOptions, held_out: list[Task]) -> None:
        self.out, self.options, self.held_out = out, options, held_out
        self._examiner: Worker | None = None
        self._track = open_tracker(options.tracker, out, asdict(options))
        self._step = 0

    def step(self, progress: Progress) -> None:
        """After each step."""
        metrics = progress.metrics
        lines = [
            {"step": progress.step, "task": t.task, "reward": t.reward, **t.info}
            for t in progress.batch[:: self.options.group_size]
        ]
        append_jsonl(self.out / "samples.jsonl", lines)
        self._step = progress.step
        self._track(progress)
        bar = "#" * round(40 * max(0.0, min(1.0, metrics["reward"])))
        typer.echo(f"step {progress.step:4d}  reward {metrics['reward']:.3f} {bar}")

    def evaluate(self, version: int, weights: bytes | memoryview) -> dict[str, float]:
        """Try the held-out tasks, each once, taking the likeliest words."""
        from longcat_dora import Progress
        from longcat_dora.transformers import evaluate

        if self._examiner is None:
            local = replace(self.options, engine="transformers")
            self._examiner = build_worker(local, model_folder(self.options.model))
        found = evaluate(self._examiner, self.held_out, weights=weights, version=version)
        rewards = [a.reward for a in found if a.reward is not None]
        exact = sum(reward >= 1 for reward in rewards)
        record = {
            "reward": sum(rewards) / max(1, len(rewards)), "solved": exact / len(found),
            "failed": len(found) - len(rewards),
        }  # fmt: skip
        append_jsonl(self.out / "evaluations.jsonl", [{"step": version, **record}])
        append_jsonl(self.out / "answers.jsonl", [
            {"step": version, "task": a.task, "reward": a.reward, **a.info} for a in found
        ])  # fmt: skip
        typer.echo(
            f"held out, step {version}: reward {record['reward']:.3f}, solved {record['solved']:.1%}"
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


def train_rl(out: Path, options: RlOptions) -> GspoTrainer:
    """Run to the end, or go on where a run was stopped."""
    from longcat_dora import LocalRuntime, Task
    from longcat_dora.transformers import score_file
    from longcat_gspo import GspoTrainer, TrainerConfig

    train, held = split_tasks(options)
    score_file(options.reward or options.world)  # before a model is loaded
    reporter = Reporter(out, options, [Task(f"held-{n}", task) for n, task in enumerate(held)])
    name = model_folder(options.model)
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = loaded(name, lora=options.lora, dtype=options.dtype, device=device)
    config = TrainerConfig(learning_rate=options.learning_rate, temperature=options.temperature)
    sends_adapter = bool(options.lora) and options.engine == "transformers"
    trainer = GspoTrainer(model, config, send="adapter" if sends_adapter else "merged")
    is_new = not (out / "run" / "log").is_dir()
    if is_new and held:
        reporter.evaluate(0, b"")

    runtime: Any = LocalRuntime
    if options.runtime == "ray":
        from longcat_dora.ray import RayRuntime

        runtime = RayRuntime
    runtime(
        _run_config(out, options, evaluates=bool(held)), trainer=trainer,
        factory=functools.partial(build_worker, options, name), tasks=_tasks(options, train),
        on_step=reporter.step, evaluate=reporter.evaluate if held else None,
    ).run()  # fmt: skip
    trainer.export(out / "model", tokenizer=tokenizer, only_adapter=options.adapter)
    return trainer


def _tasks(options: RlOptions, train: list[dict[str, Any]]) -> Iterator[Task]:
    """Pass over the tasks again and again, more often than steps can take them."""
    from longcat_dora import Task

    for number in range(options.steps * options.groups * 100):
        place = number % len(train)
        yield Task(f"task-{place}-{number // len(train)}", train[place])


def _run_config(out: Path, options: RlOptions, *, evaluates: bool) -> RunConfig:
    from longcat_dora import RunConfig, SchedulerConfig

    return RunConfig(
        folder=out / "run", max_steps=options.steps, save_every=5, seed=options.seed,
        rollout_deadline_s=900, stall_deadline_s=1800,
        evaluate_every=options.evaluate_every if evaluates else 0,
        scheduler=SchedulerConfig(
            groups_per_batch=options.groups, group_size=options.group_size,
            hard_staleness=options.staleness, soft_staleness=min(1, options.staleness),
            max_running=2 * options.groups * options.group_size,
        ),
    )  # fmt: skip


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


def rl(
    model: Annotated[str, typer.Option(help="A fetched model, a folder, or a hub's name.")] = "",
    tasks: Annotated[
        str, typer.Option(help="JSONL: one task a line, with prompt or messages.")
    ] = "",
    reward: Annotated[str, typer.Option(help="FILE.py:NAME of score(task, answer) -> float.")] = "",
    world: Annotated[
        str, typer.Option(help="FILE.py:NAME of async rollout(task, policy) -> float.")
    ] = "",
    held_out: Annotated[
        str, typer.Option(help="JSONL of tasks to evaluate on; every fifth task when absent.")
    ] = "",
    engine: Annotated[str, typer.Option(help="transformers or vllm.")] = "transformers",
    runtime: Annotated[str, typer.Option(help="local or ray.")] = "local",
    lora: Annotated[int, typer.Option(help="Rank of the adapter; 0 trains all weights.")] = 16,
    steps: Annotated[int, typer.Option(help="Steps of the trainer.")] = 50,
    groups: Annotated[int, typer.Option(help="Tasks a step.")] = 4,
    group_size: Annotated[int, typer.Option(help="Attempts at each task.")] = 8,
    max_tokens: Annotated[int, typer.Option(help="Of an answer.")] = 128,
    max_length: Annotated[int, typer.Option(help="Of a conversation, in tokens.")] = 1024,
    temperature: Annotated[float, typer.Option(help="Of the sampling.")] = 1.0,
    learning_rate: Annotated[float, typer.Option(help="Of the optimiser.")] = 1e-4,
    staleness: Annotated[int, typer.Option(help="Versions that a sample may be old.")] = 2,
    evaluate_every: Annotated[int, typer.Option(help="Steps; 0: before and after alone.")] = 10,
    adapter: Annotated[bool, typer.Option(help="Leave the adapter, not the merged model.")] = False,
    tracker: Annotated[str, typer.Option(help="tensorboard, wandb or trackio.")] = "",
    dtype: Annotated[str, typer.Option(help="Of the weights, such as bfloat16.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("rl-run"),
    resume: Annotated[bool, typer.Option(help="Go on with the run in --out.")] = False,
) -> None:
    """Train a model on your tasks with your reward function or world."""
    said = {k: v for k, v in locals().items() if k not in ("out", "resume")}
    path = out / "rl.json"
    if resume:
        if not path.is_file():
            raise UsageError(f"--resume needs a run in --out, {path} is not there")
        options = RlOptions(**json.loads(path.read_text("utf-8")))
    else:
        if path.exists():
            raise UsageError(f"{out} holds a run already; continue it with --resume --out {out}")
        if not model:
            raise UsageError("--model must be a fetched model, a folder, or a hub's name")
        options = RlOptions(**said)
        split_tasks(options)
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(options), indent=2) + "\n", encoding="utf-8")
    try:
        train_rl(out, options)
    except KeyboardInterrupt:
        typer.echo(f"\nstopped; continue with: longcat rl --resume --out {out}", err=True)
        raise SystemExit(130) from None
    finally:
        draw_curve(out)
    typer.echo(f"model: {out / 'model'}  curve: {out / 'curve.svg'}")
