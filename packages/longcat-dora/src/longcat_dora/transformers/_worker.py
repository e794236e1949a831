"""Workers for a reward function or a world of one's own: a function, or `FILE.py:NAME`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from longcat_dora import LongcatDoraError, Mask, Policy, Rollout, Worker

from ._engine import TransformersEngine
from ._renderer import TransformersRenderer

Reward = Callable[[Mapping[str, Any], str], "float | Awaitable[float]"]
"""Takes a task and the answer's text."""


def score_file(where: str) -> Callable[..., Any]:
    """Load a function from `FILE.py:NAME`.

    Raises:
        LongcatDoraError: There is no such file or function, or the file cannot be run.
    """
    path, _, name = where.rpartition(":")
    file = Path(path)
    if not name or file.suffix != ".py" or not file.is_file():
        raise LongcatDoraError(f"a function must be given as FILE.py:NAME, got {where!r}")
    module_name = f"longcat_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # for what the file pickles
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise LongcatDoraError(f"{path} cannot be run: {error!r}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise LongcatDoraError(f"{path} must define a function {name!r}, it does not")
    return cast("Callable[..., Any]", found)


def messages_of(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A task's `messages`, or its `prompt` as the user's.

    Raises:
        LongcatDoraError: It has neither.
    """
    if "messages" in task:
        return list(task["messages"])
    if "prompt" not in task:
        raise LongcatDoraError(f"a task must have messages or a prompt, got {sorted(task)}")
    return [{"role": "user", "content": task["prompt"]}]


def chat_worker(
    model: str, reward: Reward | str, *, max_tokens: int = 256, temperature: float = 1.0,
    **engine: Any,
) -> Worker:  # fmt: skip
    """Let a model answer tasks, and a function say what each answer is worth.

    Args:
        model: A folder or a hub's name.
        reward: Takes a task and the answer's text; or where it is, as `FILE.py:NAME`.
        max_tokens: Of an answer.
        temperature: Of the sampling.
        engine: Options of `TransformersEngine`.
    """
    score = score_file(reward) if isinstance(reward, str) else reward

    async def rollout(task: Mapping[str, Any], policy: Policy) -> tuple[float, dict[str, Any]]:
        answer = await policy.chat(messages_of(task), tools=[])
        if answer is None:
            raise Mask("the prompt fills the context")
        value: Any = score(task, answer["content"])
        value = await value if inspect.isawaitable(value) else value
        return float(value), {"answer": answer["content"]}

    return world_worker(model, rollout, max_tokens=max_tokens, temperature=temperature, **engine)


def world_worker(
    model: str, rollout: Rollout | str, *, max_tokens: int = 256, temperature: float = 1.0,
    **engine: Any,
) -> Worker:  # fmt: skip
    """Let a model act in a world.

    `async def rollout(task, policy) -> reward`, or `FILE.py:NAME`.
    """
    found = cast("Rollout", score_file(rollout)) if isinstance(rollout, str) else rollout
    made = TransformersEngine(model, **engine)
    renderer = TransformersRenderer(made.tokenizer, stop_token_ids=made.stop_token_ids)
    return Worker(
        engine=made, rollout=found, renderer=renderer, max_tokens=max_tokens,
        temperature=temperature,
    )  # fmt: skip
