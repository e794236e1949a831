"""A smoke run that is killed in each of its stages, interrupted in one, and continued.

It takes minutes, and most tests need nothing of it: it goes on in a thread, beside them. Each
process is ended when something that it left is there, so that a fast machine and a busy one end it
in the same place.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LONGCAT = [sys.executable, "-m", "longcat_cli.main"]
THREADS = "smoke run"
"""What the names of the threads begin with."""
LONGEST_S = 900
"""Of anything that is waited for: on the busiest machine it is there long before."""


class SmokeRun:
    """The run in its thread: `start`, then `folder_when_done`, and `stop` at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[tuple[int, float, str]] = []
        """What was printed: process, time, line."""
        self._processes: list[subprocess.Popen[str]] = []
        self._children: set[Path] = set()
        self._is_stopped = threading.Event()
        self._error: BaseException | None = None
        # Tests change both while it goes on.
        self._environment, self._place = dict(os.environ), folder.parent
        self._thread = threading.Thread(target=self._run, name=THREADS, daemon=True)

    def start(self) -> None:
        """Begin, in the main thread, unless that was done."""
        if self._thread.ident is not None:
            return
        # Started in the background, this process may ignore Ctrl-C, and its children would too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._thread.start()

    def folder_when_done(self) -> Path:
        """Wait for the end; raise what went wrong in it, with what the run said."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self.folder

    def stop(self) -> None:
        """Leave no thread and no process behind, wherever it is."""
        self._is_stopped.set()
        for process in list(self._processes):
            process.kill()
        if self._thread.ident is not None:
            self._thread.join()

    # -- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._every_stage()
        except BaseException as error:  # told to whoever waits for the folder
            self._error = error

    def _every_stage(self) -> None:
        folder = self.folder
        start = ["--recipe", "smoke", "--out", str(folder)]
        for stage, has_begun in (
            ("grow", lambda: (folder / "environments").is_dir()),
            ("cold_start", lambda: (folder / "cold_start.state" / "trainer.pt").is_file()),
            ("expert-library", lambda: _lines(folder / "experts/library/dora/metrics.jsonl") > 1),
            ("fuse", lambda: (folder / "merged").is_dir()),
            ("evaluate", lambda: (folder / "evaluation.part.json").is_file()),
            ("report", lambda: True),
        ):
            self._kill_in(stage, has_begun, start)
            start = ["--resume", str(folder)]
            if stage == "expert-library":
                self._interrupt("expert-shop")
        with self._process(start) as last:
            last.ends()
        assert last.process.returncode == 0, last.told()
        assert any("done before" in line for line in last.seen), last.told()
        assert self._children or sys.platform != "linux"
        deadline = time.monotonic() + LONGEST_S
        while any(child.exists() for child in self._children):
            assert time.monotonic() < deadline, "children of killed processes are still there"
            self._is_stopped.wait(0.05)

    def _kill_in(self, stage: str, has_begun: Callable[[], bool], start: list[str]) -> None:
        """Kill it once the stage has left something, or has ended before that was seen."""
        with self._process(start) as run:
            run.comes_to(stage)
            while not has_begun() and not run.has_ended(stage):
                time.sleep(0.02)
            self._children |= _children(run.process.pid)
            run.process.kill()
            run.ends()
        assert run.process.returncode in (-signal.SIGKILL, 0), run.told()

    def _interrupt(self, stage: str) -> None:
        """Ctrl-C while the stage's processes begin."""
        with self._process(["--resume", str(self.folder)]) as run:
            run.comes_to(stage)
            while not _children(run.process.pid) and not run.has_ended(stage):
                time.sleep(0.02)
            run.process.send_signal(signal.SIGINT)
            run.ends()
        assert run.process.returncode == 130, run.told()
        assert f"continue with: longcat train --resume {self.folder}" in run.errors
        assert "Traceback" not in run.errors, run.told()

    @contextlib.contextmanager
    def _process(self, arguments: list[str]) -> Iterator["_Process"]:
        process = subprocess.Popen(
            [*LONGCAT, "train", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=self._environment, cwd=self._place,
        )  # fmt: skip
        self._processes.append(process)
        run = _Process(process, self.lines)
        try:
            if self._is_stopped.is_set():  # since before it was known to `stop`
                process.kill()
            yield run
        finally:
            process.kill()
            run.ends()


class _Process:
    """`longcat train` in a process, its lines noted with the time at which they came."""

    def __init__(self, process: subprocess.Popen[str], lines: list[tuple[int, float, str]]) -> None:
        self.process, self.seen, self.errors = process, list[str](), ""
        self._lines = lines
        self._news, self._is_over = threading.Condition(), False
        self._readers = [
            threading.Thread(target=read, name=f"{THREADS}: reader", daemon=True)
            for read in (self._read, self._read_errors)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                with self._news:
                    self._lines.append((self.process.pid, time.monotonic(), line.rstrip("\n")))
                    self.seen.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._is_over = True
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr:
            self.errors = self.process.stderr.read()

    def comes_to(self, stage: str) -> None:
        """Wait for a stage to begin, or to be skipped."""

        def has_come() -> bool:
            return self._is_over or any(line.startswith(stage) for line in self.seen)

        with self._news:
            assert self._news.wait_for(has_come, timeout=LONGEST_S), self.told()
            has_begun = any(line.startswith(stage) for line in self.seen)
        if not has_begun:
            self.ends()
            raise AssertionError(f"{stage} never began: {self.told()}")

    def has_ended(self, stage: str) -> bool:
        """Whether the stage is over, or the process."""
        return self._is_over or any(line.startswith(f"{stage}: ") for line in list(self.seen))

    def ends(self) -> None:
        """Wait for the end, and for all that was said."""
        self.process.wait(timeout=LONGEST_S)
        for reader in self._readers:
            reader.join()

    def told(self) -> str:
        """How it ended and what it said, for people."""
        lines = "\n".join(self.seen[-20:])
        return f"exit code {self.process.poll()}\n{lines}\n{self.errors[-4000:]}"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _children(parent: int) -> set[Path]:
    """Process folders of the children of a process, and of theirs; none where there is no /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone in the meantime
            parents[stat.parent] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, new = set[Path](), {parent}
    while new:
        added = {path for path, above in parents.items() if above in new} - found
        found |= added
        new = {int(path.name) for path in added}
    return found
