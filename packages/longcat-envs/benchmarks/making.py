"""What a task costs to make, in processor time: the worlds it may start from, and the task."""

import argparse
import json
import statistics
import time
from functools import partial

from longcat_envs.history import live_through, load_setting
from longcat_envs.tasks import TaskMaker
from longcat_envs.world import builtin_worlds

ROUNDS = 3


def milliseconds(function, times):
    """Processor time of one of so many runs."""
    start = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - start) / times * 1_000


def row(name, num_shallow, num_deep):
    """Time of a past, of a shallow and of a deep task once the world is there."""
    setting = load_setting(name)
    found = []
    for seed in range(ROUNDS):
        past = milliseconds(partial(live_through, setting.machine, setting.words, seed), 1)
        setting.past(0)
        times = []
        for difficulty, number in (("shallow", num_shallow), ("deep", num_deep)):
            maker = TaskMaker(setting, seed=seed, difficulty=difficulty, pasts=[0])
            times.append(milliseconds(maker.__next__, number))
        found.append((past, *times))
    middle = [round(statistics.median(column), 1) for column in zip(*found, strict=True)]
    maker = TaskMaker(setting, seed=0, difficulty="shallow", pasts=[0])
    tasks = [next(maker) for _ in range(num_shallow)]
    shallow = sorted(times[1] for times in found)
    return [name, *middle, f"{shallow[0]:.1f} to {shallow[-1]:.1f}",
            len({task.opening for task in tasks}), len({repr(task.goal) for task in tasks})]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", nargs="+", default=builtin_worlds())
    parser.add_argument("--shallow", type=int, default=200)
    parser.add_argument("--deep", type=int, default=5)
    given = parser.parse_args()
    columns = ["domain", "a world ms", "a shallow task ms", "a deep task ms", "shallow, min to max",
               f"openings of {given.shallow}", f"goals of {given.shallow}"]  # fmt: skip
    rows = [row(name, given.shallow, given.deep) for name in given.domains]
    for line in (columns, *rows):
        print(*(f"{cell!s:>20}" for cell in line))
    means = [statistics.mean(row[place] for row in rows) for place in (1, 2, 3)]
    print(json.dumps({
        "title": "Making tasks", "columns": columns, "rows": rows, "seeds": list(range(ROUNDS)),
        "claim": f"A world is lived through once a process, in {means[0]:.0f} ms; then a shallow "
        f"task is made in {means[1]:.1f} ms and a deep one in {means[2]:.0f} ms, on average.",
        "spread": f"median of {ROUNDS} seeds",
        "notes": ["processor time",
                  "openings and goals: how many of the shallow tasks of one world differ"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
