"""Stages that go on beside each other, each in a process of its own.

    this process                             a process for each stage
      starts it        ── folder, name ──>     the stage
      Figures.update   <── what it shows ──    _Teller
      its facts        <── how it ended ──     facts, or an error

- A stage that fails is named, and the others are stopped before its error goes on.
- Ctrl-C is for this process: it asks all stages to stop (SIGTERM), and they keep what they have
  done as at a Ctrl-C of their own. A second one does not wait for that.
- No stage outlives this process, however it ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from .display import Figures, Shows
from .folder import RunFolder
from .processes import belong_to_parent, copied, ctrl_c_waits, wait_until_loaded
from .recipe import Recipe

Stage = Callable[[RunFolder, Shows], dict[str, Any]]
Stages = Callable[[Recipe], Mapping[str, Stage]]

STOP_S = 60.0
"""For a stage to finish its step and save it, once it is asked to stop; then it is killed."""
_CODE_STOPPED = 130
_ENDS = ("SIGTERM", "SIGHUP")
"""Signals that end this process as Ctrl-C does: those that a stage takes for one, too."""


class StageDied(Exception):
    """A stage's process ended without a word: killed, or out of memory."""


class StageError(Exception):
    """A stage failed with an error that cannot be sent; what it was is the cause."""


class _Side:
    """One stage in its process."""

    def __init__(self, folder: RunFolder, name: str, stages: Stages) -> None:
        self.name, self.began = name, time.time()
        self.figures: Figures | None = None
        self.connection, theirs = multiprocessing.Pipe(duplex=False)
        self.process = copied().Process(
            target=_go, args=(theirs, folder.path, name, stages), name=f"longcat {name}"
        )
        self._theirs = theirs

    def start(self) -> None:
        """Begin; returns when there is a process."""
        with contextlib.closing(self._theirs):
            self.process.start()

    def pid(self) -> int | None:
        """Its process, once there is one."""
        return self.process.pid

    def read(self) -> dict[str, Any] | None:
        """Show one thing that it says; return its facts if it is done.

        Raises:
            KeyboardInterrupt: It was told to stop.
            BaseException: What it raised, or that it died; with its name as a note.
        """
        try:
            kind, said = self.connection.recv()
        except (EOFError, OSError):  # between two things that it said, or within one
            self.process.join()
            if self.process.exitcode == _CODE_STOPPED:
                raise KeyboardInterrupt from None
            died = StageDied(
                f"its process ended with exit code {self.process.exitcode}; continue with --resume"
            )
            died.add_note(self.name)
            raise died from None
        if kind == "facts":
            return said
        if kind == "error":
            raise _unpacked(said, self.name)
        if self.figures is not None:
            getattr(self.figures, kind)(**said)
        return None


def run_beside(
    folder: RunFolder,
    names: Iterable[str],
    *,
    stages: Stages,
    at_once: int,
    begin: Callable[[str, Callable[[], int | None]], Figures],
    end: Callable[[str, float, dict[str, Any]], object],
) -> None:
    """Run stages, so many at once, in order.

    Args:
        folder: The run; each process opens it again.
        names: Stages of it that do not stand on each other.
        stages: What gives a recipe's stages by name: a module's function, since each process
            calls it again.
        at_once: Processes, at most.
        begin: Told a stage's name, and what gives its process's id once there is one; gives what
            shows it.
        end: Told its name, when it began (seconds since 1970) and its facts when it is done.

    Raises:
        KeyboardInterrupt: At Ctrl-C, SIGTERM or SIGHUP, after every stage has stopped.
        BaseException: What the first stage that failed raised, its name added as a note.
    """
    waiting, running = list(names), dict[Connection, _Side]()
    try:
        with _signals_interrupt():
            while waiting or running:
                while waiting and len(running) < at_once:
                    side = _Side(folder, waiting.pop(0), stages)
                    side.figures = begin(side.name, side.pid)
                    side.figures.note(doing="loading torch")
                    wait_until_loaded()
                    with ctrl_c_waits():
                        side.start()
                        running[side.connection] = side
                for connection in wait(list(running)):
                    assert isinstance(connection, Connection)
                    side = running[connection]
                    if (facts := side.read()) is not None:
                        side.process.join()
                        del running[connection]
                        connection.close()
                        end(side.name, side.began, facts)
    finally:
        _stop(list(running.values()))


def _stop(sides: Sequence[_Side]) -> None:
    """Ask stages to stop, and wait until they have; without waiting at another Ctrl-C."""
    for side in sides:
        side.connection.close()  # nobody reads any more: so it need not wait for that
        side.process.terminate()
    deadline = time.monotonic() + STOP_S
    try:
        for side in sides:
            side.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for side in sides:
            side.process.kill()
            side.process.join()


@contextlib.contextmanager
def _signals_interrupt() -> Generator[None]:
    """Have what ends a process be a Ctrl-C, where nobody has said otherwise."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    changed: list[int] = []
    if threading.current_thread() is threading.main_thread():
        found = [getattr(signal, name) for name in _ENDS if hasattr(signal, name)]
        changed = [number for number in found if signal.getsignal(number) == signal.SIG_DFL]
    try:
        for number in changed:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


# -- in the stage's process -------------------------------------------------------------------


class _Teller:
    """Says what a stage shows; nobody may be there to hear it any more."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def note(self, **values: Any) -> None:
        self.say("note", values)

    def update(self, *, done: float, **values: Any) -> None:
        self.say("update", {"done": done, **values})

    def say(self, kind: str, said: Any) -> None:
        with contextlib.suppress(OSError):
            self._connection.send((kind, said))


def _go(connection: Connection, path: Path, name: str, stages: Stages) -> None:
    belong_to_parent()
    teller = _Teller(connection)
    try:
        folder = RunFolder.open(path)
        teller.say("facts", stages(folder.recipe)[name](folder, teller))
    except KeyboardInterrupt:
        raise SystemExit(_CODE_STOPPED) from None
    except BaseException as error:
        teller.say("error", _packed(error))


class _InProcess(Exception):
    """Where an error came up, as the process that it came up in would have shown it."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _packed(error: BaseException) -> tuple[bytes | None, str]:
    where = "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):
        whole = pickle.dumps(error)
        pickle.loads(whole)  # what does not come back is told in words
        return whole, where
    return None, where


def _unpacked(packed: tuple[bytes | None, str], name: str) -> BaseException:
    whole, where = packed
    error = pickle.loads(whole) if whole is not None else StageError("it failed, see above")
    error.add_note(name)
    error.__cause__ = _InProcess(where)
    return error
