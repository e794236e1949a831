"""Archiving is safe beside runs and beside other files, and its memory does not grow."""

import shutil
from dataclasses import astuple

import pytest
from longcat_dora import EventLog, LongcatDoraError, PayloadFile, check, read_events
from longcat_dora.__main__ import main
from longcat_dora._books.archive import _Part, archive
from longcat_dora._books.survey import survey_of
from longcat_dora._log.check import Checker
from longcat_dora._log.reader import LogReader


def _sampled(file, number, version):
    """Events of a group of two, one of whom fails."""
    group, (good, bad) = f"g{number:05d}", (f"t{2 * number + n:06d}" for n in range(2))
    starts = [{"kind": "started", "trajectory": name, "group": group, "version": version,
               "member": member, "attempt": 0} for member, name in enumerate((good, bad))]  # fmt: skip
    return [
        {"kind": "admitted", "group": group, "task": f"n{number}", "domain": "", "size": 2},
        *starts,
        {
            "kind": "produced",
            "trajectory": good,
            "group": group,
            "version": version,
            "payload": list(astuple(file.append([good.encode()]))),
        },
        {"kind": "ended", "trajectory": bad, "reason": "failed", "detail": "", "again": False},
    ]


def _trained(version, number):
    reused = [] if number in (0, 5) else [f"t{2 * number - 2:06d}"]
    return [
        {
            "kind": "committed",
            "version": version,
            "trajectories": [f"t{2 * number:06d}"],
            "reused": reused,
        },
        {"kind": "published", "version": version + 1},
        {"kind": "weights", "version": version + 1, "digest": f"{number}"},
        {"kind": "saved", "version": version + 1, "kept": [version + 1]},
    ]


@pytest.fixture
def log(tmp_path):
    """A log of 60 steps in many parts, which went back from version 4 to 2 once."""
    log = EventLog(tmp_path / "run" / "log", segment_bytes=2000)
    file = PayloadFile(log.folder, "payloads-000.bin")
    log.append(
        {"kind": "opened", "hard_staleness": 1, "at_bound": "wait"},
        {"kind": "published", "version": 0},
    )
    for n in range(4):
        log.append(*_sampled(file, n, min(n, 2)), *_trained(n, n))
    log.append(
        *_sampled(file, 4, 4),
        {"kind": "restored", "version": 2},
        {"kind": "ended", "trajectory": "t000008", "reason": "rolled_back", "detail": ""},
        {"kind": "evicted", "group": "g00004", "reason": "no_signal", "trajectories": []},
        *_trained(2, 2),
        *_trained(3, 3),
    )
    for n in range(4, 60):
        log.append(*_sampled(file, n + 1, n), *_trained(n, n + 1))
    log.close()
    file.close()
    return log.folder


def _files(folder):
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def test_the_checker_forgets_what_is_over_and_misses_nothing(log):
    def read(settles, more=()):
        books = Checker()
        for event in [*read_events(log), *more]:
            books.read(event)
            if settles and event["kind"] == "saved" and event["version"] > 4:
                books.settle(event["version"] - 1)
        return books

    plain, forgetful = read(False), read(True)
    assert len(plain.closed) == 122
    for kept in (forgetful.closed, forgetful.committed, forgetful.produced, forgetful.steps,
                 forgetful.reused, forgetful.digests):  # fmt: skip
        assert len(kept) < 5
    assert forgetful.undone == set()
    assert forgetful.closed["t000120"] == "committed"
    for name in ("t000000", "t000001", "t000120", "t000121"):
        for event in ({"kind": "started", "trajectory": name, "version": 60},
                      {"kind": "moved", "trajectory": name, "version": 60},
                      {"kind": "ended", "trajectory": name, "reason": "failed"},
                      {"kind": "produced", "trajectory": name, "version": 60},
                      {"kind": "committed", "version": 60, "trajectories": [name]}):  # fmt: skip
            assert read(True, [event]).close().breaches
            assert read(False, [event]).close().breaches
    again = {"kind": "committed", "version": 60, "trajectories": [], "reused": ["t000120"]}
    assert read(True, [again]).close().breaches == []
    other = {"kind": "weights", "version": 60, "digest": "other"}
    assert read(True, [other]).report.notes == read(False, [other]).report.notes != []
    assert plain.close() == forgetful.close()
    assert plain.report.breaches == []


def test_what_is_known_does_not_grow_though_the_log_went_back_once(log):
    survey = survey_of(log)
    part = _Part(LogReader(log), 10**6, survey)
    assert part.checker.report.breaches == []
    assert part.checker.report.num_committed == 60
    assert part.groups() == []
    for kept in (part.checker.closed, part.checker.produced, part.members._of,
                 part.members._trained, part.recovery._group_of):  # fmt: skip
        assert len(kept) < 5
    wide = survey_of(log)
    wide.bound = 2
    assert _Part(LogReader(log), 10**6, wide).trained() == {"t000120": 59}  # t000118 was used again
    assert survey.lowest_restore(0) == 2
    (at,) = survey.restores_at
    assert survey.lowest_restore(at) == 2
    assert survey.lowest_restore(at + 1) > 60
    assert archive(log, to=None).files
    summary = LogReader(log).summary
    assert summary is not None
    assert summary.head["trained"] == {"t000118": 58}  # and the rest of the log does use it again
    assert check(log).is_clean
    more, file = EventLog(log, segment_bytes=2000), PayloadFile(log, "payloads-001.bin")
    for n in range(60, 80):
        more.append(*_sampled(file, n + 1, n), *_trained(n, n + 1))
    more.close()
    file.close()
    assert archive(log, to=None).files
    assert check(log).num_reused == 78


def test_a_log_in_use_is_not_archived_nor_is_anybody_asked(log, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("asked in vain"))
    run = EventLog(log)
    before = _files(tmp_path)
    for way in (["--delete"], ["--to", str(tmp_path / "old"), "--yes"]):
        assert main(["archive", str(tmp_path / "run"), *way]) == 2
        out = capsys.readouterr()
        assert out.out == ""
        (line,) = out.err.splitlines()
        assert "is in use by process" in line
    assert main(["archive", str(tmp_path / "run")]) == 0  # it may be looked at
    assert _files(tmp_path) == before
    run.close()


def test_no_run_begins_while_somebody_is_asked(log, tmp_path, monkeypatch):
    def answer(_):
        with pytest.raises(LongcatDoraError, match="in use by process"):
            EventLog(log)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    assert main(["archive", str(tmp_path / "run"), "--delete"]) == 0
    assert LogReader(log).summary is not None
    EventLog(log).close()  # it was let go of


def test_a_folder_that_is_no_log_stays_as_it_is(tmp_path, capsys):
    for way in ([], ["--delete", "--yes"]):
        for name in (tmp_path, tmp_path / "nowhere"):
            assert main(["archive", str(name), *way]) == 2
            assert "an event log must be" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_lies_where_old_parts_are_moved_to_is_not_written_over(log, tmp_path, capsys):
    old, second = tmp_path / "old", "events-000001.jsonl"
    old.mkdir()
    (old / second).write_text("of another run")
    (tmp_path / "link").symlink_to(log)
    content = (log / second).read_bytes()
    before = _files(tmp_path)
    for to, told in ((log, "another folder than"), (tmp_path / "link", "another folder than"),
                     (old, f"{second} is of another log")):  # fmt: skip
        assert main(["archive", str(tmp_path / "run"), "--to", str(to), "--yes"]) == 2
        assert told in capsys.readouterr().err
        assert _files(tmp_path) == before
    shutil.copy(log / second, old)  # as a crash leaves it
    assert archive(log, to=old).files
    assert (old / second).read_bytes() == content


def test_a_full_disk_where_old_parts_go_is_one_line_and_they_stay(log, tmp_path, monkeypatch):
    old = tmp_path / "old"

    def fill(_, part):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copy2", fill)
        with pytest.raises(LongcatDoraError, match=r"cannot write .*: No space left on device"):
            archive(log, to=old)
    assert list(old.iterdir()) == []
    assert check(log).is_clean
    names = [path.name for path in archive(log, to=old).files]
    assert names == sorted(path.name for path in old.iterdir())
