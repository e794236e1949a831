"""Logs that are damaged at random, and runs whose power is cut.

No wrong verdict, nothing lost in silence.
"""

import json
import os
import random
import shutil
import subprocess
import sys
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
    check,
    read_events,
)
from longcat_dora.testing import TabularTrainer, tabular_worker

SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)


@pytest.fixture
def recount(monkeypatch):
    """The second reader."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import recount

    return recount


def _run(folder, steps, seed=0):
    config = RunConfig(folder=folder, max_steps=steps, scheduler=SMALL, save_every=3, seed=seed)
    tasks = (Task(f"n{n}", n % 8) for n in range(1000))
    trainer = TabularTrainer(learning_rate=0.1)
    LocalRuntime(config, factory=tabular_worker, trainer=trainer, tasks=tasks).run()


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in "ab"]
    for seed, folder in enumerate(folders):
        _run(folder, 10, seed)
    return folders


def _damage(rng, log, other):
    """Damage one file of a log in one way; return what was done to which."""
    events = log / "events.jsonl"
    how = rng.choice(["bit", "bit", "payload", "cut", "swap", "double", "lose", "foreign", "zeros"])
    data = bytearray(events.read_bytes())
    lines = bytes(data).splitlines(keepends=True)
    place = rng.randrange(len(lines) - 1)
    if how == "payload":
        file = log / "payloads-000.bin"
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)
        return how
    if how == "bit":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        data = data[: rng.randrange(1, len(data))]
    elif how == "zeros":  # what a file system may leave of what was not synced
        start = rng.randrange(1, len(data))
        data[start:] = bytes(len(data) - start)
    elif how == "foreign":
        theirs = (other / "events.jsonl").read_bytes().splitlines(keepends=True)
        lines[place + 1 :] = theirs[min(place + 1, len(theirs) - 1) :]
    elif how == "swap":
        after = rng.randrange(place + 1, len(lines))
        lines[place], lines[after] = lines[after], lines[place]
    elif how == "double":
        lines.insert(rng.randrange(len(lines) + 1), lines[place])
    else:
        del lines[place]
    if how in ("foreign", "swap", "double", "lose"):
        data = b"".join(lines)
    events.write_bytes(data)
    return how


def _judge(log, whole):
    """What is said of a log.

    How many events of the whole one are vouched for, or that it is wrong.
    """
    try:
        report = check(log)
    except LongcatDoraError:
        return None
    if report.breaches or report.not_judged:
        return None
    events = list(read_events(log))
    assert events == whole[: len(events)], "it vouches for what was not written"
    return len(events)


def _one(seed, folder, two_runs):
    rng = random.Random(seed)
    ours, theirs = two_runs if rng.random() < 0.5 else two_runs[::-1]
    log = folder / f"log{seed}"
    shutil.copytree(ours / "log", log)
    whole = list(read_events(ours / "log"))
    how = _damage(rng, log, theirs / "log")
    before = (log / "events.jsonl").read_bytes()
    verdict = _judge(log, whole)
    num_lines = before.count(b"\n") - 1  # without the head
    if verdict is not None:  # all that has an end is vouched for: a cut alone leaves such a log
        assert verdict == num_lines
        assert (
            how in ("cut", "zeros", "payload")
            or before == (ours / "log" / "events.jsonl").read_bytes()
        )
        if how == "payload":  # padding between two records is nobody's
            pytest.fail("a payload's byte was altered, and nobody saw it")
    try:
        opened = EventLog(log)
    except LongcatDoraError:
        assert (log / "events.jsonl").read_bytes() == before, "something was cut"
    else:
        opened.close()
        after = (log / "events.jsonl").read_bytes()
        assert before.startswith(after) or not num_lines + 1
        assert b"\n" not in before[len(after) :], "a line with an end was cut"
    shutil.rmtree(log)


def test_logs_that_are_damaged_at_random_get_no_wrong_verdict_and_lose_nothing(tmp_path, two_runs):
    for seed in range(60):
        _one(seed, tmp_path, two_runs)


@pytest.mark.long
def test_a_thousand_damaged_logs(tmp_path, two_runs):
    for seed in range(1000):
        _one(seed, tmp_path, two_runs)


def test_a_second_reader_counts_the_same(two_runs, recount, tmp_path):
    for folder in two_runs:
        recount.agree(folder / "log", check(folder / "log"))
    shutil.copytree(two_runs[0], tmp_path / "again")
    _run(tmp_path / "again", 14)
    recount.agree(tmp_path / "again" / "log", check(tmp_path / "again" / "log"))


def test_a_log_goes_on_in_another_file_when_one_is_full(tmp_path, recount):
    written = []
    for _ in range(3):
        log = EventLog(tmp_path, segment_bytes=2000)
        assert log.num_before == len(written)
        for n in range(len(written), len(written) + 40):
            written.append({"kind": "noticed", "text": f"{n}"})
            log.append(written[-1])
        log.sync()
        log.close()
    assert len(list(tmp_path.glob("events-*.jsonl"))) > 3
    assert [e["text"] for e in read_events(tmp_path)] == [e["text"] for e in written]
    assert len(recount.events_of(tmp_path)) == len(written)
    part = sorted(tmp_path.glob("events-*.jsonl"))[2]
    part.rename(tmp_path / "elsewhere")
    with pytest.raises(LongcatDoraError, match=r"events-000003\.jsonl, line 1"):
        list(read_events(tmp_path))
    for older in sorted(tmp_path.glob("events-*.jsonl"))[:2]:
        older.unlink()
    report = check(tmp_path)
    assert not report.is_clean
    assert "nothing judged before part 3 of the log: earlier ones are not" in report.summary()
    with pytest.raises(LongcatDoraError, match=r"before number 3 must be there.*put them back"):
        EventLog(tmp_path)


@pytest.mark.parametrize("left", ["nothing", "an empty file", "half a head"])
def test_a_crash_between_two_files_of_a_log_loses_nothing(tmp_path, left):
    log = EventLog(tmp_path)
    log.append({"kind": "noticed", "text": "a"}, {"kind": "noticed", "text": "b"})
    log.close()
    (tmp_path / "events.jsonl").rename(tmp_path / "events-000000.jsonl")
    if left != "nothing":
        (tmp_path / "events.jsonl").write_bytes(b"" if left == "an empty file" else b'{"crc":12')
    log = EventLog(tmp_path)
    assert log.num_before == 2
    log.append({"kind": "noticed", "text": "c"})
    log.close()
    events = list(read_events(tmp_path))
    assert [e["text"] for e in events] == ["a", "b", "c"]
    assert all(0 <= e["at"] < 60 for e in events)
    assert (tmp_path / "events.jsonl").read_bytes().count(b"\n") == 2


RECORDER = '''
"""Loaded by the interpreter at its start: notes what is written to a folder, and what is waited for."""
import json, os, threading
FOLDER, OUT = os.environ["RECORD_FOLDER"], os.environ["RECORD_OUT"]
names, lock, real = {}, threading.Lock(), {n: getattr(os, n) for n in ("open", "write", "writev", "fsync", "fdatasync", "close", "dup")}
out = real["open"](OUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(*what):
    real["write"](out, (json.dumps(what) + "\\n").encode())
def open_(path, flags, *a, **k):
    fd = real["open"](path, flags, *a, **k)
    path = os.path.abspath(os.fspath(path)) if not isinstance(path, int) else ""
    if path.startswith(FOLDER): names[fd] = path
    return fd
def write(fd, data):
    num = real["write"](fd, data)
    if fd in names: note("write", names[fd], num)
    return num
def writev(fd, parts):
    num = real["writev"](fd, parts)
    if fd in names: note("write", names[fd], num)
    return num
def sync(name):
    def call(fd):
        if fd in names:  # what is written meanwhile may not be part of it
            size = os.fstat(fd).st_size
            real[name](fd)
            note("sync", names[fd], size)
        else: real[name](fd)
    return call
def dup(fd):
    new = real["dup"](fd)
    if fd in names: names[new] = names[fd]
    return new
def close(fd):
    names.pop(fd, None)
    real["close"](fd)
os.open, os.write, os.writev, os.close, os.dup = open_, write, writev, close, dup
os.fsync, os.fdatasync = sync("fsync"), sync("fdatasync")
'''


@pytest.mark.parametrize("synced", [True, False])
def test_what_is_committed_survives_a_power_cut(tmp_path, synced, recount):
    """Of the real process.

    Everything that was not waited for is dropped, and each commit that was told stands.
    """
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(RECORDER)
    script = tmp_path / "run.py"
    script.write_text(f"""
import sys
from longcat_dora import LocalRuntime, RunConfig, SchedulerConfig, Task
from longcat_dora._books.archive import archive
from longcat_dora.testing import TabularTrainer, tabular_worker
LocalRuntime(
    RunConfig(folder=sys.argv[1], max_steps=12, save_every=4, sync_commits={synced}, num_controllers=2,
              scheduler=SchedulerConfig(groups_per_batch=2, group_size=4, hard_staleness=2)),
    factory=tabular_worker, trainer=TabularTrainer(learning_rate=0.1),
    tasks=(Task(f"n{{n}}", n % 8) for n in range(1000)),
    on_step=lambda p: print("told", p.step, flush=True),
).run()
""")
    run, record = tmp_path / "run", tmp_path / "record"
    paths = [str(hook), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RECORD_FOLDER": str(run / "log"),
                   "RECORD_OUT": str(record)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(script), str(run)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    operations = [json.loads(line) for line in record.read_text().splitlines()]
    assert {kind for kind, _, _ in operations} >= {"write"}
    cuts = list(range(len(operations) // 4, len(operations), max(1, len(operations) // 12)))
    lost = 0
    for number, cut in enumerate(cuts):
        disk = tmp_path / f"disk{number}"
        disk.mkdir()
        kept = {}
        for kind, path, size in operations[:cut]:
            if kind == "sync":
                kept[path] = max(kept.get(path, 0), size)
        for path, size in kept.items():
            if Path(path).is_file():
                (disk / Path(path).name).write_bytes(Path(path).read_bytes()[:size])
        lost += _num_lost(disk, operations[:cut], run / "log", recount)
        shutil.rmtree(disk)
    assert (lost == 0) == synced


def _num_lost(disk, operations, whole, recount):
    """Steps that were committed for good when the power failed, and are not whole on the disk."""
    # A step was told when the log was synced behind its commit; without syncs, when the commit was
    # written.
    size = {"write": 0, "sync": 0}
    for kind, path, num in operations:
        if path.endswith("events.jsonl"):
            size[kind] = size[kind] + num if kind == "write" else max(size[kind], num)
    told = (whole / "events.jsonl").read_bytes()[: size["sync"] or size["write"]]
    promised = told.count(b'"kind":"committed"')
    if not (disk / "events.jsonl").is_file():
        return promised
    trajectories = {}
    found = 0
    for event in recount.events_of(disk):
        if event["kind"] == "produced":
            trajectories[event["trajectory"]] = event["payload"]
        if event["kind"] == "committed":
            is_whole = True
            for name in event["trajectories"]:
                file, offset, length, crc = trajectories[name]
                there = (disk / file).read_bytes() if (disk / file).is_file() else b""
                is_whole &= recount.zlib.crc32(there[offset : offset + length]) == crc
            found += is_whole
    return promised - found


def test_a_run_goes_on_after_a_power_cut_that_kept_events_and_lost_payloads(tmp_path, recount):
    _run(tmp_path, 4)
    log = tmp_path / "log"
    lines = (log / "events.jsonl").read_bytes().splitlines(keepends=True)
    (log / "events.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    payloads = log / "payloads-000.bin"
    payloads.write_bytes(payloads.read_bytes()[: payloads.stat().st_size // 4])
    shutil.rmtree(tmp_path / "checkpoints")
    _run(tmp_path, 4)
    report = check(log)
    assert [b for b in report.breaches if "not what was written" not in b] == []
    assert report.num_open == 0


def test_resuming_and_archiving_take_memory_that_does_not_grow_with_the_log(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import resume

    fresh, _ = resume.proceed(tmp_path / "fresh", 0)
    version = resume.write_log(tmp_path / "long", 15_000, segment_bytes=4 * 2**20)
    whole, _ = resume.proceed(tmp_path / "long", version)
    archiver, _ = resume.proceed(tmp_path / "long", version, resume.ARCHIVE)
    rest, _ = resume.proceed(tmp_path / "long", version)
    # All events of it are some 22 MiB; what a system keeps of libraries varies by some.
    assert whole - fresh < 10
    assert archiver - fresh < 5
    assert rest - fresh < 10


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_damage_though_its_checksum_is_right(tmp_path, body):
    EventLog(tmp_path).append({"kind": "published", "version": 0})
    file = tmp_path / "events.jsonl"
    before = json.loads(file.read_bytes().splitlines()[-1])["crc"]
    crc = zlib.crc32(body, before)
    with file.open("ab") as stream:
        stream.write(b'{"crc":%d,"event":%b}\n' % (crc, body))
    with pytest.raises(LongcatDoraError, match=r"events.jsonl, line 3"):
        list(read_events(tmp_path))
