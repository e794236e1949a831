"""Many episodes of many tasks: several at once, each kept as soon as it has ended.

- Takes tasks, a policy for each episode, and who speaks for the person.
- Gives one record for each episode, in the order in which they end.
- Waits for the policy; at most `concurrency` episodes are under way.
- Stops when all are done, or when it is cancelled: what has ended is kept.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from longcat_envs._loop import InvalidEpisode, Policy, run_episode
from longcat_envs._protocol import Message
from longcat_envs.history import Setting
from longcat_envs.loaders import ForeignEnvironment, ForeignSet, ForeignTask
from longcat_envs.tasks import Talker, WorldEnvironment, WorldTask

from ._endpoint import ModelError
from ._judge import WindowJudge, rubrics_of

Trial = dict[str, Any]
"""One record: `task`, `trial`, `passed`, `status`, `reward`, `unmet`, `calls`, `errors`, `seconds`,
`reason`."""

MAX_TURNS = 60

AnyTask = WorldTask | ForeignTask
Live = WorldEnvironment | ForeignEnvironment


async def run_trials(
    setting: Setting | ForeignSet,
    tasks: Sequence[AnyTask],
    policy: Callable[[AnyTask, int], Policy],
    *,
    num_trials: int,
    keep: Callable[[Trial], None],
    person: Callable[[Any], Talker] | None = None,
    done: Collection[tuple[str, int]] = (),
    concurrency: int = 4,
    max_turns: int = MAX_TURNS,
    judge: WindowJudge | None = None,
) -> None:
    """Run every task so many times.

    Args:
        setting: The tasks' domain, or the foreign set that they are of.
        tasks: What is run.
        policy: Makes the policy of one episode, from the task and the number of the episode.
        num_trials: Episodes of each task.
        keep: Called with each record when its episode has ended.
        person: Who speaks for the person; by default one who follows rules.
        done: Tasks and numbers that are left out, as they were run before.
        concurrency: Episodes under way at once.
        max_turns: Messages of the agent in one episode.
        judge: Also judges each episode by rubrics; its verdict stands beside the state's. Tasks of
            foreign sets have no rubrics and are not judged.
    """
    gate = asyncio.Semaphore(concurrency)

    async def one(task: AnyTask, number: int) -> None:
        async with gate:
            world = _live(setting, task, person)
            keep(await _trial(world, policy(task, number), number, max_turns, judge))

    async with asyncio.TaskGroup() as group:
        for number in range(num_trials):
            for task in tasks:
                if (task.id, number) not in done:
                    group.create_task(one(task, number))


def _live(
    setting: Setting | ForeignSet, task: AnyTask, person: Callable[[Any], Talker] | None
) -> Live:
    if isinstance(task, ForeignTask):
        assert not isinstance(setting, Setting), "a foreign task is run in its own set"
        return ForeignEnvironment(setting, task, person)
    assert isinstance(setting, Setting), "a task is run in its own domain"
    return WorldEnvironment(setting, task, *([] if person is None else [person]))


async def _trial(
    world: Live, policy: Policy, number: int, max_turns: int,
    judge: WindowJudge | None,
) -> Trial:  # fmt: skip
    start = time.monotonic()
    record: Trial = {"task": world.task.id, "trial": number, "passed": False, "status": "invalid",
                     "reward": 0.0, "unmet": [], "calls": 0, "errors": 0, "reason": ""}  # fmt: skip
    try:
        episode = await run_episode(world, policy, max_turns=max_turns)
    except InvalidEpisode as error:
        record["reason"] = str(error)
    except ModelError as error:  # a server that is not there says nothing about a model
        record["reason"] = str(error)
    except Exception as error:  # an agent that raises has failed
        record |= {"status": "raised", "reason": f"{type(error).__name__}: {error}"}
    else:
        parts = episode.reward.parts
        record |= {
            "passed": episode.reward.total == 1.0, "status": episode.status,
            "reward": episode.reward.total, "calls": episode.num_calls,
            "errors": episode.num_errors, "unmet": [name for name, met in parts.items() if met < 1],
        }  # fmt: skip
        if judge is not None and isinstance(world, WorldEnvironment):
            record |= await _judged(world, judge, episode.messages)
    await world.close()
    return {**record, "seconds": round(time.monotonic() - start, 3)}


async def _judged(
    world: WorldEnvironment, judge: WindowJudge, messages: list[Message]
) -> dict[str, Any]:
    rubrics = rubrics_of(world.setting, world.task)
    try:
        found = await judge.judge(messages, rubrics, world.setting.words.title)
    except ModelError as error:
        return {"judge_reason": str(error)}
    unmet = [text for text, is_met in zip(rubrics, found.met, strict=True) if not is_met]
    return {
        "judged": found.reward == 1,
        "judged_share": round(found.share, 4),
        "judge_unmet": unmet,
    }


class AnyPolicy:
    """Makes a stranger's agent a policy: its `chat` may wait or not."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent

    async def chat(self, messages: list[Message], *, tools: list[dict[str, Any]]) -> Message | None:
        """Return the agent's next message."""
        answer: Message | Awaitable[Message | None] | None = self._agent.chat(messages, tools=tools)
        return await answer if inspect.isawaitable(answer) else answer


def read_trials(path: Path) -> list[Trial]:
    """Read the records of a file; a last line that was cut off is left out."""
    found: list[Trial] = []
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    for place, line in enumerate(lines):
        try:
            record = json.loads(line)
            found.append({**record, "task": record["task"], "trial": record["trial"],
                          "passed": record["passed"], "status": record["status"]})  # fmt: skip
        except (ValueError, KeyError, TypeError):
            if place < len(lines) - 1:
                raise ValueError(
                    f"{path}:{place + 1}: a line is the record of an episode"
                ) from None
    return found
