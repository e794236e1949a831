"""A domain of your own, from a file to a trained model: tools, database, tasks come from the file.

    pip install longcat-cli        python domain_to_training.py        slow: about two minutes

It writes `garage.toml`, shows what grows from it, and trains a small model in it: supervised steps,
then RL. What it prints: the tools and a task; the stages as they go; and what the model passes of
held-out tasks after each. `longcat chat --run garage-run` then lets you watch it work.
"""

from pathlib import Path

from longcat_cli.start import begin
from longcat_cli.train import train
from longcat_envs import Grower, World

GARAGE = """
name = "garage"
title = "the desk of a garage"

[entities.owner]
prefix = "W"
plural = "owners"
key = "name"
states = ["known", "barred"]
columns = { name = "person", city = "city" }

[entities.car]
prefix = "C"
plural = "cars"
key = "label"
states = ["here", "away"]
columns = { label = "product", city = "city" }

[entities.job]
prefix = "J"
plural = "jobs"
parents = ["owner", "car"]
states = ["waiting", "started", "finished"]
columns = { day = "weekday" }

[entities.bill]
prefix = "B"
plural = "bills"
parents = ["owner"]
states = ["unpaid", "paid"]
columns = { amount = "amount" }

[[actions]]
name = "start_job"
on = "job"
from = ["waiting"]
to = "started"
requires = { owner = ["known"] }
say.owner = ["start the waiting job of {owner}", "{owner} is next, start the job"]

[[actions]]
name = "finish_job"
on = "job"
from = ["started"]
to = "finished"
say.owner = ["finish the job of {owner}", "the work for {owner} is done, finish the job"]

[[actions]]
name = "bar_owner"
on = "owner"
from = ["known"]
to = "barred"
say.owner = ["bar {owner}", "no more jobs for {owner}, bar them"]

[[actions]]
name = "hand_out_car"
on = "car"
from = ["here"]
to = "away"
say.car = ["hand out the {car}", "the {car} leaves, note it"]

[[actions]]
name = "pay_bill"
on = "bill"
from = ["unpaid"]
to = "paid"
say.owner = ["note that {owner} paid", "{owner} pays the bill, note it"]

[[creates]]
name = "add_job"
makes = "job"
state = "waiting"
requires = { owner = ["known"], car = ["here"] }
arguments = ["day"]
say = ["add a job on the {car} of {owner} for {day}", "{owner} brings the {car} on {day}"]

[[updates]]
name = "set_owner_city"
on = "owner"
column = "city"
say = ["{owner} moved to {city}, update it", "change the city of {owner} to {city}"]

[[questions]]
on = "bill"
column = "amount"
state = "unpaid"
say.owner = ["how high is the bill of {owner}", "what does {owner} still owe"]
"""
SETTINGS = ["groups={'garage': ['garage.toml']}", "name=garage", "evaluate.tasks=48",
            "grow.eval_tasks=48", "evaluate.noise=[0.0]"]  # fmt: skip

if __name__ == "__main__":
    Path("garage.toml").write_text(GARAGE)
    world = World.load("garage.toml")
    task = next(Grower(world.domain, seed=1))
    print(f"{len(world.tools)} tools:", ", ".join(sorted(world.tools)))
    print("a task:", task.opening)
    print("its answer:", " -> ".join(step.tool for step in task.golden))
    run = begin("smoke", SETTINGS, Path("garage-run"), dry_run=False)
    for name, rate in train(run).items():
        if "@" in name:
            print(f"{name:18} {rate:.0%}")
