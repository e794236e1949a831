"""Prove, task by task and draw by draw, that noise leaves the goal within reach and within limits.

Three reference agents replay a golden chain under the very noise of the episode. If all of them
reach the goal within the limits and no write happens twice, the certificate says at what cost. If
they need too many turns or tokens, the disturbances with a cost are thinned one by one, the least
likely first to go, and the certificate says how many are left (`allowance`). What cannot be
certified at all is refused with the reason.

The certificate and the episode know of each other: `Certificate.wrap` makes the environment whose
noise was certified, and `turns` is what its turn limit must allow.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ._agents import HABITS, Agent, Replay, count_tokens
from ._contract import Book
from ._draw import canonical
from ._kind import compact
from ._noise import EpisodeNoise, NoiseConfig
from ._recorded import RecordedWorld
from ._task import NoiseTask
from ._truth import Truth, awaited, look, total
from ._wrap import NoisyEnvironment
from ._written import Written

World = Callable[[NoiseTask], Any]
PATIENCE = 400
"""Turns after which a reference agent gives up where no limit is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """That one task can be solved under one draw of noise."""

    task: str
    episode: str
    noise: dict[str, Any]
    """The noise's configuration."""
    allowance: int | None
    """Disturbances with a cost that the chain may meet; `None` if none had to be taken out."""
    chain: list[dict[str, Any]]
    disturbed: list[dict[str, Any]]
    """What the agent that met most of it met."""
    clean_turns: int
    turns: int
    """The most that a reference agent needs."""
    tokens: int
    retries: int
    """Calls beyond the chain's own, at most."""
    max_turns: int | None
    max_tokens: int | None
    agents: dict[str, dict[str, int]]
    is_certified: bool = True

    def to_json(self) -> str:
        """Return one line of JSON."""
        return compact(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Certificate:
        """Read what `to_json` wrote."""
        return cls(**json.loads(line))

    @property
    def config(self) -> NoiseConfig:
        """The noise that was certified."""
        raw = dict(self.noise)
        for name in ("tool_kinds", "user_kinds"):
            raw[name] = tuple(raw[name])
        return NoiseConfig(**raw)

    def wrap(
        self, inner: Any, task: NoiseTask, book: Book, *, written: Written | None = None
    ) -> NoisyEnvironment:
        """Return an environment in the noise that was certified, with the same written turns."""
        return _noisy(inner, task, book, self.config, self.episode, self.allowance, written)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """That no certificate was given, and why."""

    task: str
    episode: str
    reason: str
    is_certified: bool = False

    def to_json(self) -> str:
        """Return one line of JSON."""
        return compact(dataclasses.asdict(self))


def certify(
    task: NoiseTask,
    config: NoiseConfig,
    *,
    episode: str,
    book: Book | None = None,
    world: World | None = None,
    max_turns: int | None = None,
    max_tokens: int | None = None,
    count: Callable[[str], int] = count_tokens,
    written: Written | None = None,
) -> Certificate | Refusal:
    """Certify one task under one draw of noise, or refuse it.

    Args:
        task: With its golden chains.
        config: The noise.
        episode: Names the draw.
        book: Contracts of the tools.
        world: Makes the task's environment; without it a world is made of the contracts.
        max_turns: Messages of the agent; the task's own limit if not given.
        max_tokens: Of all that is said and answered; the task's own limit if not given.
        count: Counts tokens.
        written: Turns that a model has written (`write_turns`).

    Example:
        >>> chain = [{"tool": "find", "arguments": {"n": "Ada"}}]
        >>> task = NoiseTask.read({"id": "t", "golden": chain})
        >>> noise = NoiseConfig(level=1.0, tool_kinds=("failure",))
        >>> certify(task, noise, episode="e", max_turns=2).turns
        2
    """
    return asyncio.run(
        certify_async(task, config, episode=episode, book=book, world=world, max_turns=max_turns,
                      max_tokens=max_tokens, count=count, written=written)
    )  # fmt: skip


async def certify_async(
    task: NoiseTask,
    config: NoiseConfig,
    *,
    episode: str,
    book: Book | None = None,
    world: World | None = None,
    max_turns: int | None = None,
    max_tokens: int | None = None,
    count: Callable[[str], int] = count_tokens,
    written: Written | None = None,
) -> Certificate | Refusal:
    """As `certify`, in a running loop."""
    declared = book or Book()
    known = declared

    def recorded(one: NoiseTask) -> Any:
        return RecordedWorld(one, declared)

    make: World = world or recorded
    limits = (max_turns or task.max_turns, max_tokens or task.max_tokens)

    def refuse(reason: str) -> Refusal:
        return Refusal(task=task.id, episode=episode, reason=reason)

    try:
        first = make(task)
        known = known.with_schemas((await awaited(first.reset())).tools)
        await awaited(first.close())
        truth = await look(task, known, lambda: make(task))
    except ValueError as error:
        return refuse(str(error))
    if limits[0] is not None and truth.turns > limits[0]:
        return refuse(f"the golden chain alone takes {truth.turns} turns, more than {limits[0]}")
    calls = task.calls
    most = len(EpisodeNoise(config, episode, book=known, chains=calls).expected())
    reason = ""
    for allowance in (None, *range(most - 1, -1, -1)):
        trial = _Trial(task, config, episode, known, make, truth, allowance, limits, count, written)
        replays = await trial.run()
        reason = next((f"{r.habit}: {r.reason}" for r in replays if r.reason), "")
        if not reason:
            return trial.certificate(replays)
    return refuse(reason)


def _noisy(
    inner: Any,
    task: NoiseTask,
    book: Book,
    config: NoiseConfig,
    episode: str,
    allowance: int | None,
    written: Written | None,
) -> NoisyEnvironment:
    return NoisyEnvironment(
        inner, config, episode=episode, protected=task.protected, contracts=book,
        chains=task.calls, allowance=allowance, written=written,
    )  # fmt: skip


@dataclass(slots=True)
class _Trial:
    """Three agents under one allowance."""

    task: NoiseTask
    config: NoiseConfig
    episode: str
    book: Book
    make: World
    truth: Truth
    allowance: int | None
    limits: tuple[int | None, int | None]
    count: Callable[[str], int]
    written: Written | None
    log: list[dict[str, Any]] = dataclasses.field(default_factory=list[dict[str, Any]])

    async def run(self) -> list[Replay]:
        """Let the agents replay the chain; the first that fails ends the trial."""
        replays: list[Replay] = []
        for habit in HABITS:
            counted = _Counted(self.make(self.task), self.book)
            noisy = _noisy(counted, self.task, self.book, self.config, self.episode,
                           self.allowance, self.written)  # fmt: skip
            doubts = self.config.level > 0 and "inconsistent" in self.config.tool_kinds
            agent = Agent(
                habit, self.task, noisy, self.book, self.truth,
                max_turns=self.limits[0] or PATIENCE, doubts=doubts, count=self.count,
            )  # fmt: skip
            replay = await agent.act()
            await self._judge(replay, counted)
            replays.append(replay)
            if len(noisy.log) > len(self.log):
                self.log = list(noisy.log)
            if replay.reason:
                break
        return replays

    async def _judge(self, replay: Replay, counted: _Counted) -> None:
        try:
            reached = total(await counted.score())
        except ValueError as error:
            reached, replay.reason = 0.0, replay.reason or str(error)
        await counted.close()
        limit = self.limits[1]
        if not replay.reason and limit is not None and replay.tokens > limit:
            replay.reason = f"{replay.tokens} tokens, more than {limit}"
        if not replay.reason and counted.repeated(self.truth):
            replay.reason = f"writes again: {counted.repeated(self.truth)}"
        if not replay.reason and reached < 1:
            replay.reason = f"does not reach the goal: reward {reached:g}"

    def certificate(self, replays: list[Replay]) -> Certificate:
        """Return the certificate of a trial in which all went well."""
        own = min(len(calls) for calls in self.task.calls)
        return Certificate(
            task=self.task.id, episode=self.episode,
            noise=json.loads(compact(dataclasses.asdict(self.config))),
            allowance=self.allowance, chain=_plain(self.task), disturbed=self.log,
            clean_turns=self.truth.turns, turns=max(r.turns for r in replays),
            tokens=max(r.tokens for r in replays), retries=max(r.calls for r in replays) - own,
            max_turns=self.limits[0], max_tokens=self.limits[1],
            agents={r.habit: {"turns": r.turns, "tokens": r.tokens, "calls": r.calls}
                    for r in replays},
        )  # fmt: skip


def _plain(task: NoiseTask) -> list[dict[str, Any]]:
    return [
        {"tool": step.call.tool, "arguments": step.call.arguments} if step.call else
        {"say": step.say}
        for step in task.chains[0]
    ]  # fmt: skip


class _Counted:
    """A world that counts how often each write really happens, beneath the noise."""

    def __init__(self, inner: Any, book: Book) -> None:
        self._inner, self._book = inner, book
        self._counts: dict[tuple[str, str], int] = {}
        self.reset, self.reply = inner.reset, inner.reply

    async def call(self, tool_call: Mapping[str, Any]) -> Any:
        """Pass on and count."""
        result = await awaited(self._inner.call(tool_call))
        function = tool_call["function"]
        contract = self._book[function["name"]]
        is_safe = contract.is_idempotent or contract.key
        if not result.is_error and contract.role == "writer" and not is_safe:
            name = (function["name"], canonical(function["arguments"]))
            self._counts[name] = self._counts.get(name, 0) + 1
        return result

    async def score(self) -> Any:
        """Judge."""
        return await awaited(self._inner.score())

    async def close(self) -> None:
        """Free what is held."""
        await awaited(self._inner.close())

    def repeated(self, truth: Truth) -> str:
        """Return a write that happened more often than any chain has it; empty if none did."""
        for name, num in self._counts.items():
            if num > max(counts.get(name, 0) for counts in truth.counts):
                return name[0]
        return ""
