"""Old parts of a log are moved away.

The run goes on as if they were there, and nobody can rewrite them.
"""

import contextlib
import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
from longcat_dora import (
    EventLog,
    LocalRuntime,
    LongcatDoraError,
    PayloadFile,
    PayloadReader,
    RunConfig,
    SchedulerConfig,
    Task,
    check,
    read_events,
    read_trajectories,
    replay,
)
from longcat_dora.__main__ import main
from longcat_dora._books.archive import archive
from longcat_dora._books.survey import Survey
from longcat_dora._log.lines import encode_event
from longcat_dora.testing import TabularTrainer, tabular_worker

ASYNC = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)
SYNC = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=0, hard_staleness=0)


@pytest.fixture
def recount(monkeypatch):
    """The second reader."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import recount

    return recount


def _trainer():
    return TabularTrainer(learning_rate=0.1)


def _run(folder, steps, scheduler=ASYNC, segment_bytes=6000):
    config = RunConfig(
        folder=folder,
        max_steps=steps,
        scheduler=scheduler,
        save_every=2,
        segment_bytes=segment_bytes,
    )
    tasks = (Task(f"n{n}", n % 8) for n in range(4000))
    trainer = _trainer()
    LocalRuntime(config, factory=tabular_worker, trainer=trainer, tasks=tasks).run()
    return trainer.table


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody archived, and what is left of it when somebody does."""
    folder = tmp_path_factory.mktemp("whole")
    _run(folder, 24)
    return folder


@pytest.fixture(scope="module")
def archived(whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archived")
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    found = archive(folder / "log", to=folder / "elsewhere")
    assert len(found.files) > 5
    return folder


def test_an_archived_log_is_judged_from_where_it_begins_and_counts_the_same(
    whole, archived, recount
):
    before, after = check(whole / "log"), check(archived / "log")
    assert after.is_clean
    (note,) = after.notes
    assert note.startswith("judged from part ")
    assert "of the log on; before it by its summary: " in note
    assert json.loads(_summary(archived).read_bytes().splitlines()[0])["trained"] == {}
    numbers = "num_started num_committed num_ended num_open staleness reasons"
    for name in numbers.split():
        assert getattr(after, name) == getattr(before, name)
    assert after.num_events == before.num_events + 1  # that it was archived
    assert after.num_payloads < before.num_payloads
    recount.agree(whole / "log", before)
    recount.agree(archived / "log", after)


def test_moved_files_are_what_they_were_and_can_be_put_back(whole, archived, recount, tmp_path):
    shutil.copytree(archived, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "elsewhere").iterdir():
        assert path.read_bytes() == (whole / "log" / path.name).read_bytes()
        path.rename(tmp_path / "log" / path.name)
    report = check(tmp_path / "log")
    assert report.notes == []
    recount.agree(tmp_path / "log", report)
    assert len(list(read_trajectories(tmp_path / "log"))) == report.num_payloads
    assert all(step.is_exact for step in replay(tmp_path / "log", _trainer()))


def test_a_run_goes_on_when_its_old_parts_are_gone_again_and_again(archived, recount, tmp_path):
    shutil.copytree(archived, tmp_path, dirs_exist_ok=True)
    for steps in (34, 44):
        _run(tmp_path, steps)
        assert archive(tmp_path / "log", to=None).files
        report = check(tmp_path / "log")
        assert report.is_clean
        recount.agree(tmp_path / "log", report)
    assert len(list((tmp_path / "log").glob("archived-*"))) == 1
    assert report.num_committed == 44 * 8
    head = json.loads(_summary(tmp_path).read_bytes().splitlines()[0])
    assert len(head["files"]) == head["before"]
    tasks = [line.split(b'"')[5] for line in _summary(tmp_path).read_bytes().splitlines()[1:]]
    assert tasks == [b"n%d" % n for n in range(len(tasks))]
    assert len(tasks) > 44 * 2 - 8


def _summary(folder):
    (path,) = (folder / "log").glob("archived-*")
    return path


def test_a_synchronous_run_whose_old_parts_are_gone_ends_with_the_same_bits(tmp_path):
    expected = _run(tmp_path / "a", 20, SYNC, 4000)
    for steps in (8, 14, 20):
        table = _run(tmp_path / "b", steps, SYNC, 4000)
        archive(tmp_path / "b" / "log", to=None)
    assert table == expected


def test_a_damaged_log_is_repaired_with_its_old_parts_gone(archived, tmp_path, recount):
    shutil.copytree(archived, tmp_path, dirs_exist_ok=True)
    log = tmp_path / "log"
    data = bytearray((log / "events.jsonl").read_bytes())
    data[data.rindex(b'"closed"') + 1] ^= 1  # behind the last checkpoint, before it is archived
    (log / "events.jsonl").write_bytes(data)
    with pytest.raises(LongcatDoraError, match="is not what was written"):
        check(log)
    assert main(["repair", str(tmp_path), "--yes"]) == 0
    assert check(log).is_clean
    _run(tmp_path, 30)
    recount.agree(log, check(log))


def test_what_a_checkpoint_or_a_restore_may_undo_stays(tmp_path):
    _run(tmp_path, 11)
    log = tmp_path / "log"
    oldest = min(int(path.name[5:]) for path in (tmp_path / "checkpoints").glob("step-*"))
    archive(log, to=tmp_path / "elsewhere")
    committed = [e["version"] for e in read_events(log) if e["kind"] == "committed"]
    assert committed[0] <= oldest
    assert committed == [*range(committed[0], 11)]
    for path in (tmp_path / "checkpoints").iterdir():  # all are lost: it would begin anew
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(LongcatDoraError, match=r"version 0, and the log before .* was archived"):
        _run(tmp_path, 20)
    shutil.copytree(tmp_path / "elsewhere", log, dirs_exist_ok=True)
    _run(tmp_path, 14)
    found = archive(log, to=None)  # what was undone is over, and what came after it is saved
    (restored,) = [e for e in read_events(log) if e["kind"] == "restored"] or [None]
    assert found.before > 0
    assert restored is None
    assert check(log).is_clean


def _survey(events):
    survey = Survey()
    for number, event in events:
        survey.read(number, event)
    return survey.first_to_stay(sorted({number for number, _ in events}))


def test_a_part_stays_when_a_later_one_restores_to_before_it():
    def step(number, version):
        return [(number, {"kind": "committed", "version": version, "trajectories": []}),
                (number, {"kind": "published", "version": version + 1})]  # fmt: skip

    start = [(0, {"kind": "opened", "hard_staleness": 1}), (0, {"kind": "published", "version": 0})]
    steps = [event for version in range(6) for event in step(version // 2, version)]
    saved = {"kind": "saved", "version": 6, "kept": [4, 6]}
    assert _survey([*start, *steps, (3, saved)]) == 2
    assert _survey([*start, *steps, (3, {**saved, "kept": [3]})]) == 1
    assert _survey([*start, *steps]) == 0
    wide = [(0, {"kind": "opened", "hard_staleness": 3}), *start, *steps, (3, saved)]
    assert _survey(wide) == 1  # what it was once may be what was used again
    again = [(3, saved), (3, {"kind": "restored", "version": 2}), *(step(3, 2) + step(3, 3))]
    assert _survey([*start, *steps, *again, *step(3, 4), *step(3, 5)]) == 1
    half = [*start, *steps[:3], (1, steps[3][1]), *steps[4:], (3, saved)]
    assert _survey(half) == 2
    assert _survey([(0, event) if n < 5 else (k, event) for n, (k, event) in enumerate(half)]) == 2


def _tampered(rng, folder, other):
    """Change what a log's archived parts have left, in one way."""
    path = _summary(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    how = rng.choice(["bit", "bit", "forged", "foreign", "lost", "unsaid", "cut"])
    if how == "bit":
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif how == "forged":  # whole, with a name that says its digest
        head = json.loads(lines[0])
        head["counts"][rng.choice(["started", "committed", "ended"])] += 1
        _rename(path, json.dumps(head).encode() + b"\n" + b"".join(lines[1:]))
    elif how == "foreign":
        _rename(path, _summary(other).read_bytes())
    elif how == "lost":
        path.unlink()
    elif how == "cut":
        path.write_bytes(b"".join(lines[:-1]))
    else:
        _forget_that_it_was_archived(folder / "log")
    return how


def _rename(path, data):
    path.unlink()
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    path.with_name(f"{path.name[:15]}-{digest}.jsonl").write_bytes(data)


def _forget_that_it_was_archived(log):
    """Write the last file anew without that line, all checksums right."""
    events, chain, out = list(read_events(log)), 0, []
    file = log / "events.jsonl"
    num = file.read_bytes().count(b"\n") - 1
    head = json.loads(file.read_bytes().splitlines()[0])["event"]
    chain = head["chain"]
    for event in [head, *(e for e in events[-num:] if e["kind"] != "archived")]:
        line, chain = encode_event(event, chain)
        out.append(line)
    file.write_bytes(b"".join(out))


def test_a_summary_that_was_tampered_with_is_refused_and_nothing_is_changed(
    archived, tmp_path_factory, tmp_path
):
    other = tmp_path_factory.mktemp("other")
    _run(other, 16)
    archive(other / "log", to=None)
    seen = set()
    for seed in range(24):
        folder = tmp_path / str(seed)
        shutil.copytree(archived / "log", folder / "log")
        seen.add(_tampered(random.Random(seed), folder, other))
        files = {path: path.read_bytes() for path in (folder / "log").glob("*.jsonl")}
        with contextlib.suppress(LongcatDoraError):
            assert not check(folder / "log").is_clean
        with pytest.raises(LongcatDoraError):
            EventLog(folder / "log", begin=lambda _: None)
        assert {path: path.read_bytes() for path in (folder / "log").glob("*.jsonl")} == files
    assert seen == {"bit", "forged", "foreign", "lost", "unsaid", "cut"}


@pytest.mark.parametrize(
    "crash", ["before the log says so", "before the files go", "between files"]
)
def test_a_crash_while_it_is_archived_changes_nothing(whole, tmp_path, monkeypatch, crash, recount):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    log, moved = tmp_path / "log", []

    def fail(*_):
        raise KeyboardInterrupt

    module = "longcat_dora._books.archive"
    with monkeypatch.context() as patch:
        if crash == "before the log says so":
            patch.setattr(EventLog, "append", fail)
        elif crash == "before the files go":
            patch.setattr(f"{module}._move", fail)
        else:
            patch.setattr(f"{module}._move", lambda path, _: moved.append(path) or path.unlink()
                          if len(moved) < 3 else fail())  # fmt: skip
        with pytest.raises(KeyboardInterrupt):
            archive(log, to=None)
    report = check(log)
    assert report.is_clean
    recount.agree(log, report)
    shutil.copytree(tmp_path, tmp_path / "again", ignore=lambda *_: ["again"])
    _run(tmp_path / "again", 30)
    assert archive(log, to=None).files
    for folder in (log, tmp_path / "again" / "log"):
        recount.agree(folder, check(folder))


def test_the_command_shows_first_and_asks(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    before = sorted((tmp_path / "log").iterdir())
    assert main(["archive", str(tmp_path)]) == 0
    assert "trained through: " in capsys.readouterr().out
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert main(["archive", str(tmp_path), "--delete"]) == 1
    assert main(["archive", str(tmp_path), "--delete", "--to", "x"]) == 2
    assert sorted((tmp_path / "log").iterdir()) == before
    assert main(["archive", str(tmp_path), "--to", str(tmp_path / "old"), "--yes"]) == 0
    assert main(["archive", str(tmp_path), "--delete"]) == 0
    assert "nothing of" in capsys.readouterr().out
    assert main(["check", str(tmp_path)]) == 0
    assert "judged from part" in capsys.readouterr().out
    with pytest.raises(LongcatDoraError, match="put them back"):
        list(replay(tmp_path / "log", _trainer()))


def test_trajectories_files_go_when_nothing_that_stays_names_them(tmp_path):
    for steps in (6, 12, 18):  # each process writes to a file of its own
        _run(tmp_path, steps)
    found = archive(tmp_path / "log", to=None)
    assert "payloads-000.bin" in [path.name for path in found.payloads]
    assert check(tmp_path / "log").is_clean
    assert (tmp_path / "log" / "payloads-002.bin").is_file()


def _num_open():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_file_of_trajectories_goes_on_in_another_one_and_few_are_open(tmp_path, monkeypatch):
    file = PayloadFile(tmp_path, "payloads-003.bin", most_bytes=10)
    kept = [file.append([b"%06d" % n]) for n in range(40)]
    file.close()
    assert [p.file for p in kept[:5]] == ["payloads-003.bin"] * 2 + ["payloads-003-001.bin"] * 2 + [
        "payloads-003-002.bin"
    ]
    monkeypatch.setattr("longcat_dora._log.payloads._MOST_OPEN", 3)
    reader = PayloadReader(tmp_path)
    before = _num_open()
    for _ in range(2):
        assert [reader.read(p) for p in kept] == [b"%06d" % n for n in range(40)]
    assert _num_open() == before + 3
    reader.close()
    assert _num_open() == before
