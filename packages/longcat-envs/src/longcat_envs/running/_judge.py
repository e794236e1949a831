"""Rubrics by a judge: a model reads the talk window by window; all rubrics must be met.

- A window is 10 messages, and 2 of them are those with which the last one ended.
- Every rubric begins as unmet; what a window says of it is carried on, and may be taken back.
- The reward is 1 if all are met at the end, else 0; the share that is met is kept beside it.

It stands beside the verifier of the world's state, which it does not replace: where they disagree,
one of them is wrong. Source: LongCat-Flash-Thinking-2601's evaluation of VitaBench.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from longcat_envs._protocol import Message
from longcat_envs._thread import in_thread
from longcat_envs.history import Setting
from longcat_envs.tasks import REFUSE, WorldTask

from ._endpoint import Endpoint, ModelError

WINDOW, OVERLAP = 10, 2
MAX_CHARACTERS = 2_000
"""Of one message, as the judge sees it."""

_PROMPT = """You judge an agent at {place}. Below are numbered rubrics, whether each is met so \
far, and the next part of the agent's talk with a person and its tools. Say of every rubric \
whether it is met after this part: one that was met stays so unless this part undoes it.

Rubrics:
{rubrics}

The talk, from message {first}:
{talk}

Answer with a JSON array and nothing else, one object for each rubric:
[{{"rubric_idx": 0, "justification": "...", "meetExpectation": true}}]"""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge said of a whole talk."""

    met: tuple[bool, ...]
    justifications: tuple[str, ...]
    """The last one that was given for each rubric."""
    num_windows: int

    @property
    def reward(self) -> float:
        """1 if every rubric is met."""
        return float(bool(self.met) and all(self.met))

    @property
    def share(self) -> float:
        """Share of the rubrics that are met."""
        return sum(self.met) / len(self.met) if self.met else 0.0


def windows(
    messages: Sequence[Message], *, size: int = WINDOW, overlap: int = OVERLAP
) -> Iterator[tuple[int, Sequence[Message]]]:
    """Yield the parts of a talk, each with the number of its first message."""
    if not 0 <= overlap < size:
        raise ValueError(f"overlap must be 0 to size - 1 = {size - 1}, got {overlap}")
    start = 0
    while True:
        yield start, messages[start : start + size]
        if start + size >= len(messages):
            return
        start += size - overlap


def rubrics_of(setting: Setting, task: WorldTask) -> list[str]:
    """Return in words what the goal of a task asks for."""
    clauses = setting.spec.clauses
    found: list[str] = []
    for step in task.golden:
        tool = setting.machine.tools.get(step.tool)
        if tool is not None and tool.is_writer:
            values = ", ".join(f"{name} = {value}" for name, value in step.arguments.items())
            found.append(
                f"{step.tool} was called with {values} and succeeded; the id of a record that "
                "was made in this talk may differ"
            )
        elif step.tool == REFUSE:
            rule = str(step.arguments["rule"])
            reason = clauses[int(rule[1:]) - 1]
            found.append(f"the agent refused, by {REFUSE} with {rule}, what this forbids: {reason}")
    found += [f"the agent told the person {t.what}: {t.value}, as its own finding, once and clearly"
              for t in task.goal.told]  # fmt: skip
    if task.withheld:
        found.append(f"the agent asked for what the person had not said: {task.withheld}")
    found.append("nothing was changed that the person did not ask for")
    found.append("the agent said at the end what was done")
    return found


class WindowJudge:
    """A judge behind an endpoint.

    Args:
        endpoint: Where the judge answers.
        size: Messages of a window.
        overlap: Messages of a window that the last one held too.
        num_tries: Answers that are asked for until one can be read.
    """

    def __init__(
        self, endpoint: Endpoint, *, size: int = WINDOW, overlap: int = OVERLAP, num_tries: int = 3
    ) -> None:
        if not 0 <= overlap < size or num_tries < 1:
            raise ValueError("overlap must be 0 to size - 1, and num_tries at least 1")
        self.endpoint, self.size, self.overlap = endpoint, size, overlap
        self.num_tries = num_tries

    async def judge(
        self, messages: Sequence[Message], rubrics: Sequence[str], place: str
    ) -> Judgement:
        """Judge a talk; its system prompt is left out.

        Raises:
            ModelError: The judge does not answer, or not in a form that can be read.
        """
        talk = [message for message in messages if message.get("role") != "system"]
        met, reasons, number = [False] * len(rubrics), [""] * len(rubrics), 0
        for first, part in windows(talk, size=self.size, overlap=self.overlap):
            number += 1
            prompt = _PROMPT.format(
                place=place, first=first + 1, talk="\n".join(_line(message) for message in part),
                rubrics="\n".join(
                    f"{n}. [{'met' if met[n] else 'unmet'}] {text}"
                    for n, text in enumerate(rubrics)
                ),
            )  # fmt: skip
            for place_, is_met, reason in await self._verdicts(prompt, len(rubrics)):
                met[place_], reasons[place_] = is_met, reason
        return Judgement(tuple(met), tuple(reasons), number)

    async def _verdicts(self, prompt: str, number: int) -> list[tuple[int, bool, str]]:
        said = ""
        for _ in range(self.num_tries):
            answer = await in_thread(
                lambda: self.endpoint.ask([{"role": "user", "content": prompt}])
            )
            said = str(answer["content"])
            found = read_verdicts(said, number)
            if found is not None:
                return found
        raise ModelError(f"{self.endpoint.url}: the judge gave no verdicts: {said[:200]!r}")


def _line(message: Message) -> str:
    """Write a message on one line, calls included."""
    text = str(message.get("content") or "")
    calls: Any = message.get("tool_calls")
    for call in cast("list[Any]", calls) if isinstance(calls, list) else []:
        text += f" CALL {json.dumps(call, ensure_ascii=False, default=str)}"
    return f"{message.get('role')}: {text[:MAX_CHARACTERS]}"


def read_verdicts(text: str, number: int) -> list[tuple[int, bool, str]] | None:
    """Read a judge's answer: index, whether met, and why; `None` if it cannot be read.

    Every rubric must have one verdict, so that none is met or unmet by having been forgotten.
    """
    match = re.search(r"\[.*\]", text, re.DOTALL)
    try:
        rows: Any = json.loads(match[0]) if match is not None else None
    except (ValueError, RecursionError):
        return None
    found: dict[int, tuple[int, bool, str]] = {}
    for row in cast("list[Any]", rows) if isinstance(rows, list) else []:
        one = cast("dict[str, Any]", row) if isinstance(row, dict) else {}
        place, is_met = one.get("rubric_idx"), one.get("meetExpectation")
        if not isinstance(place, int) or isinstance(place, bool) or not isinstance(is_met, bool):
            return None
        if not 0 <= place < number or place in found:
            return None
        found[place] = (place, is_met, str(one.get("justification", "")))
    return list(found.values()) if len(found) == number else None


def agreement(pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """Compare the state's verdicts with a judge's: counts, share alike, and Cohen's kappa."""
    num = len(pairs)
    counts = {f"state {'passed' if s else 'failed'}, judge {'passed' if j else 'failed'}":
              pairs.count((s, j)) for s in (True, False) for j in (True, False)}  # fmt: skip
    alike = sum(state == judge for state, judge in pairs) / num if num else 0.0
    by_state = sum(state for state, _ in pairs) / num if num else 0.0
    by_judge = sum(judge for _, judge in pairs) / num if num else 0.0
    chance = by_state * by_judge + (1 - by_state) * (1 - by_judge)
    kappa = round((alike - chance) / (1 - chance), 4) if num and chance < 1 else None
    return {"judged": num, "alike": round(alike, 4), "kappa": kappa, **counts}
