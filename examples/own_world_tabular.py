"""Train in a world of your own with longcat-dora alone: real processes, no torch. Prints a curve.

    pip install longcat-dora        python own_world_tabular.py

It prints a bar for each group of attempts, and that nothing was lost.

The world is one async function of a few lines; policy and trainer are the tabular ones that ship
for tests. Swap the engine and the trainer for real ones, and nothing else changes.
"""

import tempfile
from pathlib import Path

from longcat_dora import LocalRuntime, Policy, RunConfig, Task, Worker, check, read_events
from longcat_dora.testing import TabularEngine, TabularTrainer


async def world(question: int, policy: Policy) -> float:
    (answer,) = await policy.generate([question])
    return float(answer == 7 - question)


def worker() -> Worker:
    return Worker(engine=TabularEngine(), rollout=world)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        LocalRuntime(
            RunConfig(folder=Path(folder), max_steps=40),
            factory=worker,
            trainer=TabularTrainer(),
            tasks=(Task(f"n{n}", n % 8) for n in range(160)),
            on_group=lambda group: print("#" * sum(int(t.reward) for t in group)),
        ).run()
        print(check(read_events(Path(folder) / "log")).summary())
