"""A small run, for tests that kill it.

    python chaos_run.py FOLDER [sync] [env] [limit=BYTES] [steps=N] [hold=N] [end=FILE]

With many steps it learns slowly, or nothing would be left to learn and no step to be taken. It
holds after step N, so that no machine is too fast for who kills it, and ends when there is a FILE.
"""

import asyncio
import functools
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import recount
from longcat_dora import (
    LocalRuntime,
    LongcatDoraError,
    RunConfig,
    SchedulerConfig,
    Task,
    Worker,
)
from longcat_dora.testing import NUM_TOKENS, TabularEngine, TabularTrainer, guess

__all__ = ["recount"]
PADDING = b" " * (0 if "limit" in str(sys.argv) else 3_000_000)


class CheckedEngine(TabularEngine):
    """Refuses weights that are not whole."""

    def load_weights(self, version, weights):
        digest, _, rest = bytes(weights).partition(b"\n")
        assert hashlib.sha256(rest).hexdigest().encode() == digest, (
            "weights of two versions, or half of one"
        )
        super().load_weights(version, rest)


class PaddedTrainer(TabularTrainer):
    """Weights large enough that a kill may fall into the middle of handing them over."""

    def weights(self):
        rest = json.dumps(self.table).encode() + PADDING
        return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest

    def save(self, folder):

        (folder / "table.json").write_text(json.dumps(self.table))


def trainer(steps=40):
    return PaddedTrainer(learning_rate=0.05 if steps < 200 else 0.001)


def worker(latency_s):
    return Worker(engine=CheckedEngine(latency_s=latency_s), rollout=guess)


async def guess_in_a_process(secret, policy):
    """The world is a process; if it dies, there is no reward to be had."""
    world = await asyncio.create_subprocess_exec(
        "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        (answer,) = await policy.generate([secret])
        await asyncio.sleep(random.uniform(0, 0.2))
        world.stdin.write(b"%d\n" % answer)
        heard = await world.stdout.readline()
        if not heard:
            raise ConnectionError("the world is gone")
        return float(int(heard) == (3 * secret + 1) % NUM_TOKENS)
    finally:
        if world.returncode is None:
            world.kill()
        await world.wait()


def worker_with_processes():
    return Worker(engine=CheckedEngine(), rollout=guess_in_a_process)


def main(folder, *options):
    given = dict(option.split("=") for option in options if "=" in option)
    steps, hold = int(given.get("steps", 40)), int(given.get("hold", 10**9))
    if "limit" in given:
        limit = int(given["limit"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def on_step(progress):
        if progress.step >= hold:
            time.sleep(3600)
        if "end" in given and Path(given["end"]).exists():
            os.kill(os.getpid(), signal.SIGTERM)

    sync = "sync" in options
    runtime = LocalRuntime(
        RunConfig(
            folder=Path(folder), max_steps=steps, num_controllers=2, save_every=5,
            max_controller_restarts=1000,
            scheduler=SchedulerConfig(
                groups_per_batch=2, group_size=4, soft_staleness=0 if sync else 1,
                hard_staleness=0 if sync else 2, max_running=16, max_attempts=1000,
            ),
        ),
        factory=worker_with_processes if "env" in options else functools.partial(worker, 0.004),
        trainer=trainer(steps),
        tasks=(Task(f"n{n}", n % NUM_TOKENS) for n in range(10**9)), on_step=on_step,
    )  # fmt: skip
    try:
        runtime.run()
    except LongcatDoraError as error:
        sys.exit(f"longcat-dora: {error}")
    print(hashlib.sha256(json.dumps(runtime.trainer.table).encode()).hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])
