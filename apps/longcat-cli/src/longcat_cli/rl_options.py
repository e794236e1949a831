"""What `longcat rl` is asked for, checked whole before anything is loaded, and its files read."""

from __future__ import annotations

import functools
import inspect
import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import typer

from .errors import UsageError


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
        self._check_kinds()
        if bool(self.reward) == bool(self.world):
            raise UsageError("give either --reward FILE.py:NAME or --world FILE.py:NAME")
        if not self.tasks:
            raise UsageError(
                "--tasks must be a JSONL file: one task a line, with prompt or messages"
            )
        for name, allowed in (
            ("engine", ("transformers", "vllm")), ("runtime", ("local", "ray")),
            ("tracker", ("", "tensorboard", "wandb", "trackio")),
            ("dtype", ("auto", "float32", "bfloat16", "float16")),
        ):  # fmt: skip
            if getattr(self, name) not in allowed:
                said = ", ".join(filter(None, allowed))
                raise UsageError(f"--{name} must be one of {said}, got {getattr(self, name)!r}")
        self._check_numbers()

    def from_anywhere(self) -> RlOptions:
        """Files by their whole paths: for `--resume` from elsewhere, and for workers of Ray."""
        names = [name for name in ("tasks", "held_out", "reward", "world") if getattr(self, name)]
        names += ["model"] if Path(self.model).exists() else []
        return replace(self, **{name: str(Path(getattr(self, name)).absolute()) for name in names})

    def _check_kinds(self) -> None:
        """The command line gives what was declared; a file that was edited may hold anything."""
        for field in fields(self):
            value, (kinds, said) = getattr(self, field.name), _KINDS[str(field.type)]
            if type(value) not in kinds:
                raise TypeError(f"{field.name} must be {said}, got {value!r:.60}")

    def _check_numbers(self) -> None:
        for name, least in (
            ("steps", 1), ("groups", 1), ("group_size", 1), ("max_tokens", 1), ("max_length", 2),
            ("staleness", 0), ("evaluate_every", 0), ("seed", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} must be at least {least}, got {getattr(self, name)}")
        if self.group_size < 2:
            raise UsageError(
                "--group-size must be at least 2: attempts are compared with each other"
            )
        if self.max_tokens >= self.max_length:
            raise UsageError(
                f"--max-tokens must be below --max-length, which holds the prompt too, got "
                f"{self.max_tokens} and {self.max_length}"
            )
        for name in ("temperature", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} must be positive and finite, got {getattr(self, name)}")
        if self.lora < 0 or (self.adapter and not self.lora):
            raise UsageError("--lora must be a rank, or 0 for all weights; --adapter needs one")


_KINDS = {
    "str": ((str,), "text"), "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"), "bool": ((bool,), "true or false"),
}  # fmt: skip
"""Of an option's type: what its value may be, and how that is called."""


def read_jsonl(path: Path, what: str) -> list[dict[str, Any]]:
    """Read objects, one a line; see `numbered_jsonl`."""
    return [item for _, item in numbered_jsonl(path, what)]


def numbered_jsonl(path: Path, what: str) -> list[tuple[int, dict[str, Any]]]:
    """Read objects, one a line, each with its line's number.

    Raises:
        UsageError: There is no such file, it is no text, a line is no object, or there is none.
    """
    if not path.is_file():
        raise UsageError(f"{what} must be a file, there is none at {path}")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} must be text in UTF-8: {error}") from error
    found: list[tuple[int, dict[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append((number, _object_of(line)))
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
    if not found:
        raise UsageError(f"{path} must hold at least one line, it is empty")
    return found


def _object_of(line: str) -> dict[str, Any]:
    """What a line of JSON says.

    Raises:
        ValueError: It is no object, nested too deep, or holds what no tokenizer can read.
    """
    try:
        item = json.loads(line)
        if "\\u" in line:  # half a character can be written in no other way
            json.dumps(item, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError(f"must be nested less deep, got {line[:20]!r}...: {error}") from error
    except UnicodeEncodeError as error:
        half = error.object[error.start : error.end]
        raise ValueError(f"must be text that UTF-8 can write, got {half!a} alone") from error
    if not isinstance(item, dict):
        raise ValueError(f"must be an object, got {type(item).__name__}")
    return item


def split_tasks(options: RlOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tasks to train on and to evaluate on: a file of their own, or every fifth, 32 at most."""
    tasks = read_jsonl(Path(options.tasks), "--tasks")
    if options.reward:
        _check_tasks(options.tasks, tasks)
    if options.held_out:
        held = read_jsonl(Path(options.held_out), "--held-out")
        if options.reward:
            _check_tasks(options.held_out, held)
        return tasks, held
    different = list({json.dumps(task, sort_keys=True): task for task in tasks}.values())
    if len(different) < 5:
        return tasks, []
    held = different[::5][:32]
    return [task for task in tasks if task not in held], held


def _check_tasks(path: str, tasks: list[dict[str, Any]]) -> None:
    """A world's tasks are its own affair; a reward function's are prompts."""
    for number, task in enumerate(tasks, start=1):
        given: Any = task.get("messages")
        if given is None and isinstance(task.get("prompt"), str):
            continue
        said: list[Any] = given if isinstance(given, list) else []
        if not said or not all(_has_role(message) for message in said):
            raise UsageError(
                f"{path}, task {number}: must have prompt, a text, or messages, each with a role, "
                f"got {given if 'messages' in task else task!r:.60}"
            )


def _has_role(message: Any) -> bool:
    role = message.get("role") if isinstance(message, dict) else None
    return isinstance(role, str) and bool(role)


def check_called(options: RlOptions, called: Any) -> None:
    """Check what `--reward` or `--world` names, as far as its signature tells.

    Raises:
        UsageError: It is a class, takes other arguments, or is a world that is not awaited.
    """
    flag, where, given = (
        ("--reward", options.reward, "task, answer") if options.reward
        else ("--world", options.world, "task, policy")
    )  # fmt: skip
    name = where.rpartition(":")[2]
    if inspect.isclass(called):
        raise UsageError(f"{flag} must be a function {name}({given}), got the class {where}")
    try:
        signature = inspect.signature(called)
    except (ValueError, TypeError):
        signature = None  # of a function in C, which does not tell
    try:
        if signature is not None:
            signature.bind(None, None)
    except TypeError as error:
        raise UsageError(
            f"{flag} must be a function {name}({given}), got {name}{signature} in {where}: {error}"
        ) from error
    if options.world and not _is_async(called):
        raise UsageError(
            f"--world must be async def, of a task and a policy; {options.world} is not"
        )


def _is_async(called: Any) -> bool:
    """Whether a function, or an object that is called like one, is `async def`."""
    called = inspect.unwrap(called)
    while isinstance(called, functools.partial):
        called = inspect.unwrap(called.func)
    if not inspect.isroutine(called):
        called = inspect.unwrap(type(called).__call__)
    return inspect.iscoroutinefunction(called)


def options_of(path: Path, ctx: typer.Context) -> RlOptions:
    """What a run was asked for; of what is given beside `--resume`, it may get more steps.

    Raises:
        UsageError: There is no run, its file was damaged, or more is asked for.
    """
    if not path.is_file():
        raise UsageError(f"--resume needs a run in --out, {path} is not there")
    asked = {
        name: value for name, value in ctx.params.items()
        if name not in ("out", "resume") and _is_given(ctx, name)
    }  # fmt: skip
    if others := [f"--{name.replace('_', '-')}" for name in asked if name != "steps"]:
        raise UsageError(
            f"--resume goes on with what {path} says, and takes --steps alone beside it, got "
            f"{', '.join(others)}"
        )
    try:
        options = RlOptions(**json.loads(path.read_text("utf-8")) | asked)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} must hold a run's options: {error}") from error
    path.write_text(json.dumps(asdict(options), indent=2) + "\n", encoding="utf-8")
    return options


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
