"""Heavy thinking by agents: each attempt acts in a world of its own, then one summary decides.

    pip install longcat-heavythink        python heavy_own_world.py

It prints what each attempt found, and the answer.
"""

import asyncio
import json
import tempfile
from pathlib import Path

from longcat_heavythink import (
    EpisodeModel,
    HeavyConfig,
    Journal,
    Reply,
    ToolCall,
    Usage,
    journal_page,
    think,
)

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]


class Maze:
    """Three rooms; what an agent does in its copy no other agent sees."""

    def __init__(self):
        self.room = 0

    async def reset(self):
        return {"messages": [{"role": "system", "content": "Find the key."}], "tools": TOOLS}

    async def call(self, asked):
        step = json.loads(asked["function"]["arguments"])["step"]
        self.room += step
        return f"room {self.room}: " + ("the key" if self.room == 2 else "nothing")


class Explorer:
    """Stands in for a model: walks until it finds the key, or gives up too early."""

    name = "explorer"
    number = 0

    async def reply(self, call):
        last = call.messages[-1]
        text = str(last["content"])
        if "Thinkers Process" in text:
            found = [line for line in text.splitlines() if line.startswith("The key")]
            return Reply(text=found[0] if found else "I do not know.", usage=Usage(50, 8))
        if last["role"] == "user":
            Explorer.number += 1
            step = 1 + Explorer.number % 2
            return Reply(tool_calls=(ToolCall("look", json.dumps({"step": step}), "1"),))
        if "the key" in text:
            return Reply(text="The key is in room 2.", usage=Usage(20, 8))
        return Reply(text="I found nothing.", usage=Usage(20, 4))


async def main(folder):
    ask = [{"role": "user", "content": "Where is the key?"}]
    with Journal(folder / "run.jsonl") as journal:
        result = await think(
            ask, EpisodeModel(Explorer(), Maze), summarise=Explorer(),
            config=HeavyConfig(width=4), journal=journal,
        )  # fmt: skip
    for record in result.records:
        print(f"stage {record.stage}, attempt {record.index + 1}: {record.reply.text}")
    print("answer:", result.answer)
    page = journal_page(folder / "run.jsonl")
    (folder / "run.html").write_text(page, "utf-8")
    print("a page of the run:", len(page), "characters")


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(Path(folder)))
