"""One smoke run, shared by everything that looks at a trained folder."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `sabotage`, also in processes that are spawned

# Ray would start every worker by `uv run` where the tests were: seconds each, for the same environment.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else they give way until a test times out

LONGCAT = [sys.executable, "-m", "longcat_cli.main"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A smoke run that was killed in each of its stages, interrupted in one, and continued."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    # Started in the background, this process may ignore Ctrl-C, and its children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = ["--recipe", "smoke", "--out", str(folder)]
    children = set()
    for stage, delay_s in (("grow", 0.3), ("cold_start", 10), ("expert-library", 5), ("fuse", 0.2),
                           ("evaluate", 4), ("report", 0.1)):  # fmt: skip
        process = _run_into(stage, start)
        time.sleep(delay_s)
        children |= _children(process.pid)
        process.kill()
        process.communicate()
        start = ["--resume", str(folder)]
        if stage == "expert-library":
            _interrupt("expert-shop", folder)
    done = subprocess.run([*LONGCAT, "train", "--resume", str(folder)], capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stdout
    assert children or sys.platform != "linux"
    _until(lambda: not any(child.exists() for child in children), seconds=10)
    return folder


def _run_into(stage, arguments):
    process = subprocess.Popen([*LONGCAT, "train", *arguments], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    for line in process.stdout:
        if line == f"{stage} ...\n":
            return process
    raise AssertionError(f"{stage} never began: {process.stderr.read()}")


def _interrupt(stage, folder):
    process = _run_into(stage, ["--resume", str(folder)])
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"continue with: longcat train --resume {folder}" in errors
    assert "Traceback" not in errors


def _children(parent):
    """Process folders of the children of a process; none where there is no /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone in the meantime
            if stat.read_text().rpartition(")")[2].split()[1] == str(parent):
                found.append(stat.parent)
    return set(found)


def _until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come this far"
        time.sleep(0.05)
