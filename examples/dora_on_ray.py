"""The same run on a Ray cluster: one class instead of another, and worlds on nodes of their own.

    pip install 'longcat-dora[ray]'        python dora_on_ray.py

It prints the mean reward of each step as a bar that grows, then what the checker found in the log.
With `address="auto"` (or `"ray://head:10001"`) controllers and worlds are actors of a cluster, on
the nodes whose CPUs are idlest; without one, as here, Ray is started on this machine. A node that
is lost costs what it was sampling, and no more; a world that dies costs its rollout, which is
tried again.
"""

import tempfile
from pathlib import Path

from longcat_dora import RunConfig, Task, Worker, check, read_events
from longcat_dora.ray import RayRuntime
from longcat_dora.ray_worlds import RayWorlds
from longcat_dora.testing import TabularEngine, TabularTrainer


class Quiz:
    """A world with a state, in a process of its own: a browser or a sandbox would be one."""

    def ask(self, secret):
        self.answer = (3 * secret + 1) % 8
        return [secret]

    def judge(self, answer):
        return float(answer == self.answer)


def worker():
    worlds = RayWorlds(Quiz, 2)

    async def rollout(secret, policy):
        async with worlds.lease() as world:
            (answer,) = await policy.generate(await world.ask(secret))
            return await world.judge(answer)

    return Worker(engine=TabularEngine(), rollout=rollout)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        RayRuntime(
            RunConfig(folder=Path(folder), max_steps=12, num_controllers=2),
            factory=worker,
            trainer=TabularTrainer(),
            tasks=(Task(f"n{n}", n % 8) for n in range(400)),
            on_step=lambda p: print(f"{p.step:3d} {'#' * round(40 * p.metrics['reward'])}"),
        ).run()
        print(check(read_events(Path(folder) / "log")).summary())
