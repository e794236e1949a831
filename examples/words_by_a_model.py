"""A model writes vague openings; what is said in them must leave the task findable, by audit.

    pip install longcat-noise longcat-envs        python words_by_a_model.py

It prints how many of six openings are kept, and why each of the others is not.
The model here is a list of three sentences, one of which names a day that nothing needs. The audit
of words is that of longcat-envs: it plays the golden chain and asks who says or yields each value.
"""

import asyncio
import dataclasses
from itertools import cycle, islice

from longcat_envs.attacks import word_faults
from longcat_envs.history import load_setting
from longcat_envs.tasks import TaskMaker, WorldEnvironment
from longcat_noise import NoiseTask, write_turns

setting = load_setting("workshop")
tasks = {task.id: task for task in islice(TaskMaker(setting, seed=1), 6)}
known = [
    NoiseTask.read(
        {"id": task.id, "opening": task.opening,
         "chain": [{"tool": s.tool, "arguments": s.arguments} for s in task.golden]}
    )
    for task in tasks.values()
]  # fmt: skip
sentences = cycle(["Something is not right.", "It is about 2031-02-30.", "You know me. The usual."])


def write(kind: str, text: str) -> str:
    """Stand in for a model that is asked to say `text` as vaguely as `kind` wants."""
    return next(sentences)


def judge(task: NoiseTask, heard: str) -> list[str]:
    """Audit a task whose person says all of this."""
    said = dataclasses.replace(tasks[task.id], opening=heard)
    return list(word_faults(setting, said, WorldEnvironment(setting, said)))


written, rejected = asyncio.run(write_turns(known, write, judge=judge))
print(f"{len(written.turns)} of {len(known)} openings are kept")
for reason in rejected:
    print("  not kept:", reason)
