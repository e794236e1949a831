"""One episode beside its noisy form, as a reference agent lives through both."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from ._agents import Agent, Habit
from ._certify import World
from ._contract import Book
from ._noise import NoiseConfig
from ._task import NoiseTask
from ._truth import awaited, look, total
from ._wrap import NoisyEnvironment
from ._written import Written


class _Heard:
    """An environment that writes down what passes."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.lines: list[str] = []
        self.score, self.close = inner.score, inner.close

    async def reset(self) -> Any:
        observation = await awaited(self._inner.reset())
        for message in observation.messages:
            if message.get("role") == "user":
                self.lines.append(f"user: {message.get('content')}")
        return observation

    async def call(self, tool_call: Mapping[str, Any]) -> Any:
        function = tool_call["function"]
        result = await awaited(self._inner.call(tool_call))
        kind = getattr(result, "kind", "")
        self.lines.append(f"call: {function['name']} {function['arguments']}")
        self.lines.append(f"{f'tool ({kind})' if kind else 'tool'}: {result.content}")
        return result

    async def reply(self, message: dict[str, Any]) -> Any:
        self.lines.append(f"agent: {message['content']}")
        answer = await awaited(self._inner.reply(message))
        if answer is not None:
            self.lines.append(f"user: {answer.get('content')}")
        return answer


async def show(
    task: NoiseTask,
    config: NoiseConfig,
    *,
    episode: str,
    book: Book,
    world: World,
    allowance: int | None = None,
    written: Written | None = None,
    habit: Habit = "retry",
    width: int = 120,
) -> str:
    """Return both forms of an episode side by side, `width` characters wide in all."""
    truth = await look(task, book, lambda: world(task))
    columns: list[list[str]] = []
    clean = NoiseConfig(level=0.0, seed=config.seed)
    for noise, limit in ((clean, None), (config, allowance)):
        noisy = NoisyEnvironment(
            world(task), noise, episode=episode, protected=task.protected, contracts=book,
            chains=task.calls, allowance=limit, written=written,
        )  # fmt: skip
        heard = _Heard(noisy)
        replay = await Agent(habit, task, heard, book, truth, max_turns=400).act()
        reward = total(await heard.score())
        await heard.close()
        end = f"reward {reward:g} after {replay.turns} turns"
        columns.append([*heard.lines, replay.reason or end])
    return _beside(columns[0], columns[1], width)


def _beside(left: list[str], right: list[str], width: int) -> str:
    half = (width - 3) // 2
    wrapped = [_wrapped(column, half) for column in (left, right)]
    lines = [f"{'perfect':{half}} | noisy", f"{'-' * half}-+-{'-' * half}"]
    for index in range(max(map(len, wrapped))):
        cells = [column[index] if index < len(column) else "" for column in wrapped]
        lines.append(f"{cells[0]:{half}} | {cells[1]}".rstrip())
    return "\n".join(lines)


def _wrapped(lines: list[str], width: int) -> list[str]:
    return [
        part
        for line in lines
        for part in textwrap.wrap(line, width, subsequent_indent="  ") or [""]
    ]
