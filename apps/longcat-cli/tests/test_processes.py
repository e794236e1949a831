"""Processes beside this one, and Ctrl-C while they begin."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from longcat_cli.processes import ctrl_c_waits
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages import cold_start


def test_ctrl_c_that_another_thread_takes_waits_as_well():
    """A child that begins in that moment would be left with half of what it is to do."""
    done = []

    def begin_a_child():
        with ctrl_c_waits():
            other.join()
            time.sleep(0.05)  # where the main thread would hear of it
            done.append("whole")

    def take():  # the signal goes to this thread, and the main one is told
        time.sleep(0.05)
        signal.raise_signal(signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    other = threading.Thread(target=take)
    try:
        other.start()
        with pytest.raises(KeyboardInterrupt):
            begin_a_child()
    finally:
        signal.signal(signal.SIGINT, handler)
    assert done == ["whole"]


SLOW_TO_LOAD = """
import multiprocessing.forkserver as forkserver
from longcat_cli import processes
processes.PRELOADED = ("slow_to_load",)
processes.load_ahead()
print(forkserver._forkserver._forkserver_pid)
"""


def test_what_loads_ahead_ends_with_this_process_however_far_it_is(tmp_path):
    """It holds the terminal, or the pipe of whoever reads: for as long as torch takes to load."""
    (tmp_path / "slow_to_load.py").write_text("import time; time.sleep(100)")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(  # reads until nobody holds the pipe any more
        [sys.executable, "-c", SLOW_TO_LOAD], capture_output=True, text=True, check=True,
        timeout=60, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert int(done.stdout) > 0


async def test_ctrl_c_does_not_wait_for_all_demonstrations(monkeypatch):
    made = []

    async def demonstrate(*_, **__):
        made.append(1)  # as the real one, it waits for nothing

    class Display:
        def note(self, **_):
            pass

    tasks = [type("Task", (), {"domain": "shop"})] * 100
    monkeypatch.setattr(cold_start, "read_tasks", lambda path: tasks)
    monkeypatch.setattr(cold_start, "load_worlds", lambda domains: {"shop": None})
    monkeypatch.setattr(cold_start, "environment_of", lambda world, task: None)
    monkeypatch.setattr(cold_start, "demonstrate", demonstrate)
    folder = type("Folder", (), {"recipe": load_recipe("smoke"), "tasks": lambda *_: None})()
    going = asyncio.ensure_future(cold_start._demonstrations(folder, Display()))
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert 1 <= len(made) < 5
