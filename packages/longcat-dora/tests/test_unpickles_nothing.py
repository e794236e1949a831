"""A folder is data: whoever looks at a stranger's run executes nothing of it."""

import contextlib
import json
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import pytest
from longcat_dora import (
    EventLog,
    LocalRuntime,
    LongcatDoraError,
    RunConfig,
    SchedulerConfig,
    Task,
    read_events,
)
from longcat_dora.__main__ import main
from longcat_dora.testing import TabularTrainer, tabular_worker
from longcat_dora.trackers import tensorboard

SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


class Poison:
    """Creates a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def trainer():
    return TabularTrainer(learning_rate=0.02)


def _run(folder, steps, **options):
    config = RunConfig(folder=folder, max_steps=steps, scheduler=SMALL, save_every=2)
    tasks = (Task(f"n{n}", n % 8) for n in range(4000))
    LocalRuntime(config, factory=tabular_worker, trainer=trainer(), tasks=tasks, **options).run()


def _poisoned(folder, poison):
    """A run's folder in which everything that is no JSON is that pickle, with checksums that are right."""
    log = folder / "log"
    events = list(read_events(log))
    shutil.rmtree(log)
    written = EventLog(log)
    place = [0, len(poison), zlib.crc32(poison)]
    for event in events:
        event.pop("at")
        if "payload" in event:
            event["payload"] = [event["payload"][0], *place]
            (log / event["payload"][0]).write_bytes(poison)
        written.append(event)
    written.close()
    for name in ("tasks.bin", "tasks.pkl", "state.pickle", "payloads-000.bin"):
        (log / name).write_bytes(poison)
        (folder / name).write_bytes(poison)
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        for path in [*checkpoint.iterdir(), checkpoint / "state.pkl"]:
            path.write_bytes(poison)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps."""
    folder = tmp_path_factory.mktemp("whole")
    _run(folder, 6)
    return folder


@pytest.fixture
def poisoned(whole, tmp_path):
    target = tmp_path / "executed"
    poison = pickle.dumps(Poison(target))
    pickle.loads(poison)
    assert target.exists(), "the poison works"
    target.unlink()
    shutil.copytree(whole, tmp_path / "run")
    _poisoned(tmp_path / "run", poison)
    return tmp_path / "run", target


@pytest.mark.parametrize("command", [
    ["check"], ["why"], ["timeline", "OUT"], ["replay", "--trainer", "longcat_dora.testing:TabularTrainer"],
    ["plan"], ["repair", "--yes"], ["archive", "--delete", "--yes"],
], ids=lambda c: c[0])  # fmt: skip
def test_looking_at_a_strangers_folder_executes_nothing(poisoned, monkeypatch, command):
    run, target = poisoned

    def refuse(*_, **__):
        raise AssertionError("something is unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    rest = [str(run / "out.json") if word == "OUT" else word for word in command[1:]]
    assert main([command[0], str(run), *rest]) in (0, 1, 2)
    assert not target.exists()


def test_continuing_a_strangers_folder_executes_nothing(poisoned):
    run, target = poisoned
    for _ in range(2):
        with contextlib.suppress(LongcatDoraError):  # it is no run that could go on
            _run(run, 8)
        assert not target.exists()
        shutil.rmtree(run / "checkpoints", ignore_errors=True)


def _records(file):
    """The records of an event file, as the format says.

    Length, its checksum, bytes, their checksum.
    """
    data, at = file.read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        yield data[at + 12 : at + 12 + size]
        at += size + 16


def test_the_tensorboard_tracker_writes_files_that_can_be_read(tmp_path):
    proto = pytest.importorskip("tensorboardX.proto.event_pb2")
    tracker = tensorboard(tmp_path / "events")
    _run(tmp_path / "run", 5, on_step=tracker)
    (file,) = (tmp_path / "events").iterdir()
    found = {}
    for record in _records(file):
        event = proto.Event.FromString(record)
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 5
    for line in map(json.loads, lines):
        assert found["reward", line["step"]] == pytest.approx(line["reward"])
        for staleness, num in line["staleness"].items():
            assert found[f"staleness/{staleness}", line["step"]] == num
