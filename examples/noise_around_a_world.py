"""Wrap a world in noise: the same episode has the same noise, and patience is always rewarded.

    pip install longcat-noise longcat-envs        python noise_around_a_world.py

It prints what the user is heard to say, and a call that is tried until it comes through.
"""

import asyncio

from longcat_envs import Grower, TaskEnvironment, World
from longcat_noise import NoiseConfig, NoisyEnvironment

world = World.load("shop")
task = next(Grower(world.domain, seed=2))
step = task.golden[0]
call = {"function": {"name": step.tool, "arguments": step.arguments}}


async def main() -> None:
    noisy = NoisyEnvironment(
        TaskEnvironment(world, task), NoiseConfig(level=0.9), episode="one",
        protected=step.arguments.values(),
    )  # fmt: skip
    observation = await noisy.reset()
    print("heard:", observation.messages[-1]["content"])
    for attempt in range(4):
        print(f"try {attempt}:", (await noisy.call(call)).content)


asyncio.run(main())
