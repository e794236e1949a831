"""A log goes on from one file to the next, and nothing is lost between."""

import errno
import os
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
from longcat_dora import EventLog, LongcatDoraError, read_events


def _add(log, numbers):
    for number in numbers:
        log.append({"kind": "published", "version": number})


def _versions(folder):
    return [event["version"] for event in read_events(folder)]


@pytest.mark.parametrize("left", ["no file", "an empty file", "half a head"])
def test_a_crash_between_two_files_leaves_a_log_that_goes_on_under_the_next_number(tmp_path, left):
    log = EventLog(tmp_path, segment_bytes=150)
    _add(log, range(6))
    log.close()
    last = tmp_path / "events.jsonl"
    data = last.read_bytes()
    assert data.count(b"\n") == 1  # a head alone
    last.unlink()
    if left != "no file":
        last.write_bytes(b"" if left == "an empty file" else data[:20])
    files = {path: path.read_bytes() for path in tmp_path.glob("events-0*")}
    log = EventLog(tmp_path, segment_bytes=150)
    assert last.read_bytes() == data
    _add(log, range(6, 12))
    log.close()
    assert {path: path.read_bytes() for path in files} == files
    assert _versions(tmp_path) == [*range(12)]


@pytest.mark.parametrize("num_before", [1, 6])
def test_a_full_disk_leaves_nothing_of_the_line_in_any_file(tmp_path, monkeypatch, num_before):
    log = EventLog(tmp_path, segment_bytes=150)
    _add(log, range(num_before))
    before = (tmp_path / "events.jsonl").read_bytes()
    write = os.write

    def fill(file, data):
        if len(data) < 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, bytes(data)[:7] if len(data) < 50 else bytes(data)[:-8])

    with monkeypatch.context() as patch:
        patch.setattr("os.write", fill)
        with pytest.raises(LongcatDoraError, match=r"cannot write .*: No space left on device"):
            _add(log, [99])
    assert (tmp_path / "events.jsonl").read_bytes() == before
    _add(log, range(num_before, 12))  # when there is room again
    log.close()
    assert _versions(tmp_path) == [*range(12)]


@pytest.mark.parametrize("num_before", [0, 1, 9])
def test_files_that_a_run_fills_after_they_were_listed_are_read_in_their_place(
    tmp_path, num_before
):
    log = EventLog(tmp_path, segment_bytes=150)
    _add(log, range(num_before))
    reader = read_events(tmp_path)
    _add(log, range(num_before, num_before + 7))
    assert len(list(tmp_path.glob("events-0*"))) > len(reader.files) + 1
    for _ in range(2):
        assert [event["version"] for event in reader] == [*range(num_before + 7)]
    assert (reader.first, reader.torn_bytes) == (0, 0)
    last = tmp_path / "events.jsonl"
    head, reader = last.read_bytes().splitlines()[0], read_events(tmp_path)
    _add(log, range(90, 97))  # the file was opened before that
    assert reader._renamed_meanwhile(last, head) == []
    assert all(version > num_before for version in _versions(last))
    log.close()


@pytest.mark.parametrize("before", ["rename", "open"])
def test_another_thread_syncs_just_as_a_file_becomes_full(tmp_path, monkeypatch, before):
    log = EventLog(tmp_path, segment_bytes=150)
    call, fdatasync = getattr(os, before), os.fdatasync
    synced, syncs = set(), list[Future[None]]()
    pool = ThreadPoolExecutor(1)

    def note(file):
        synced.add(os.fstat(file).st_ino)
        fdatasync(file)

    def sync_in_between(*args):
        if not syncs or syncs[-1].done():
            syncs.append(pool.submit(log.sync))
            wait(syncs, timeout=0.05)  # not for ever: it may have to wait for this thread
        return call(*args)

    monkeypatch.setattr("os.fdatasync", note)
    with monkeypatch.context() as patch, pool:
        patch.setattr(os, before, sync_in_between)
        for number in range(12):
            _add(log, [number])
            wait(syncs)
    assert len(syncs) > 2
    assert not [sync.exception() for sync in syncs if sync.exception()]
    log.sync()
    assert synced == {path.stat().st_ino for path in tmp_path.glob("events*")}
    log.close()
    assert _versions(tmp_path) == [*range(12)]
