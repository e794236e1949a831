"""Three reference agents that know a golden chain and meet its noise, each with a habit of its own.

    retry      asks again until an answer is whole; sends the golden arguments
    re-read    also reads contradictory sources until two answers agree; its later arguments are
               taken from what it saw, so that what is wrong there ends in the wrong place
    re-route   on the first failure changes to another chain, if one leads on from here

All three see only what an agent sees. Where the outcome of a write is unknown, they look before
they repeat it, unless the tool knows a repetition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ._contract import Book, Call
from ._draw import canonical
from ._kind import compact
from ._task import NoiseTask, Step
from ._truth import Truth, facts
from ._words import fold
from .tools import gone, lost_ack, partial, stale, truncated

Habit = Literal["retry", "re-read", "re-route"]
HABITS: tuple[Habit, ...] = ("retry", "re-read", "re-route")


class StuckError(Exception):
    """The agent cannot go on; says why."""


@dataclass(slots=True)
class Replay:
    """How an agent fared."""

    habit: Habit
    turns: int = 0
    tokens: int = 0
    calls: int = 0
    reason: str = ""
    """Why the goal was not reached; empty if it was."""
    says: list[str] = field(default_factory=list[str])


def count_tokens(text: str) -> int:
    """Estimate tokens: four bytes make one."""
    return 1 + len(text.encode("utf-8", "replace")) // 4


class Agent:
    """One agent in one episode.

    Args:
        habit: Which of the three.
        task: Whose chains it knows.
        environment: In noise.
        book: What it knows of the tools.
        truth: What the chain's reads answer in a perfect world, to tell that an answer is whole.
        max_turns: After which it gives up.
        doubts: Whether answers may be wrong without saying so.
        count: Counts tokens.
    """

    def __init__(
        self,
        habit: Habit,
        task: NoiseTask,
        environment: Any,
        book: Book,
        truth: Truth,
        *,
        max_turns: int,
        doubts: bool = False,
        count: Callable[[str], int] = count_tokens,
    ) -> None:
        self.replay = Replay(habit)
        self._habit, self._task, self._world = habit, task, environment
        self._book, self._truth = book, truth
        self._max_turns, self._count = max_turns, count
        self._settled = book.settled() if doubts and habit == "re-read" else {}
        self._seen: dict[tuple[str, str], Any] = {}
        self._gone: set[str] = set()
        self._written: list[tuple[str, str]] = []
        self._done: Counter[tuple[str, str]] = Counter()
        """Calls and sayings; what is said has no tool's name."""
        self._has_rerouted = False

    async def act(self) -> Replay:
        """Go along the chain, or along another one, to its end."""
        try:
            await self._listen()
            chain = self._next_chain(self._task.chains[0])
            while chain is not None:
                chain = await self._follow(chain)
        except StuckError as error:
            self.replay.reason = str(error)
        return self.replay

    async def _listen(self) -> None:
        """Hear the request; ask, if what must be said was not."""
        observation = await self._world.reset()
        heard = ""
        for message in observation.messages:
            content = str(message.get("content") or "")
            self.replay.tokens += self._count(content)
            heard += content if message.get("role") == "user" else ""
        words = fold(self._task.opening)
        told = [p for p in map(fold, self._task.protected) if p and p in words]
        heard = fold(heard)
        if self._task.opening and (
            any(word not in heard for word in told)
            or (not told and not set(words.split()) & set(heard.split()))
        ):
            await self._say("What do you need, exactly?")

    async def _follow(self, chain: tuple[Step, ...]) -> tuple[Step, ...] | None:
        """Go along a chain; return another one if this one cannot be gone."""
        times: Counter[tuple[str, str]] = Counter()
        for step in chain:
            call = step.call
            name = (call.tool, canonical(call.arguments)) if call else ("", step.say)
            times[name] += 1
            if self._done[name] >= times[name]:
                continue
            if call is None:
                self._done[name] += 1
                await self._say(step.say)
            elif not await self._perform(call, name):
                other = self._next_chain(chain)
                if other is None:
                    raise StuckError(f"{call.tool} stays away and no other chain is left")
                return other
        return None

    def _next_chain(self, present: tuple[Step, ...]) -> tuple[Step, ...] | None:
        """Return a chain without tools that are gone, in which all that was written is."""
        for chain in sorted(self._task.chains, key=lambda c: c is not present):
            calls = [step.call for step in chain if step.call is not None]
            names = {(call.tool, canonical(call.arguments)) for call in calls}
            is_open = not any(call.tool in self._gone for call in calls)
            if is_open and names >= set(self._written):
                return chain
        return None

    async def _perform(self, call: Call, name: tuple[str, str]) -> bool:
        """Make a call until it is done; say whether it could be."""
        sent = Call(call.tool, self._truth.arguments(call, self._seen)
                    if self._habit == "re-read" else call.arguments)  # fmt: skip
        reads = self._book[call.tool].role == "reader"
        last: Any = None
        while True:
            content, is_error = await self._call(sent)
            if is_error:
                if gone.WORDS in content:
                    self._gone.add(call.tool)
                    return False
                if lost_ack.UNKNOWN in content:
                    if await self._has_happened(call):
                        break
                elif self._habit == "re-route" and self._leaves(call):
                    return False
                continue
            if not self._is_whole(content, name):
                continue
            value = facts(content)
            if call.tool in self._settled and value != last:
                last = value
                continue
            self._seen.setdefault(name, value)
            break
        self._done[name] += 1
        if not reads:
            self._written.append(name)
        return True

    def _leaves(self, call: Call) -> bool:
        """Whether a failure is taken as the occasion to go another way, once an episode."""
        if self._has_rerouted or len(self._task.chains) < 2:
            return False
        self._has_rerouted = True
        self._gone.add(call.tool)
        is_open = self._next_chain(self._task.chains[0]) is not None
        if not is_open:
            self._gone.discard(call.tool)
        return is_open

    async def _has_happened(self, call: Call) -> bool:
        """Look whether a write has happened; `False` if it may safely be sent again."""
        contract = self._book[call.tool]
        if contract.is_idempotent or contract.key:
            return False
        look = self._truth.checks.get((call.tool, canonical(call.arguments)))
        if look is None:
            raise StuckError(f"whether {call.tool} has happened cannot be seen")
        while True:
            content, is_error = await self._call(look.call)
            if not is_error and self._is_whole(content, None):
                return facts(content) != look.before

    def _is_whole(self, content: str, name: tuple[str, str] | None) -> bool:
        """Whether an answer is neither hidden nor cut nor old, as far as it says so itself."""
        truth = compact(self._truth.answers.get(name)) if name is not None else ""
        if content.endswith(truncated.MARK) or content.startswith(stale.MARK):
            return False
        has_hidden = f'"{partial.HIDDEN}"' in content or content == partial.HIDDEN
        return not has_hidden or f'"{partial.HIDDEN}"' in truth

    async def _call(self, call: Call) -> tuple[str, bool]:
        function = {"name": call.tool, "arguments": compact(call.arguments)}
        message = {"id": f"call_{self.replay.calls}", "type": "function", "function": function}
        self._turn(compact(message))
        self.replay.calls += 1
        result = await self._world.call(message)
        content = result.content if isinstance(result.content, str) else compact(result.content)
        self.replay.tokens += self._count(content)
        if result.is_error and not _is_noise(result):
            raise StuckError(f"{call.tool} refuses the golden call: {content[:200]}")
        return content, bool(result.is_error)

    async def _say(self, words: str) -> None:
        self._turn(words)
        self.replay.says.append(words)
        answer = await self._world.reply({"role": "assistant", "content": words})
        if answer is not None:
            self.replay.tokens += self._count(str(answer.get("content") or ""))

    def _turn(self, words: str) -> None:
        self.replay.turns += 1
        self.replay.tokens += self._count(words)
        if self.replay.turns > self._max_turns:
            raise StuckError(f"more than {self._max_turns} turns")


def _is_noise(result: Any) -> bool:
    return bool(getattr(result, "is_noise", False))
