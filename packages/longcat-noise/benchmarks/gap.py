"""The gap by level for two scripted agents in the package's own small clinic, as `report` measures it.

    hasty      sends a failed call again at once, whatever the failure says, three times at most
    careful    the reference agent `retry`: looks before it repeats a write whose outcome is unknown

Neither is a model: the figure shows what is measured and that the noise can be survived.
"""

import asyncio
import json
from pathlib import Path

from longcat_noise import Book, Certificate, NoiseConfig, NoiseTask, certify_async
from longcat_noise import testing as clinic
from longcat_noise._agents import Agent
from longcat_noise._measure import Attempt, measure
from longcat_noise._noise import TOOL_KINDS, USER_KINDS
from longcat_noise._page import gap_picture
from longcat_noise._truth import look

LEVELS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
TASKS = [NoiseTask.read(raw) for raw in clinic.tasks(150)]
BOOK = Book.of(clinic.CONTRACTS)


def world(task):
    return clinic.clinic(task.raw)


class Watched:
    """An environment that keeps the calls as `report` reads them."""

    def __init__(self, inner):
        self._inner, self.calls = inner, []
        self.reset, self.reply = inner.reset, inner.reply

    async def call(self, tool_call):
        seen = await self._inner.call(tool_call)
        function = tool_call["function"]
        self.calls.append({"tool": function["name"], "arguments": function["arguments"],
                           "kind": getattr(seen, "kind", ""), "is_error": seen.is_error})  # fmt: skip
        return seen


async def hasty(task, environment):
    """Go along the first chain; return the turns."""
    await environment.reset()
    turns = 0
    for step in task.chains[0]:
        if step.call is None:
            turns += 1
            await environment.reply({"role": "assistant", "content": step.say})
            continue
        for _ in range(4):
            turns += 1
            function = {"name": step.call.tool, "arguments": step.call.arguments}
            seen = await environment.call({"function": function})
            if not seen.is_error:
                break
    return turns


async def main():
    attempts = {"hasty": [], "careful": []}
    refused = 0
    for level in (0.0, *LEVELS):
        config = NoiseConfig(level=level, tool_kinds=TOOL_KINDS, user_kinds=USER_KINDS)
        for number, task in enumerate(TASKS):
            found = await certify_async(task, config, episode=f"{number}", book=BOOK, world=world)
            if not isinstance(found, Certificate):
                refused += 1
                continue
            inner = world(task)
            watched = Watched(found.wrap(inner, task, BOOK))
            turns = await hasty(task, watched)
            passed = inner.score() if turns <= 8 else 0.0
            attempts["hasty"].append(
                Attempt(task.id, level, passed, turns, 0, tuple(watched.calls))
            )
            inner = world(task)
            noisy = Watched(found.wrap(inner, task, BOOK))
            truth = await look(task, BOOK, lambda task=task: world(task))
            replay = await Agent("retry", task, noisy, BOOK, truth, max_turns=8).act()
            calls = tuple(noisy.calls)
            attempts["careful"].append(
                Attempt(task.id, level, inner.score(), replay.turns, 0, calls)
            )
    rows = []
    for name, tried in attempts.items():
        for row in measure(tried, BOOK):
            rows.append([name, row["level"], *(round(row[k], 3) for k in
                        ("gap", "gap_low", "gap_high", "recovery", "extra_turns"))])  # fmt: skip
            rows[-1].append(round(row["duplicate_writes"], 3))
            print(*rows[-1], sep="\t")
    picture = Path(__file__).with_name("results") / "gap.svg"
    picture.write_text(gap_picture(measure(attempts["hasty"], BOOK)) + "\n", "utf-8")
    total = len(TASKS) * (1 + len(LEVELS))
    print(json.dumps({
        "title": "The gap between perfect and imperfect worlds, two scripted agents",
        "claim": f"{total - refused} of {total} episodes were certified within 8 turns. The careful "
                 "agent reaches the goal in all of them; the hasty one loses up to "
                 f"{max(row[2] for row in rows):.0%}.",
        "columns": ["agent", "level", "gap", "low", "high", "recovery", "extra turns",
                    "duplicate writes"],
        "rows": rows, "spread": "95% interval of the paired gap, tasks drawn anew 2000 times",
        "seeds": [0], "pictures": ["results/gap.svg"],
        "notes": ["The picture is the hasty agent's.",
                  "The careful agent is one of the certificate's own."],
    }))  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main())
