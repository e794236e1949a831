"""Commands for anybody's agent: run a model, run a class from a file."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import inspect
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from longcat_envs._fields import DomainError
from longcat_envs._loop import Policy
from longcat_envs.history import Setting
from longcat_envs.loaders import ForeignSet, is_foreign
from longcat_envs.running import (
    AnyPolicy,
    AnyTask,
    Endpoint,
    ModelPolicy,
    Trial,
    WindowJudge,
    agreement,
    foreign_person_by,
    person_by,
    read_trials,
    run_trials,
    summary,
)
from longcat_envs.tasks import TaskMaker

from ._common import (
    Commands,
    command,
    count,
    foreign_argument,
    foreign_of,
    num_tasks,
    read_tasks,
    say,
    setting_of,
    show,
    task_arguments,
)  # fmt: skip


def register(commands: Commands) -> None:
    """Add the commands of this room."""
    run = command(commands, "run", _run, "run a model on tasks: pass^k and pass@k", domain=True)
    endpoint_arguments(run)
    run.add_argument("--user", default="rules", metavar="rules|URL",
                     help="who speaks for the person: rules, or a model at this URL")  # fmt: skip
    run.add_argument("--user-name", default="default", help="that model's name at its server")
    run.add_argument(
        "--judge", metavar="URL", help="a model that judges by rubrics, beside the state"
    )
    run.add_argument("--judge-name", default="default", help="that model's name at its server")
    run.add_argument("--k", type=count, default=4, help="episodes of each task")
    run.add_argument("--concurrency", type=count, default=4, help="episodes at once")
    run.add_argument("--file", type=Path, help="take the tasks of this file instead")
    run.add_argument("--out", type=Path, metavar="FILE.jsonl",
                     help="keep each episode here; a run that is begun again goes on")  # fmt: skip
    task_arguments(run, tasks=10)
    foreign_argument(run)


def endpoint_arguments(one: argparse.ArgumentParser) -> None:
    """Add which model answers, and how it is asked."""
    one.add_argument("--model", required=True, metavar="URL", help="OpenAI-compatible base URL")
    one.add_argument("--name", dest="model_name", default="default",
                     metavar="NAME", help="the model's name there")  # fmt: skip
    one.add_argument("--key-variable", default="OPENAI_API_KEY", metavar="NAME",
                     help="environment variable that holds the key, if one is needed")  # fmt: skip
    one.add_argument("--temperature", type=float, default=None)
    one.add_argument("--timeout", type=float, default=120.0, metavar="SECONDS")
    one.add_argument("--tries", type=count, default=4, metavar="N", help="tries of one request")


def endpoint_of(given: argparse.Namespace) -> Endpoint:
    """Return the endpoint of the model that was named."""
    return _endpoint(given, given.model, given.model_name)


def _run(given: argparse.Namespace) -> int:
    if given.k < 1 or given.concurrency < 1:
        raise DomainError("--k and --concurrency must be at least 1")
    if is_foreign(given.domain):
        return _run_foreign(given)
    setting = setting_of(given)
    endpoint = endpoint_of(given)
    person = None
    if given.user != "rules":
        user = replace(_endpoint(given, given.user, given.user_name), settings={})
        person = person_by(user, setting.words.title)
    judge = None
    if given.judge is not None:
        judge = WindowJudge(replace(_endpoint(given, given.judge, given.judge_name), settings={}))
    if given.file is not None:
        tasks = read_tasks(given.file, setting)
    else:
        maker = TaskMaker(setting, seed=given.seed, difficulty=given.difficulty)
        tasks = [next(maker) for _ in range(num_tasks(given))]
    trials, is_whole = run_kept(
        setting, tasks, lambda task, number: ModelPolicy(endpoint), num_trials=given.k,
        out=given.out, person=person, concurrency=given.concurrency, judge=judge,
    )  # fmt: skip
    verdicts = [(t["passed"], t["judged"]) for t in trials if "judged" in t]
    by_judge = {"judge": agreement(verdicts)} if judge is not None else {}
    show(given, {
        "summary": {"domain": setting.spec.name, "difficulty": given.difficulty,
                    "model": given.model_name, **summary(trials, given.k),
                    "reasons": sorted({t["reason"] for t in trials if t["reason"]})[:3],
                    **by_judge},
        "rows": trials,
    })  # fmt: skip
    return _exit_code(trials, is_whole)


def _run_foreign(given: argparse.Namespace) -> int:
    """Run a model on tasks of another benchmark."""
    if given.judge is not None or given.file is not None:
        raise DomainError("--judge and --file are for our own domains")
    source = foreign_of(given)
    endpoint, person = endpoint_of(given), None
    if given.user != "rules":
        if any(len(task.turns) > 1 for task in source.tasks):
            raise DomainError(f"--user is rules for {source.name}: its persons say prepared lines")
        user = replace(_endpoint(given, given.user, given.user_name), settings={})
        person = foreign_person_by(user)
    trials, is_whole = run_kept(
        source, list(source.tasks)[: given.tasks], lambda task, number: ModelPolicy(endpoint),
        num_trials=given.k, out=given.out, concurrency=given.concurrency, person=person,
    )  # fmt: skip
    show(given, {
        "summary": {"set": source.name, "version": source.version, "model": given.model_name,
                    **summary(trials, given.k),
                    "reasons": sorted({t["reason"] for t in trials if t["reason"]})[:3]},
        "rows": trials,
    })  # fmt: skip
    return _exit_code(trials, is_whole)


def _exit_code(trials: Sequence[Trial], is_whole: bool) -> int:
    """130 where it was stopped, 1 where no episode tells anything of the model."""
    if not is_whole:
        return 130
    if trials and all(trial["status"] == "invalid" for trial in trials):
        say(f"no episode is valid, the first: {trials[0]['reason']}", is_error=True)
        return 1
    return 0


def _endpoint(given: argparse.Namespace, url: str, name: str) -> Endpoint:
    settings = {} if given.temperature is None else {"temperature": given.temperature}
    key = os.environ.get(given.key_variable, "")
    try:
        return Endpoint(url, model=name, key=key, timeout_s=given.timeout,
                        num_tries=given.tries, settings=settings)  # fmt: skip
    except ValueError as error:
        raise DomainError(str(error)) from None


def run_kept(
    setting: Setting | ForeignSet, tasks: Sequence[AnyTask],
    policy: Callable[[AnyTask, int], Policy], *,
    num_trials: int, out: Path | None, **more: Any,
) -> tuple[list[Trial], bool]:  # fmt: skip
    """Run tasks; what has ended is kept, in the file too, even if Ctrl-C ends the rest.

    Returns:
        The records, those of an earlier run with the same file first, and whether all were run.
    """
    known = {task.id for task in tasks}
    try:
        kept = read_trials(out) if out is not None else []
    except ValueError as error:
        raise DomainError(str(error)) from None
    if out is not None and kept:  # without the line that was cut off
        out.write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in kept), "utf-8")
    trials = [t for t in kept if t["task"] in known and t["status"] != "invalid"]
    done = {(t["task"], t["trial"]) for t in trials}

    def keep(trial: Trial) -> None:
        trials.append(trial)
        if out is not None:
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(trial, ensure_ascii=False) + "\n")

    try:
        asyncio.run(run_trials(
            setting, tasks, policy, num_trials=num_trials, keep=keep, done=done, **more
        ))  # fmt: skip
    except KeyboardInterrupt:
        say("stopped: what has ended is kept", is_error=True)
        return trials, False
    return trials, True


def load_agent(text: str) -> Callable[[], Any]:
    """Return the class that `FILE:Class` names.

    Raises:
        DomainError: There is no such file or class, or it has no `chat`.
    """
    path, _, name = text.rpartition(":")
    file = Path(path)
    if not path or not file.is_file():
        raise DomainError(f"an agent is FILE:Class, got {text!r}; is there such a file?")
    module_spec = importlib.util.spec_from_file_location("stranger", file)
    if module_spec is None or module_spec.loader is None:
        raise DomainError(f"{file} must be a Python file")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's file raises is one line
        raise DomainError(f"{file}: {type(error).__name__}: {error}") from None
    found = getattr(module, name, None)
    if not inspect.isclass(found) or not callable(getattr(found, "chat", None)):
        raise DomainError(
            f"{file} must hold a class {name!r} with a method chat(messages, *, tools)"
        )
    return found


def run_agent(
    setting: Setting | ForeignSet, agent: Callable[[], Any], tasks: Sequence[AnyTask]
) -> list[Trial]:
    """Run a stranger's class once on each task."""
    trials, _ = run_kept(setting, tasks, lambda task, number: AnyPolicy(agent()),
                         num_trials=1, out=None)  # fmt: skip
    return trials
