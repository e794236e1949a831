"""One model on one domain at one level: every task several times, in a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from longcat_cli.machine import dtype_here
from longcat_cli.processes import count, tune_process

from .measures import Attempt, Cell

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from longcat_dora import Worker


@dataclass(frozen=True, slots=True)
class Target:
    """A model that is asked."""

    name: str
    kind: Literal["longcat", "transformers", "server"]
    where: str
    """A folder, or a server's URL."""
    server_model: str = ""
    api_key_env: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an attempt may take, and how it is sampled."""

    max_length: int
    max_tokens: int
    max_turns: int
    temperature: float
    num_running: int
    """Attempts under way at once."""
    seed: int


@dataclass(frozen=True, slots=True)
class Question:
    """All that one cell takes; plain, so that it can be sent to a process."""

    target: Target
    domain: str
    """A shipped one's name, or a file."""
    level: float
    tasks: tuple[str, ...]
    """JSON, as `Task.to_json` writes it."""
    attempts: int
    limits: Limits


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Talk:
    """One conversation with a model."""

    policy: Any
    tokens: Callable[[], int | None]
    """Sampled so far."""
    close: Callable[[], Awaitable[None]]
    measure: Callable[[Sequence[Any], Sequence[Any]], int | None]
    """Tokens of the prompt that messages and tools make; `None` where only a server knows."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of an attempt."""

    attempt: Attempt
    messages: list[dict[str, Any]]
    prompt: int | None
    """Tokens of the prompt, if it left no room for an answer."""


def ask(question: Question) -> tuple[Cell, list[list[dict[str, Any]]]]:
    """Try every task; return the cell, and what was said in each of its attempts."""
    tune_process()
    return asyncio.run(_ask(question))


async def _ask(question: Question) -> tuple[Cell, list[list[dict[str, Any]]]]:
    from longcat_cli.worlds import load_worlds, read_task

    tasks = [read_task(line) for line in question.tasks]
    worlds = load_worlds([question.domain])
    free = asyncio.Semaphore(question.limits.num_running)
    async with _model(question.target, question.limits) as talk:
        tries = await _all(
            _try(question, worlds, task, number, talk, free)
            for task in tasks
            for number in range(question.attempts)
        )
    found = [outcome for outcome in tries if outcome is not None]
    cell = Cell(
        model=question.target.name,
        domain=next(iter(worlds)),
        level=question.level,
        attempts=tuple(tried.attempt for tried in found),
        num_invalid=len(tries) - len(found),
        note=_no_room(found, question),
    )
    return cell, [tried.messages for tried in found]


def _no_room(found: Sequence[Tried], question: Question) -> str:
    """How many attempts the model was never asked in, and why; empty if there are none."""
    unbegun = [tried for tried in found if not tried.attempt.was_begun]
    if not unbegun:
        return ""
    told = f"{len(unbegun)} of {len(found)} attempts had no room for an answer: "
    lengths = [tried.prompt for tried in unbegun if tried.prompt is not None]
    if not lengths:
        return told + "the server says that their prompts are too long"
    which = "the shortest prompt" if len(unbegun) == len(found) else "the shortest of their prompts"
    return f"{told}--max-length {question.limits.max_length}, {which} has {min(lengths)} tokens"


async def _all(tries: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Await all; the first that fails ends the others, and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in tries]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def _try(
    question: Question, worlds: Any, task: Any, number: int, talk: Callable[[int], Talk],
    free: asyncio.Semaphore,
) -> Tried | None:  # fmt: skip
    """One attempt; `None` where the world failed."""
    from longcat_envs import InvalidEpisode

    from longcat_cli.agent import act

    # The first attempt meets the noise that `longcat train` evaluates with; others their own.
    episode = f"eval:{task.id}" + (f":{number}" if number else "")
    async with free:
        talking = talk(seed_of(question.limits.seed, task.id, number))
        try:
            attempt = await act(
                worlds, task, talking.policy, level=question.level, episode=episode,
                max_turns=question.limits.max_turns,
            )  # fmt: skip
        except InvalidEpisode:
            return None
        finally:
            await talking.close()
            count()
    done = attempt.episode
    turns = sum(message["role"] == "assistant" for message in done.messages)
    tried = Attempt(
        task.id, number, question.level, done.reward.total, talking.tokens(), turns, done.status
    )
    prompt = None if tried.was_begun else talking.measure(done.messages, done.tools)
    return Tried(tried, list(done.messages), prompt)


def seed_of(seed: int, task: str, number: int) -> int:
    """The seed of an attempt: the same in whatever order attempts are made."""
    digest = hashlib.blake2b(f"{seed}:{task}:{number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


# -- models ------------------------------------------------------------------------------------


@asynccontextmanager
async def _model(target: Target, limits: Limits) -> AsyncIterator[Callable[[int], Talk]]:
    """What begins a conversation, given its seed."""
    if target.kind != "server":
        worker = (_ours if target.kind == "longcat" else _theirs)(target, limits)
        yield lambda seed: _session(worker, seed)
        return
    import httpx

    from .server import TIMEOUT, ServerPolicy

    key = os.environ.get(target.api_key_env, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    most = httpx.Limits(max_connections=limits.num_running)
    async with httpx.AsyncClient(timeout=TIMEOUT, headers=headers, limits=most) as client:

        def begin(seed: int) -> Talk:
            policy = ServerPolicy(
                client, target.where, target.server_model, max_tokens=limits.max_tokens,
                temperature=limits.temperature, seed=seed,
            )  # fmt: skip
            return Talk(policy, lambda: policy.tokens, _nothing, lambda messages, tools: None)

        yield begin


async def _nothing() -> None:
    pass


def _session(worker: Worker, seed: int) -> Talk:
    from longcat_dora import Session

    session = Session(worker, 0, seed=seed)
    renderer = worker.renderer
    assert renderer is not None, "a worker that chats"
    return Talk(
        session, lambda: sampled(session.segments), session.close,
        lambda messages, tools: len(renderer.start(list(messages), list(tools))),
    )  # fmt: skip


def sampled(segments: Sequence[Any]) -> int:
    """Tokens that were sampled, and not given."""
    return sum(sum(segment.loss_mask) for segment in segments)


def _ours(target: Target, limits: Limits) -> Worker:
    from longcat_cli.agent import load_agent

    return load_agent(
        Path(target.where), num_slots=limits.num_running, max_length=limits.max_length,
        max_tokens=limits.max_tokens, temperature=limits.temperature, seed=limits.seed,
    )  # fmt: skip


def _theirs(target: Target, limits: Limits) -> Worker:
    from longcat_dora import Worker
    from longcat_dora.transformers import TransformersEngine, TransformersRenderer

    engine = TransformersEngine(
        target.where, num_rows=limits.num_running, max_length=limits.max_length,
        dtype=dtype_here("auto"),
    )  # fmt: skip
    engine.load_weights(0, b"")
    return Worker(
        engine=engine,
        renderer=TransformersRenderer(engine.tokenizer),
        rollout=_no_rollout,
        max_tokens=limits.max_tokens,
        temperature=limits.temperature,
    )


async def _no_rollout(payload: Any, policy: Any) -> float:
    raise AssertionError("this worker is driven by hand")
