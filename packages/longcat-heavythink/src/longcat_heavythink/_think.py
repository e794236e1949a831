"""Heavy thinking: K attempts side by side, then one answer about the K answers.

- The summary sees the history, the question and the *answers* of the attempts, never their
  thoughts, in shuffled order. It may overrule all of them.
- Only the summary's answer enters the history of a conversation.
- `depth` repeats the summary: its answers become the attempts of the next round.

Source: LongCat-Flash-Thinking-2601 report section 4. The prompt follows the skeleton in its figure
10; the elided wording is ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

Message = Mapping[str, Any]
Complete = Callable[[list[Message], float], Awaitable[str]]
"""`await complete(messages, temperature)` returns an answer, thoughts already removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeavyConfig:
    """How wide and how deep."""

    width: int = 4
    """K, the attempts."""
    depth: int = 1
    """Rounds of summary; between rounds, `width` summaries are drawn."""
    temperature: float = 1.0
    """Of the attempts; the last summary uses `summary_temperature`."""
    summary_temperature: float = 0.6
    max_answer_chars: int = 4000
    """Longer answers are cut in the summary's prompt, in the middle."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "max_answer_chars"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class HeavyAnswer:
    """The answer and how it came about."""

    answer: str
    attempts: list[str]
    """Answers of the first round."""
    num_failed: int
    rounds: list[list[str]] = field(default_factory=list[list[str]])
    """Answers that each summary round was given."""


async def think(
    messages: Sequence[Message],
    complete: Complete,
    *,
    config: HeavyConfig | None = None,
    summarise: Complete | None = None,
    on_attempt: Callable[[int, str], None] | None = None,
) -> HeavyAnswer:
    """Answer the last user message of a conversation.

    Args:
        messages: OpenAI messages ending with the user's.
        complete: The thinker.
        config: Width, depth, temperatures.
        summarise: The summary model; the thinker when absent.
        on_attempt: Called with number and answer as each attempt ends.

    Raises:
        ValueError: The conversation does not end with a user message.
        RuntimeError: Every attempt failed; the first failure is the cause.
    """
    config = config or HeavyConfig()
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("messages must end with a user message")
    history = list(messages)
    answers, failures = await _gather(complete, history, config, on_attempt)
    rounds: list[list[str]] = []
    summarise = summarise or complete
    given = answers
    for number in range(config.depth):
        prompt = summary_prompt(history, given, config=config, shuffle=number)
        rounds.append(given)
        if number + 1 == config.depth:
            answer = await summarise(prompt, config.summary_temperature)
            return HeavyAnswer(answer, answers, failures, rounds)
        given, more = await _gather(summarise, prompt, config, None)
        failures += more
    raise AssertionError("depth is at least 1")


async def _gather(
    complete: Complete,
    messages: list[Message],
    config: HeavyConfig,
    on_attempt: Callable[[int, str], None] | None,
) -> tuple[list[str], int]:
    async def attempt(number: int) -> str:
        answer = await complete(messages, config.temperature)
        if on_attempt is not None:
            on_attempt(number, answer)
        return answer

    results = await asyncio.gather(
        *(attempt(number) for number in range(config.width)), return_exceptions=True
    )
    answers = [result for result in results if isinstance(result, str)]
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        if not isinstance(failure, Exception):
            raise failure
    if not answers:
        raise RuntimeError(f"all {config.width} attempts failed: {failures[0]}") from failures[0]
    return answers, len(failures)


def summary_prompt(
    messages: Sequence[Message], answers: Sequence[str], *, config: HeavyConfig, shuffle: int = 0
) -> list[Message]:
    """Return the history with its last message replaced by the question and the answers."""
    order = list(answers)
    Random(f"{config.seed}:{shuffle}").shuffle(order)
    lines = [
        "Several thinkers have worked on the problem below, independently of one another.",
        "Compare their answers, find where they differ and who is right; all may be wrong.",
        "Then give your own final answer, in the style of an ordinary reply to the problem.",
        "",
        "====== Problem ======",
        str(messages[-1]["content"]),
        "==== Thinkers Process Start ====",
    ]
    for number, answer in enumerate(order, start=1):
        lines += [f"# ----- Thinker #{number} -----", _cut(answer, config.max_answer_chars)]
    lines.append("==== Thinkers Process End ====")
    return [*messages[:-1], {"role": "user", "content": "\n".join(lines)}]


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"
