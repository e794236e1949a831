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
import importlib.util
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .errors import UsageError
from .models import loaded, model_folder
from .rl_options import RlOptions, options_of, read_jsonl, split_tasks

if TYPE_CHECKING:
    from longcat_dora import Progress, RunConfig, Task, Worker
    from longcat_dora.trackers import OnStep
    from longcat_dora.transformers import TransformersEngine
    from longcat_gspo import GspoTrainer


def append_jsonl(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Add objects to a file, one a line."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


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

    common = {"device": "meta", "max_length": options.max_length}
    made = (
        world_worker(model, options.world, **common)
        if options.world
        else chat_worker(model, options.reward, **common)
    )  # for its rollout, its renderer and where an answer ends
    stops = cast("TransformersEngine", made.engine).stop_token_ids
    replica = VllmReplica(
        model, stop_token_ids=stops, max_model_len=options.max_length, dtype=options.dtype
    )
    engine = ReplicatedEngine([replica], max_length=options.max_length)
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
        if progress.step % 10 == 0:  # a picture to look at while it runs
            draw_curve(self.out)

    def evaluate(self, version: int, weights: bytes | memoryview) -> dict[str, float]:
        """Try the held-out tasks, each once, taking the likeliest words.

        Raises:
            UsageError: All of them fail before anything was trained.
        """
        from longcat_dora import Progress
        from longcat_dora.transformers import evaluate

        if self._examiner is None:
            local = replace(self.options, engine="transformers")
            self._examiner = build_worker(local, model_folder(self.options.model))
        found = evaluate(self._examiner, self.held_out, weights=weights, version=version)
        rewards = [a.reward for a in found if a.reward is not None]
        reasons = [str(a.info.get("error") or a.info) for a in found if a.reward is None]
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


def train_rl(out: Path, options: RlOptions) -> GspoTrainer:
    """Run to the end, or go on where a run was stopped."""
    from longcat_dora import Task
    from longcat_dora.transformers import score_file
    from longcat_gspo import GspoTrainer, TrainerConfig
    from longcat_gspo.transformers import shares_prefixes

    runtime = _runtime(options)
    train, held = split_tasks(options)
    called = score_file(options.reward or options.world)  # before a model is loaded
    is_async = inspect.iscoroutinefunction(inspect.unwrap(called))
    if options.world and inspect.isfunction(called) and not is_async:
        raise UsageError(
            f"--world must be async def, of a task and a policy; {options.world} is not"
        )
    reporter = Reporter(out, options, [Task(f"held-{n}", task) for n, task in enumerate(held)])
    name = model_folder(options.model)
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = loaded(name, lora=options.lora, dtype=options.dtype, device=device)
    config = TrainerConfig(
        learning_rate=options.learning_rate, temperature=options.temperature,
        shared_prefixes=shares_prefixes(model), micro_batch_tokens=2048,
    )  # fmt: skip
    sends_adapter = bool(options.lora) and options.engine == "transformers"
    trainer = GspoTrainer(model, config, send="adapter" if sends_adapter else "merged")
    is_new = not (out / "run" / "log").is_dir()
    if is_new and held:
        reporter.evaluate(0, b"")

    runtime(
        _run_config(out, options, evaluates=bool(held)), trainer=trainer,
        factory=functools.partial(build_worker, options, name), tasks=_tasks(options, train),
        on_step=reporter.step, evaluate=reporter.evaluate if held else None,
    ).run()  # fmt: skip
    trainer.export(out / "model", tokenizer=tokenizer, only_adapter=options.adapter)
    return trainer


def _runtime(options: RlOptions) -> Any:
    """The runtime's class.

    Raises:
        UsageError: What it or the engine needs is not installed.
    """
    if options.runtime == "ray":  # vLLM is then looked for where it will run
        try:
            from longcat_dora.ray import RayRuntime
        except ImportError as error:
            raise UsageError("--runtime ray needs: pip install 'longcat-dora[ray]'") from error
        return RayRuntime
    from longcat_dora import LocalRuntime

    if options.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UsageError("--engine vllm needs: pip install 'longcat-dora[vllm]'")
    return LocalRuntime


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
    ctx: typer.Context,
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
    said = {k: v for k, v in locals().items() if k not in ("ctx", "out", "resume")}
    from longcat_dora import LongcatDoraError

    path = out / "rl.json"
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out must be a folder, {out} is none")
    if resume:
        options = options_of(path, ctx)
    else:
        if path.exists() and (out / "run" / "log").is_dir():
            raise UsageError(f"{out} holds a run already; continue it with --resume --out {out}")
        if not model:
            raise UsageError("--model must be a fetched model, a folder, or a hub's name")
        options = RlOptions(**said).from_anywhere()
        split_tasks(options)
        out.mkdir(parents=True, exist_ok=True)
        for name in ("evaluations.jsonl", "answers.jsonl"):  # of a run that did not begin
            (out / name).unlink(missing_ok=True)
        path.write_text(json.dumps(asdict(options), indent=2) + "\n", encoding="utf-8")
    try:
        num = train_rl(out, options).num_batches
    except LongcatDoraError as error:
        raise UsageError(one_line(str(error))) from error
    except KeyboardInterrupt:
        typer.echo(f"\nstopped; continue with: longcat rl --resume --out {out}", err=True)
        raise SystemExit(130) from None
    finally:
        draw_curve(out)
    typer.echo(f"model: {out / 'model'}  curve: {out / 'curve.svg'}")
    if num < options.steps:
        raise UsageError(
            f"{num} of {options.steps} steps were taken: nothing is learned from a task whose "
            "attempts all get the same reward"
        )


def one_line(said: str) -> str:
    """What was said first, and what a traceback in it ends with, and where."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if "Traceback" not in said:
        return said
    last = lines[-1].partition("LongcatDoraError: ")[2]
    path, number = re.findall(r'File "(.+?)", line (\d+)', said)[-1]
    where = f"{lines[-1]} ({Path(path).name}, line {number})"
    return f"{lines[0].rstrip(':')}: {last or where}"
