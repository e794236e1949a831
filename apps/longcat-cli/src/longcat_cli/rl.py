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
import json
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .errors import UsageError
from .machine import dtype_here
from .models import loaded, model_folder
from .rl_options import RlOptions, check_called, options_of, split_tasks
from .rl_report import Reporter, draw_curve

if TYPE_CHECKING:
    from longcat_dora import RunConfig, Task, Worker
    from longcat_dora.transformers import TransformersEngine
    from longcat_gspo import GspoTrainer


def build_worker(options: RlOptions, model: str) -> Worker:
    """Built in each controller's process: it must be importable there."""
    import torch
    from longcat_dora.transformers import chat_worker, world_worker

    be_quiet()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the other half trains
    if options.engine == "vllm":
        return _vllm_worker(options, model)
    common = {
        "max_tokens": options.max_tokens, "temperature": options.temperature,
        "dtype": _dtype(options),
        "max_length": options.max_length, "num_rows": options.groups * options.group_size,
    }  # fmt: skip
    if options.world:
        return world_worker(model, options.world, **common)
    return chat_worker(model, options.reward, **common)


def _vllm_worker(options: RlOptions, model: str) -> Worker:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # else hundreds of lines between ours
    import torch
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
        model, stop_token_ids=stops, max_model_len=options.max_length, dtype=options.dtype,
        enforce_eager=not torch.cuda.is_available(),  # two minutes of compiling, no faster on a CPU
    )  # fmt: skip
    engine = ReplicatedEngine([replica], max_length=options.max_length)
    return replace(
        made, engine=engine, max_tokens=options.max_tokens, temperature=options.temperature
    )


def train_rl(out: Path, options: RlOptions) -> GspoTrainer:
    """Run to the end, or go on where a run was stopped.

    What imports torch is left to where the trainer is made: the engine's process imports beside it.
    """
    from longcat_dora import Task
    from longcat_dora.transformers import score_file

    runtime = _runtime(options)
    train, held = split_tasks(options)
    check_called(options, score_file(options.reward or options.world))  # before a model is loaded
    name = model_folder(options.model)
    examined = replace(options, engine="transformers")
    reporter = Reporter(
        out, options, [Task(f"held-{n}", task) for n, task in enumerate(held)],
        functools.partial(build_worker, examined, name),
    )  # fmt: skip

    tokenizer: Any = None

    def make_trainer() -> GspoTrainer:
        nonlocal tokenizer
        try:
            made, tokenizer = _trainer(options, name)
            _check_prompts(options, tokenizer, train)
        except Exception:
            _forget_unbegun(out / "run" / "log")
            raise
        reporter.begin()
        return made

    run = runtime(
        _run_config(out, options, evaluates=bool(held)), trainer=make_trainer,
        factory=functools.partial(build_worker, options, name), tasks=_tasks(options, train),
        on_step=reporter.step, on_group=reporter.group,
        evaluate=reporter.evaluate if held else None, on_stop=reporter.stop,
    )  # fmt: skip
    try:
        run.run()
        reporter.end()
    finally:
        reporter.close()
    trainer: GspoTrainer = run.trainer
    if trainer.num_batches:  # a model that learned nothing is not to be taken for one that did
        trainer.export(out / "model", tokenizer=tokenizer, only_adapter=options.adapter)
    return trainer


def _forget_unbegun(log: Path) -> None:
    """Let a run that failed before its first event be begun anew, with other options."""
    if log.is_dir() and all(path.name == "lock" for path in log.iterdir()):
        shutil.rmtree(log)


def _trainer(options: RlOptions, name: str) -> tuple[GspoTrainer, Any]:
    """A trainer of the model, and the model's tokenizer."""
    import torch
    from longcat_gspo import GspoTrainer, TrainerConfig
    from longcat_gspo.transformers import shares_prefixes

    be_quiet()
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = _dtype(options)
    model, tokenizer = loaded(name, lora=options.lora, dtype=dtype, device=device)
    config = TrainerConfig(
        learning_rate=options.learning_rate, temperature=options.temperature,
        shared_prefixes=shares_prefixes(model), micro_batch_tokens=2048,
    )  # fmt: skip
    sends_adapter = bool(options.lora) and options.engine == "transformers"
    send = "adapter" if sends_adapter else "merged"
    return GspoTrainer(model, config, send=send), tokenizer


_CHECKED = 2000
"""Tasks whose prompts are counted before a run: a second or two."""


def _check_prompts(options: RlOptions, tokenizer: Any, train: list[dict[str, Any]]) -> None:
    """Say how many prompts leave no room for an answer: attempts at them end without a reward.

    Raises:
        UsageError: The model has no chat template, or all of them are too long.
    """
    if not tokenizer.chat_template:
        raise UsageError(f"--model must have a chat template, {options.model} has none")
    if options.world:
        return  # what is said there is its own affair
    train = train[:_CHECKED]
    lengths = [_prompt_tokens(tokenizer, task) for task in train]
    long = [length for length in lengths if length >= options.max_length]
    if len(long) == len(train):
        raise UsageError(
            f"--max-length must be more than a prompt's tokens, got {options.max_length}: the "
            f"shortest prompt in {options.tasks} has {min(lengths)}"
        )
    if long:
        typer.echo(
            f"{len(long)} of {len(train)} tasks are not learned from: their prompts fill "
            f"--max-length {options.max_length}, the longest has {max(long)} tokens"
        )


def _prompt_tokens(tokenizer: Any, task: dict[str, Any]) -> int:
    said = task.get("messages") or [{"role": "user", "content": task.get("prompt")}]
    try:
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    except Exception:  # what a template cannot write is told of when it is tried
        return 0
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def be_quiet() -> None:
    """No bars of weights being loaded, and no warnings to PEFT, between the lines that tell."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)


def _dtype(options: RlOptions) -> str:
    """Precision of engine and trainer alike: on a cluster they may be different machines."""
    is_here = (options.engine, options.runtime) == ("transformers", "local")
    return dtype_here(options.dtype) if is_here else options.dtype


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
        typer.echo(f"loading {model}; everything goes to {out}")
        out.mkdir(parents=True, exist_ok=True)
        for name in ("evaluations.jsonl", "answers.jsonl"):  # of a run that did not begin
            (out / name).unlink(missing_ok=True)
        path.write_text(json.dumps(asdict(options), indent=2) + "\n", encoding="utf-8")
    try:
        num = train_rl(out, options).num_batches
    except (LongcatDoraError, FloatingPointError) as error:
        raise UsageError(one_line(str(error))) from error
    except KeyboardInterrupt:
        typer.echo(f"\nstopped; continue with: longcat rl --resume --out {out}", err=True)
        raise SystemExit(130) from None
    finally:
        draw_curve(out)
    if num:
        typer.echo(f"model: {out / 'model'}  curve: {out / 'curve.svg'}")
    if num < options.steps:
        raise UsageError(f"{num} of {options.steps} steps were taken: {_why_few(out)}")


def _why_few(out: Path) -> str:
    """Why there was no more to learn from, and what attempts without a reward say most often."""
    from longcat_dora import read_events

    equal = "nothing is learned from a task whose attempts all get the same reward"
    log = out / "run" / "log"
    num_rewards, said = 0, Counter[str]()
    for event in read_events(log) if log.is_dir() else ():
        if event["kind"] == "produced":
            num_rewards += 1
        elif event["kind"] == "ended" and event["reason"] in ("masked", "failed", "invalid"):
            last = (event.get("detail") or event["reason"]).strip().splitlines()[-1]
            said[last.rpartition("LongcatDoraError: ")[2]] += 1
    if not said:
        return equal
    reason = said.most_common(1)[0][0]
    if not num_rewards:
        return f"no attempt got a reward, most often since {reason}"
    return f"{equal}, and {said.total()} attempts got none, most often since {reason}"


def one_line(said: str) -> str:
    """What was said first, and what a traceback in it ends with, and where."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if "Traceback" not in said:
        return said
    last = lines[-1].partition("LongcatDoraError: ")[2]
    path, number = re.findall(r'File "(.+?)", line (\d+)', said)[-1]
    where = f"{lines[-1]} ({Path(path).name}, line {number})"
    return f"{lines[0].rstrip(':')}: {last or where}"
