"""The proof fails closed.

Whatever is wrong with a log is said, and nothing is cut that was not torn.
"""

import contextlib
import io
import json
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

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
from longcat_dora.__main__ import main
from longcat_dora.testing import TabularTrainer, tabular_worker

SMALL = SchedulerConfig(groups_per_batch=2, group_size=4, soft_staleness=1, hard_staleness=2)
OPENED = {"kind": "opened", "hard_staleness": 2, "at_bound": "wait"}


def _run(folder, steps=6, **more):
    trainer = more.pop("trainer", None) or TabularTrainer(learning_rate=0.3)
    config = RunConfig(
        folder=folder, max_steps=steps, scheduler=SMALL, save_every=2, **more.pop("config", {})
    )
    tasks = more.pop("tasks", None) or (Task(f"n{n}", n % 8) for n in range(400))
    return LocalRuntime(
        config, factory=tabular_worker, trainer=trainer, tasks=tasks, **more
    ).run()  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps."""
    folder = tmp_path_factory.mktemp("whole")
    assert _run(folder) == 6
    return folder


@pytest.fixture
def run(whole, tmp_path):
    """A copy of it, to be damaged."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def _cli(*arguments, stdin=""):
    """The command, in this process: what it returned and said."""
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main([str(one) for one in arguments])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_the_middle_is_an_error_that_names_the_line_and_nothing_is_cut(run, bit):
    log = run / "log" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    line = bytearray(lines[40])
    line[len(line) // 2] ^= 1 << bit
    log.write_bytes(b"".join([*lines[:40], line, *lines[41:]]))
    damaged = log.read_bytes()
    done = _cli("check", run / "log")
    assert done.returncode != 0
    assert "events.jsonl, line 41" in done.stdout + done.stderr
    assert "hold" not in done.stdout
    with pytest.raises(LongcatDoraError, match="line 41"):
        _run(run, steps=8)
    assert log.read_bytes() == damaged


def test_an_altered_end_of_the_last_line_is_not_taken_for_a_torn_one(run):
    log = run / "log" / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-1] + b"x")
    with pytest.raises(LongcatDoraError, match=r"events\.jsonl, line"):
        list(read_events(run / "log"))


@pytest.mark.parametrize("what", ["lost", "doubled", "swapped", "of another run"])
def test_lines_that_are_whole_but_out_of_place_are_found(run, what, tmp_path):
    log = run / "log" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    if what == "lost":
        lines = lines[:20] + lines[21:]
    elif what == "doubled":
        lines = lines[:20] + lines[19:]
    elif what == "swapped":
        lines[20], lines[21] = lines[21], lines[20]
    else:
        _run(tmp_path / "other", steps=2)
        other = (tmp_path / "other" / "log" / "events.jsonl").read_bytes().splitlines(keepends=True)
        lines = lines[:20] + other[20:]
    log.write_bytes(b"".join(lines))
    with pytest.raises(LongcatDoraError, match=r"line 2\d"):
        check(run / "log")


def test_a_flipped_bit_in_a_trajectory_is_found(run):
    produced = next(e for e in read_events(run / "log") if e["kind"] == "produced")
    file, offset, length, _ = produced["payload"]
    data = bytearray((run / "log" / file).read_bytes())
    data[offset + length - 1] ^= 1
    (run / "log" / file).write_bytes(data)
    done = _cli("check", run / "log")
    assert done.returncode == 1
    assert produced["trajectory"] in done.stdout
    assert not check(read_events(run / "log")).is_clean
    (run / "log" / file).unlink()
    assert len(check(run / "log").breaches) > 10


def test_a_breach_names_file_and_line(tmp_path):
    log = EventLog(tmp_path, segment_bytes=300)
    log.append(OPENED, *({"kind": "published", "version": n} for n in range(3)))
    log.append({"kind": "published", "version": 3})
    log.close()
    told = [breach.split(": ")[0] for breach in check(tmp_path).breaches]
    assert told == [f"C3, events-000000.jsonl line {n}" for n in (4, 5)] + [
        "C3, events.jsonl line 2"
    ]


def test_the_bytes_are_part_of_the_verdict(whole):
    report = check(whole / "log")
    produced = sum(e["kind"] == "produced" for e in read_events(whole / "log"))
    assert report.is_clean
    assert report.num_payloads == produced > 0
    assert f"{produced} trajectories read, all whole" in _cli("check", whole).stdout


@pytest.mark.parametrize("events", [
    [{"kind": "publishd", "version": 0}], [{}], ["opened"], [None], [{"kind": "started"}],
    [OPENED, {"kind": "published", "version": 0}, {"kind": "started", "trajectory": ["x"], "version": 0}],
])  # fmt: skip
def test_what_is_no_event_is_a_breach(events):
    assert check(events).breaches
    assert "hold" not in check(events).summary()


def test_what_cannot_be_judged_is_not_called_clean():
    assert not check([]).is_clean
    assert "hold" not in check([]).summary()
    assert "nothing judged: the log is empty" in check([]).summary()
    events = [{"kind": "published", "version": 0},
              {"kind": "started", "trajectory": "t0", "group": "g", "version": 0},
              {"kind": "produced", "trajectory": "t0", "group": "g", "version": 0}]  # fmt: skip
    for version in range(51):
        names = ["t0"] if version == 50 else []
        events += [{"kind": "committed", "version": version, "trajectories": names},
                   {"kind": "published", "version": version + 1}]  # fmt: skip
    report = check(events)
    assert not report.is_clean
    assert "C3 not judged: no bound in the log" in report.summary()
    assert "C1 C2 hold" in report.summary()
    assert "the bound is 2" in str(check([OPENED, *events]).breaches)


@pytest.mark.parametrize(("events", "told"), [
    ([{"kind": "started", "trajectory": "t0", "group": "g", "version": 0}] * 2, "t0 is started twice"),
    ([{"kind": "weights", "version": 1, "digest": "x"}], "weights of version 1, newest published is 0"),
    ([{"kind": "published", "version": 2}], "steps are missing"),
    ([{"kind": "published", "version": 1}], "no step led to it"),
    ([{"kind": "restored", "version": 7}], "restored to version 7, but published are 0 to 0"),
    ([{"kind": "committed", "version": 3, "trajectories": []}], "newest published is 0"),
    ([{"kind": "committed", "version": 0, "trajectories": []}] * 2, "was taken before"),
])  # fmt: skip
def test_a_gap_in_the_steps_is_a_breach(events, told):
    report = check([OPENED, {"kind": "published", "version": 0}, *events])
    assert told in str(report.breaches)


def _begun(at_bound="continue"):
    return [
        {**OPENED, "at_bound": at_bound}, {"kind": "published", "version": 0},
        {"kind": "started", "trajectory": "t0", "group": "g", "version": 0},
    ]  # fmt: skip


MOVED = {"kind": "moved", "trajectory": "t0", "version": 0}
PRODUCED = {"kind": "produced", "trajectory": "t0", "group": "g", "version": 0}
ENDED = {"kind": "ended", "trajectory": "t0", "reason": "expired"}


@pytest.mark.parametrize(("at_bound", "events", "told"), [
    ("wait", [MOVED], "t0 is moved to 0, which at_bound does not allow"),
    ("continue", [{**MOVED, "version": 1}], "t0 is moved to version 1, newest is 0"),
    ("continue", [{**MOVED, "trajectory": "t1"}], "t1 is moved, but is not being sampled"),
    ("continue", [PRODUCED, MOVED], "t0 is moved, but is not being sampled"),
    ("continue", [ENDED, MOVED], "t0 is moved, but ended (expired)"),
    ("continue", [PRODUCED, PRODUCED], "t0 is produced, but not being sampled"),
    ("continue", [ENDED, PRODUCED], "t0 is produced, but ended (expired)"),
])  # fmt: skip
def test_what_is_not_being_sampled_is_neither_moved_nor_produced(at_bound, events, told):
    (breach,) = check([*_begun(at_bound), *events]).breaches
    assert told in breach


@pytest.mark.parametrize("at_bound", ["continue", "mask"])
def test_what_may_move_moves(at_bound):
    report = check([*_begun(at_bound), MOVED, MOVED, {**PRODUCED, "versions": [0, 0]}])
    assert report.breaches == []
    assert report.num_moved == 2


def test_a_log_that_is_closed_holds_nothing_open():
    closed = {"kind": "closed"}
    (breach,) = check([*_begun(), closed]).breaches
    assert "the log is closed, but 1 are open: t0" in breach
    assert check([*_begun(), ENDED, closed]).breaches == []
    assert check([*_begun(), closed, ENDED]).breaches == []  # it went on


def test_other_weights_of_a_version_after_a_restart_are_told():
    weights = [{"kind": "weights", "version": 0, "digest": digest} for digest in "aab"]
    assert not check([*_begun(), *weights[:2]]).notes
    (note,) = check([*_begun(), *weights]).notes
    assert "version 0 had weights a, and has b after a restart" in note


def test_a_step_that_is_undone_counts_nothing_of_what_it_used_again():
    step = {"kind": "committed", "version": 0, "trajectories": ["t0"]}
    again = {"kind": "committed", "version": 1, "trajectories": [], "reused": ["t0"]}
    to_1, to_2 = ({"kind": "published", "version": version} for version in (1, 2))
    events = [*_begun(), PRODUCED, step, to_1, again, to_2]
    assert check(events).num_reused == 1
    undone = [*events, {"kind": "restored", "version": 1}]
    assert check(undone).num_reused == 0
    report = check([*undone, again, to_2])
    assert report.breaches == []
    assert (report.num_reused, report.num_committed) == (1, 1)


def test_what_is_used_again_must_be_young_enough_too():
    events = [
        {**OPENED, "hard_staleness": 1}, {"kind": "published", "version": 0},
        {"kind": "started", "trajectory": "t0", "group": "g", "version": 0},
        {"kind": "produced", "trajectory": "t0", "group": "g", "version": 0},
    ]  # fmt: skip
    for version in range(3):
        names = (
            {"trajectories": ["t0"]}
            if version == 0
            else {"trajectories": [], "reused": ["t0"] * (version == 2)}
        )
        events += [{"kind": "committed", "version": version, **names},
                   {"kind": "published", "version": version + 1}]  # fmt: skip
    assert "t0 has staleness 2, the bound is 1" in str(check(events).breaches)
    events[0] = {**OPENED, "hard_staleness": 2}
    assert check(events).breaches == []
    assert check(events).num_reused == 1


def test_a_log_that_has_lost_its_end_is_not_continued_from_a_newer_checkpoint(run):
    log = run / "log" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    third = next(n for n, line in enumerate(lines) if b'"published","version":3' in line)
    log.write_bytes(b"".join(lines[: third + 1]))
    with pytest.raises(
        LongcatDoraError, match=r"ends at version 3, and the checkpoint is of version 6"
    ):
        _run(run, steps=8)
    assert len(log.read_bytes().splitlines()) == third + 1


@pytest.mark.parametrize("head", ["older", "newer", "none"])
def test_a_log_of_another_format_is_one_error(run, head):
    log = run / "log" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    if head == "none":
        lines = lines[1:]
    else:
        from longcat_dora._log.lines import encode_event

        told = {"kind": "log", "format": 99, "number": 0, "chain": 0}
        if head == "older":
            told = {"kind": "opened", "hard_staleness": 2, "at": 0.0}
        lines[0] = encode_event(told, 0)[0]
    log.write_bytes(b"".join(lines))
    with pytest.raises(LongcatDoraError, match=r"line 1: .*(of format 3|is not what was written)"):
        check(run / "log")
    assert _cli("check", run / "log").returncode == 2


def test_a_record_that_lacks_a_field_is_one_error(tmp_path):
    log = EventLog(tmp_path)
    log.append(OPENED, {"kind": "published", "version": 0})
    log.append({"kind": "started", "trajectory": "t0", "group": "g", "version": 0})
    log.close()
    with pytest.raises(
        LongcatDoraError, match=r"line 4: 'started' must have \['attempt', 'member'\]"
    ):
        list(read_events(tmp_path))


class WaitingTrainer(TabularTrainer):
    """Goes on when it is told to."""

    go_on = threading.Event()

    def train(self, batch):
        assert self.go_on.wait(120)
        return super().train(batch)


def test_one_folder_has_one_run_and_the_second_is_told_who_holds_it(tmp_path):
    first = threading.Thread(target=_run, args=(tmp_path, 4), kwargs={"trainer": WaitingTrainer()})
    first.start()
    while not (tmp_path / "log" / "events.jsonl").exists():
        time.sleep(0.01)
    with pytest.raises(
        LongcatDoraError, match=r"one folder, one run: .* is in use by process \d+ on"
    ):
        _run(tmp_path)
    WaitingTrainer.go_on.set()
    first.join()
    assert check(tmp_path / "log").is_clean
    assert _run(tmp_path, steps=5) == 5  # it was let go of


def test_a_damaged_trajectory_and_a_damaged_task_do_not_brick_a_run(run, caplog):
    """As a crash leaves them: finished and not trained on."""
    log = run / "log"
    lines = (log / "events.jsonl").read_bytes().splitlines(keepends=True)
    events = list(read_events(log))
    cut = [n for n, e in enumerate(events) if e["kind"] == "produced"][2]
    (log / "events.jsonl").write_bytes(b"".join(lines[: cut + 2]))  # the head is a line, too
    shutil.rmtree(run / "checkpoints")
    file, offset, length, _ = events[cut]["payload"]
    data = bytearray((log / file).read_bytes())
    data[offset + length // 2] ^= 4
    (log / file).write_bytes(data)
    tasks = log / "tasks.bin"
    tasks.write_bytes(tasks.read_bytes()[:-400])
    assert _run(run, steps=6) == 6
    ended = [e for e in read_events(log) if e.get("reason") == "damaged"]
    assert [e["trajectory"] for e in ended] == [events[cut]["trajectory"]]
    assert "must have checksum" in ended[0]["detail"]
    assert "sampled anew" in caplog.text
    report = check(log)
    assert report.breaches == []
    assert report.num_open == 0


def test_a_group_whose_task_is_lost_for_good_ends_with_a_reason(run, caplog):
    log = run / "log"
    lines = (log / "events.jsonl").read_bytes().splitlines(keepends=True)
    (log / "events.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    shutil.rmtree(run / "checkpoints")
    (log / "tasks.bin").write_bytes(b"")
    _run(run, steps=6, tasks=(Task(f"m{n}", n % 8) for n in range(400)))
    evicted = [e for e in read_events(log) if e["kind"] == "evicted" and e["reason"] == "damaged"]
    assert evicted
    assert "tasks do not come in the order of before" in caplog.text
    assert check(log).breaches == []


@pytest.mark.parametrize("how", ["empty", "altered", "gone"])
def test_an_older_checkpoint_is_used_when_the_newest_is_broken(run, how, caplog):
    newest = run / "checkpoints" / "step-000006" / "table.json"
    if how == "gone":
        newest.unlink()
    else:
        data = newest.read_bytes()
        newest.write_bytes(b"" if how == "empty" else data.replace(b"0.", b"1.", 1))
    assert _run(run, steps=7) == 7
    assert "checkpoint 6 is broken" in caplog.text
    assert "no checkpoint that the log tells of" not in caplog.text
    restored = [e["version"] for e in read_events(run / "log") if e["kind"] == "restored"]
    assert restored == [4]
    assert any(e["kind"] == "noticed" and "broken" in e["text"] for e in read_events(run / "log"))
    assert check(run / "log").breaches == []


def test_when_no_checkpoint_can_be_restored_nothing_is_touched(run):
    before = sorted(path.name for path in (run / "checkpoints").iterdir())
    for table in (run / "checkpoints").glob("*/table.json"):
        table.write_bytes(b"")
    with pytest.raises(LongcatDoraError, match=r"no checkpoint can be restored: .*step-000006"):
        _run(run, steps=8)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == before


def test_looking_at_a_folder_executes_nothing(run):
    """A folder from elsewhere may hold anything: no file of it is unpickled."""
    bomb = b"cbuiltins\nprint\n(S'boom'\ntR."
    for name in ("tasks.bin", "payloads-000.bin"):
        (run / "log" / name).write_bytes(bomb * 1000)
    code = textwrap.dedent(f"""
        import pickle, sys
        def refuse(*_): raise SystemExit("unpickled")
        pickle.loads = pickle.load = refuse
        from longcat_dora.__main__ import main
        for command in (["check", {str(run / "log")!r}], ["why", {str(run)!r}],
                        ["timeline", {str(run)!r}, {str(run / "out.json")!r}]):
            main(command)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "unpickled" not in done.stdout + done.stderr
    assert "boom" not in done.stdout
    assert done.returncode == 0, done.stderr


def test_repair_shows_what_it_would_lose_and_asks(run):
    log = run / "log" / "events.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    third = next(n for n, line in enumerate(lines) if b'"published","version":3' in line)
    lines[third + 1] = lines[third + 1].replace(b'"at":', b'"ta":')
    log.write_bytes(b"".join(lines))
    damaged = log.read_bytes()
    done = _cli("repair", run, stdin="no\n")
    assert done.returncode == 1
    assert f"line {third + 2}" in done.stdout
    assert f"{len(lines) - third - 2} whole lines behind it" in done.stdout
    assert "3 steps" in done.stdout
    assert log.read_bytes() == damaged
    done = _cli("repair", run, "--yes")
    assert done.returncode == 0, done.stderr
    assert [e for e in read_events(run / "log") if e["kind"] == "published"][-1]["version"] == 3
    kept = next((run / "log").glob("events.jsonl.damaged*"))
    assert kept.read_bytes() == damaged
    assert _run(run, steps=6) == 6  # from checkpoint 2
    report = check(run / "log")
    assert report.breaches == []
    assert report.num_open == 0
    assert _cli("repair", run).stdout.startswith("nothing to repair")


def test_a_task_that_is_plain_data_is_kept_as_json(whole):
    admitted = next(e for e in read_events(whole / "log") if e["kind"] == "admitted")
    file, offset, length, _ = admitted["payload"]
    data = (whole / "log" / file).read_bytes()[offset : offset + length]
    assert json.loads(data) == ["n0", 0, ""]


def test_a_torn_end_is_no_breach_and_is_said(run):
    log = run / "log" / "events.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole[:-9])
    report = check(run / "log")
    assert report.breaches == []
    (note,) = report.notes
    assert f"not finished ({len(whole.splitlines()[-1]) - 8} bytes)" in note
