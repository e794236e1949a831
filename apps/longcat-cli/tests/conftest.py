"""The command, and one smoke run shared by everything that looks at a trained folder."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from longcat_cli.main import run as run_command

sys.path.insert(0, str(Path(__file__).parent))  # for `sabotage`, also in processes that are spawned

# Ray would start every worker by `uv run` where the tests were: seconds each, for the same environment.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else they give way until a test times out
# Matrices of tests are small: threads would wait for each other more than they compute, above all on
# a busy machine. Set before torch is loaded, and inherited by every process that a test starts.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGCAT = [sys.executable, "-m", "longcat_cli.main"]


LINES: list[tuple[int, float, str]] = []
"""What the runs of `trained` printed: process, time, line."""


def pytest_configure(config):
    config.addinivalue_line("markers", "long: a sweep; LONGCAT_LONG=1 switches it on")


def pytest_collection_modifyitems(items):
    if os.environ.get("LONGCAT_LONG") == "1":
        return
    for item in items:
        if "long" in item.keywords and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="a sweep: set LONGCAT_LONG=1"))


@dataclass(frozen=True)
class Ended:
    """What a command left when it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def longcat(monkeypatch, capsys):
    """The command as typed, in this process: seconds less each time than in one of its own."""

    def run(*arguments, text=""):
        monkeypatch.setattr(sys, "argv", ["longcat", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command()
        told = capsys.readouterr()
        return Ended(ended.value.code or 0, told.out, told.err)

    return run


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
        run = _Run(start)
        run.until(stage)
        time.sleep(delay_s)
        children |= _children(run.process.pid)
        run.process.kill()
        run.end()
        start = ["--resume", str(folder)]
        if stage == "expert-library":
            _interrupt("expert-shop", folder)
    last = _Run(start)
    errors = last.end()
    assert last.process.returncode == 0, errors
    assert any("done before" in line for pid, _, line in LINES if pid == last.process.pid)
    assert children or sys.platform != "linux"
    _until(lambda: not any(child.exists() for child in children), seconds=10)
    return folder


@pytest.fixture
def printed(trained):
    """Process, time and text of each line that the runs printed."""
    return LINES


class _Run:
    """`longcat train` in a process, its lines noted with the time at which they came."""

    def __init__(self, arguments):
        self.process = subprocess.Popen([*LONGCAT, "train", *arguments], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)  # fmt: skip
        self._news, self._errors = threading.Condition(), ""
        self._readers = [threading.Thread(target=read) for read in (self._read, self._read_errors)]
        self._seen: list[str] = []
        self._is_over = False
        for reader in self._readers:
            reader.start()

    def _read(self):
        for line in self.process.stdout:
            with self._news:
                LINES.append((self.process.pid, time.monotonic(), line.rstrip("\n")))
                self._seen.append(line)
                self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def _read_errors(self):
        self._errors = self.process.stderr.read()

    def until(self, stage):
        """Wait for a stage to begin."""
        wanted = f"{stage} ...\n"
        with self._news:
            self._news.wait_for(lambda: wanted in self._seen or self._is_over, timeout=600)
        assert wanted in self._seen, f"{stage} never began: {''.join(self._seen)} {self._errors}"

    def end(self):
        """Wait for the end; return what was written to standard error."""
        try:
            self.process.wait(timeout=300)
        finally:
            self.process.kill()
            self.process.wait()
            for reader in self._readers:
                reader.join(timeout=60)
            self.process.stdout.close()
            self.process.stderr.close()
        return self._errors


def _interrupt(stage, folder):
    run = _Run(["--resume", str(folder)])
    run.until(stage)
    time.sleep(4)
    run.process.send_signal(signal.SIGINT)
    errors = run.end()
    assert run.process.returncode == 130, errors
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
