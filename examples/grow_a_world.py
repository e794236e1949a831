"""Grow a task from a domain, solve it with its golden chain, and try to fool its verifier.

    pip install longcat-envs        python grow_a_world.py

It prints the task, its solution, and which wrong chains the verifier refuses.
"""

import asyncio
from random import Random

from longcat_envs import Grower, TaskEnvironment, World, audit, demonstrate, wrong_chains

world = World.load("clinic")
task = next(Grower(world.domain, seed=3))
print(f"{len(world.tools)} tools; the person says: {task.opening}")
for rubric in task.rubrics:
    print("  wanted:", rubric.description)

demo = asyncio.run(demonstrate(TaskEnvironment(world, task), rng=Random(0), share_alternative=0))
assert demo is not None
for message in demo.messages:
    for call in message.get("tool_calls", []):
        print("  call:", call["function"]["name"], call["function"]["arguments"])

num = sum(1 for _ in wrong_chains(world.tools, task))
print(f"{num} wrong chains tried, faults found: {audit(world.domain, world.tools, task)}")
