"""Stages that take no time to speak of, for processes that stand beside each other."""

import os
import signal
import time
from pathlib import Path

from longcat_cli.errors import UsageError

LONGEST_S = 300


class TooManyWords(Exception):
    """One that does not come back from a pickle as it was."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def sides(recipe):
    """By name, as `stages_of` gives them."""
    return {
        "expert-quick": quick,
        "expert-slow": slow,
        "expert-patient": patient,
        "expert-wrong": wrong,
        "expert-wordy": wordy,
        "expert-dead": dead,
        "expert-stopped": stopped,
    }


def quick(folder, shown):
    shown.note(doing="little")
    shown.update(done=0.5, step=1)
    _mark(folder, "quick")
    return {"steps": 1}


def slow(folder, shown):
    """Goes on until it is asked to stop; then it keeps what it has done, which takes a moment."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _mark(folder, f"slow-{os.getpid()}")
    try:
        time.sleep(10 * LONGEST_S)  # on a busy machine others begin minutes later
    except KeyboardInterrupt:
        for _ in range(20_000):  # more than a pipe holds, and nobody reads any more
            shown.update(done=0.5, step=1)
        _mark(folder, f"kept-{os.getpid()}")
        raise
    raise AssertionError("nobody asked it to stop")


def patient(folder, shown):
    """Ends after `slow` and `quick` have begun: it has company."""
    _until(lambda: any(folder.path.glob("slow-*")) or (folder.path / "quick").exists())
    return {"steps": 2}


def wrong(folder, shown):
    _until(lambda: any(folder.path.glob("slow-*")))
    raise UsageError("a task must have an end")


def wordy(folder, shown):
    raise TooManyWords("no room", "left")


def dead(folder, shown):
    os._exit(7)


def stopped(folder, shown):
    raise KeyboardInterrupt("SIGTERM")


def asked(run, name, model, domain, noise):
    """In place of `evaluate_cell`: notes each time that it is asked, and fails the first in shop."""
    if _times_before(run, f"{name}-{domain}-{noise}") == 0 and domain == "shop":
        raise UsageError("the shop is closed")
    return _cell(name, domain, noise)


def asked_after_the_merged(run, name, model, domain, noise):
    """In place of `evaluate_cell`: the first cell ends after the merged model was asked."""
    _times_before(run, f"{name}-{domain}-{noise}")
    if (name, domain, noise) == ("cold_start", "library", 0.0):
        _until(lambda: any((Path(run) / "asked").glob("merged-*")))
    return _cell(name, domain, noise)


def _times_before(run, cell):
    """How often it was asked before, and that it is asked now."""
    place = Path(run) / "asked"
    place.mkdir(exist_ok=True)
    number = len(list(place.glob(f"{cell}-*")))
    (place / f"{cell}-{number}").touch()
    return number


def _cell(name, domain, noise):
    row = {"model": name, "domain": domain, "noise": noise, "passed": 1, "total": 2}
    return {"row": row, "examples": row, "outcomes": row}


def _mark(folder, name):
    (folder.path / name).touch()


def _until(holds):
    deadline = time.monotonic() + LONGEST_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
