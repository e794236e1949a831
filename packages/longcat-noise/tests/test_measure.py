"""Measures by hand-made attempts, and the commands."""

import json
import re
import subprocess
import sys

import pytest
from longcat_noise import Book, Certificate
from longcat_noise import testing as clinic
from longcat_noise.__main__ import main
from longcat_noise._measure import (
    Attempt,
    duplicate_writes,
    interval,
    measure,
    read_attempts,
)  # fmt: skip

BOOK = Book.of(clinic.CONTRACTS)
BOOKING = {"tool": "book_visit", "arguments": {"patient_id": "P17", "day": "d"}}
FIND = {"tool": "find_patient", "arguments": {"name": "Ada"}}


def attempt(task, level, passed, turns=4, *calls):
    return Attempt(task, level, passed, turns, turns * 10, calls)


def test_the_gap_is_paired_by_task():
    attempts = [
        attempt("a", 0, 1), attempt("a", 0, 0), attempt("a", 0.5, 0),
        attempt("b", 0, 1), attempt("b", 0.5, 1), attempt("b", 0.5, 0),
        attempt("only clean", 0, 1), attempt("only noisy", 0.5, 0),
    ]  # fmt: skip
    (row,) = measure(attempts)
    assert (row["tasks"], row["attempts"]) == (2, 4)
    assert (row["clean"], row["noisy"], row["gap"]) == (0.75, 0.25, 0.5)
    assert row["gap_low"] == row["gap_high"] == 0.5
    assert row["recovery"] is None
    assert row["over_trust"] is None


def test_the_interval_is_that_of_the_normal_for_many_tasks():
    values = [float(n % 4 == 0) for n in range(400)]
    low, high = interval(values)
    error = (0.25 * 0.75 / 400) ** 0.5
    assert low == pytest.approx(0.25 - 1.96 * error, abs=0.01)
    assert high == pytest.approx(0.25 + 1.96 * error, abs=0.01)
    assert interval([]) == (None, None)


def test_recovery_counts_struck_attempts_at_tasks_that_pass_when_clean():
    hit, wrong = {**FIND, "kind": "failure"}, {**FIND, "kind": "partial"}
    attempts = [
        attempt("a", 0, 1), attempt("b", 0, 0),
        attempt("a", 0.3, 1, 6, hit), attempt("a", 0.3, 0, 6, hit, wrong),
        attempt("a", 0.3, 1, 4), attempt("b", 0.3, 0, 4, hit),
    ]  # fmt: skip
    (row,) = measure(attempts)
    assert row["recovery"] == 0.5
    assert row["by_kind"] == {
        "failure": {"attempts": 2, "recovery": 0.5}, "partial": {"attempts": 1, "recovery": 0.0},
    }  # fmt: skip
    assert (row["extra_turns"], row["extra_tokens"]) == (1.0, 10.0)


def test_duplicate_writes_are_those_that_really_happened():
    lost = {**BOOKING, "kind": "lost_ack", "is_error": True}
    failed = {**BOOKING, "kind": "failure", "is_error": True}
    refused = {**BOOKING, "is_error": True}
    cases = [
        ((failed, failed, BOOKING), 0), ((lost, BOOKING), 1), ((BOOKING, BOOKING, lost), 2),
        ((refused, BOOKING), 0), ((FIND, FIND), 0),
        (({"tool": "cancel_visit", "arguments": {}},) * 2, 0), (({"tool": "pay"},) * 2, 0),
    ]  # fmt: skip
    for calls, number in cases:
        assert duplicate_writes(attempt("a", 0.3, 1, 4, *calls), BOOK) == number


def test_over_trust_is_the_share_of_untruths_that_were_not_looked_at_twice():
    wrong = {**FIND, "kind": "inconsistent"}
    other = {"tool": "look_up", "arguments": {"name": "Ada"}}
    elsewhere = {"tool": "find_patient", "arguments": {"name": "Ben"}}
    for later, share in (([], 1.0), ([FIND], 0.0), ([other], 0.0), ([elsewhere], 1.0)):
        (row,) = measure([attempt("a", 0.3, 1, 4, wrong, *later)], BOOK)
        assert row["over_trust"] == share
    (row,) = measure([attempt("a", 0.3, 1, 4, {**FIND, "kind": "padding"})], BOOK)
    assert row["over_trust"] is None


def test_attempts_are_read_and_invalid_ones_counted():
    lines = ['{"task":"a","level":0,"passed":true}', "", '{"task":"a","level":0.5,"reward":0.5}',
             '{"invalid":true}']  # fmt: skip
    attempts, num_invalid = read_attempts(lines)
    assert [(one.level, one.passed) for one in attempts] == [(0, 1), (0.5, 0.5)]
    assert num_invalid == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[]", "line 1: an attempt must be an object"),
        ('{"task":"a","level":0}', "line 1: 'reward' is missing"),
        ('{"level":0,"passed":1}', "line 1: 'task' is missing"),
        ('{"task":"a","level":2,"passed":1}', r"line 1: level must be in \[0, 1\], got 2"),
        ('{"task":"a","level":0,"passed":"yes"}', r"passed must be in \[0, 1\], got 'yes'"),
    ],
)
def test_bad_attempts_are_named(line, words):
    with pytest.raises(ValueError, match=words):
        read_attempts([line])


@pytest.fixture
def files(tmp_path):
    lines = [json.dumps(one) for one in (*clinic.CONTRACTS, *clinic.tasks(6))]
    (tmp_path / "clinic.jsonl").write_text("\n".join(lines), "utf-8")
    return tmp_path


def test_certify_prints_one_line_a_draw(files, capsys):
    path = str(files / "clinic.jsonl")
    world = ["--world", "longcat_noise.testing:clinic"]
    assert main(["certify", path, *world, "--level", "1", "--draws", "2"]) == 0
    out, told = capsys.readouterr()
    lines = [Certificate.from_json(line) for line in out.splitlines()]
    assert len(lines) == 12
    assert lines[1].episode == "clinic-0:1"
    assert lines[0].noise["level"] == 1.0
    assert "12 of 12 certified, at most" in told
    assert main(["certify", path, "--max-turns", "2", "--kinds", "failure,typo"]) == 1
    out, told = capsys.readouterr()
    assert json.loads(out.splitlines()[0])["is_certified"] is False
    assert "0 of 6 certified" in told
    assert "the golden chain alone takes" in told


def test_show_puts_both_forms_side_by_side(files, capsys):
    path = str(files / "clinic.jsonl")
    settings = ["--level", "1", "--kinds", "failure", "--world", "longcat_noise.testing:clinic"]
    assert main(["show", "clinic-1", path, *settings]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["perfect", "|", "noisy"]
    assert "reward 1 after 4 turns" in out
    assert "tool (failure): " in out
    assert out.splitlines()[-1] == "certified"
    assert main(["show", "clinic-1", path, *settings, "--max-turns", "3"]) == 1
    assert "refused: the golden chain alone" in capsys.readouterr().out


def test_turns_that_a_model_wrote_are_said_by_the_commands(files, capsys):
    opening = clinic.tasks(2)[1]["opening"]
    line = {"kind": "ambiguity", "text": opening, "written": "You will know what it is about."}
    (files / "written.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
    given = [str(files / "clinic.jsonl"), "--level", "1", "--kinds", "ambiguity", "--world",
             "longcat_noise.testing:clinic", "--written", str(files / "written.jsonl")]  # fmt: skip
    assert main(["certify", *given]) == 0
    _, second, *_ = map(json.loads, capsys.readouterr().out.splitlines())
    assert [d["seen"] for d in second["disturbed"]] == [line["written"]]
    assert main(["show", "clinic-1", *given]) == 0
    assert "user: You will know what it is about." in capsys.readouterr().out
    (files / "written.jsonl").write_text("nothing of that form\n", "utf-8")
    assert main(["certify", *given]) == 2
    assert "a written turn must have a kind" in capsys.readouterr().err


def test_report_is_json_and_a_page(files, capsys):
    rows = [
        {"task": f"t{n}", "level": level, "passed": n % 4 > level * 4, "turns": 4 + n % 3,
         "calls": [{**FIND, "kind": "failure" if level else ""}]}
        for n in range(20) for level in (0, 0.25, 0.5)
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows] + ['{"invalid": true}']
    (files / "attempts.jsonl").write_text("\n".join(lines), "utf-8")
    arguments = ["report", str(files / "attempts.jsonl"), "--page", str(files / "page.html"),
                 "--contracts", str(files / "clinic.jsonl")]  # fmt: skip
    assert main(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["invalid"] == 1
    assert [row["gap"] for row in told["levels"]] == [0.25, 0.5]
    page = (files / "page.html").read_text("utf-8")
    heights = [float(y) for y in re.findall(r'<circle cx="[^"]*" cy="([^"]*)"', page)]
    assert len(heights) == 2
    assert 40 < heights[1] < heights[0] < 200  # the greater gap stands higher, inside the picture
    assert page.count("<svg") == 3
    assert "1 invalid attempts left out" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_kinds_lists_the_taxonomy(capsys):
    assert main(["kinds"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 24
    assert lines[6].split() == ["lost_ack", "tool", "explicit", "transient", "writer", "re-read"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["certify", "nowhere.jsonl"], "cannot read nowhere.jsonl"),
        (["certify", "clinic.jsonl", "--kinds", "lies"], "a kind must be among"),
        (["certify", "clinic.jsonl", "--level", "2"], "level must be in [0, 1], got 2.0"),
        (["certify", "clinic.jsonl", "--world", "nowhere:x"], "--world must be module:factory"),
        (["certify", "clinic.jsonl", "--world", "json"], "--world must be module:factory"),
        (["certify", "contracts.jsonl"], "must hold tasks with a chain, got none"),
        (["show", "t9", "clinic.jsonl"], "there is no task 't9'; there are clinic-0, clinic-1"),
        (["report", "empty.jsonl"], "must hold attempts, got none"),
        (["report", "clinic.jsonl"], "line 1: "),
        (["report", "one.jsonl", "--page", "no/where.html"], "cannot write"),
    ],
)
def test_mistakes_are_told_in_one_line(files, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(files)
    (files / "empty.jsonl").write_text("")
    (files / "contracts.jsonl").write_text('{"name":"a"}')
    (files / "one.jsonl").write_text('{"task":"a","level":0,"passed":1}')
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.startswith("longcat-noise: ")
    assert len(told.splitlines()) == 1


def test_the_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "longcat_noise", "kinds"], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert "lost_ack" in done.stdout
