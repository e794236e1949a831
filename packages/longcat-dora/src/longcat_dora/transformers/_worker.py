"""Workers for a reward function or a world of one's own: a function, or `FILE.py:NAME`."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from longcat_dora import Invalid, LongcatDoraError, Mask, Policy, Rollout, Worker

from ._engine import TransformersEngine
from ._file import score_file
from ._renderer import TransformersRenderer

Reward = Callable[[Mapping[str, Any], str], "float | Awaitable[float]"]
"""Takes a task and the answer's text."""


def messages_of(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A task's `messages`, or its `prompt` as the user's.

    Raises:
        LongcatDoraError: It has neither, or they are none.
    """
    given: Any = task.get("messages")
    if given is None and "prompt" in task:
        if not isinstance(task["prompt"], str):
            raise LongcatDoraError(f"a task's prompt must be text, got {task['prompt']!r:.60}")
        return [{"role": "user", "content": task["prompt"]}]
    if given is None:
        raise LongcatDoraError(f"a task must have messages or a prompt, got {sorted(task)}")
    said = list(cast("list[Any]", given)) if isinstance(given, (list, tuple)) else []
    if not said or not all(_has_role(message) for message in said):
        raise LongcatDoraError(
            f"a task's messages must be a list, each with a role, got {given!r:.60}"
        )
    return said


def _has_role(message: Any) -> bool:
    is_object = isinstance(message, Mapping)
    return is_object and isinstance(cast("Mapping[str, Any]", message).get("role"), str)


async def scored(score: Reward, task: Mapping[str, Any], answer: str) -> float:
    """What an answer is worth.

    Raises:
        LongcatDoraError: The reward function raised, or returned what is no finite number.
    """
    name = getattr(score, "__name__", repr(score))
    try:
        value: Any = score(task, answer)
        value = await value if inspect.isawaitable(value) else value
    except (Mask, Invalid):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        # What cannot be called, as with other arguments, raises here: no place to look at.
        is_ours = last.filename == __file__
        where = "" if is_ours else f" at {Path(last.filename).name}, line {last.lineno}"
        raise LongcatDoraError(f"the reward {name} raised {error!r}{where}") from error
    number = as_reward(value)
    if number is None:
        raise LongcatDoraError(
            f"the reward {name} must return a finite number, got {value!r:.60} for the answer "
            f"{answer!r:.60}"
        )
    return number


def as_reward(value: Any) -> float | None:
    """A finite number, of whatever library; `None` for what is none."""
    try:
        number = math.nan if isinstance(value, (str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return number if math.isfinite(number) else None


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
        value = await scored(score, task, answer["content"])
        return value, {"answer": answer["content"]}

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
