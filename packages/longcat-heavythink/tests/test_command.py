"""The command: answers on stdout, progress on stderr, mistakes in one line."""

import io
import json
import signal
import subprocess
import sys

import pytest
from longcat_heavythink import (
    CallDelta,
    CallFinished,
    CallStarted,
    FellBack,
    Panel,
    Reply,
    StageDecided,
    StageStarted,
)
from longcat_heavythink.__main__ import _base_of, main
from longcat_heavythink._panel import grid, printable


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_think_streams_the_summary_and_tells_who_said_what(fault_server, capsys, tmp_path):
    server = fault_server(["ok", "blank"])
    journal = tmp_path / "j"
    status, out, err = run(
        capsys, "think", "What?", "--url", server.url, "--k", 3, "--journal", journal
    )
    assert (status, out) == (0, "seen 2 \n")
    assert err.count("thinker ") == 3
    assert "the answer is empty" in err
    assert "decided by summary; 4 calls" in err
    status, out, _ = run(
        capsys, "think", "What?", "--url", server.url, "--k", 3, "--journal", journal, "--json"
    )
    told = json.loads(out)
    assert (told["answer"], len(told["calls"])) == ("seen 2", 4)
    assert server.stats().num_requests == 4  # the second time came from the journal
    _, out, _ = run(capsys, "report", journal)
    assert "seen 2" in out
    assert run(capsys, "report", journal, "--out", tmp_path / "p.html")[0] == 0
    assert (tmp_path / "p.html").read_text() == out


def test_think_by_another_schedule_and_with_a_summary_that_fails(fault_server, capsys):
    server = fault_server()
    assert run(capsys, "think", "Q", "--url", server.url, "--schedule", "vote:3")[1] == "42\n"
    server = fault_server(["ok", "ok"], default="401")
    status, out, err = run(capsys, "think", "Q", "--url", server.url, "--k", 2)
    assert (status, out) == (0, "42\n")
    assert "fallback: vote" in err
    assert "wrong key" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["think", " ", "--url", "http://x"], "question must not be empty"),
        (["think", "Q", "--url", "nowhere"], "url must begin with"),
        (
            ["think", "Q", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--k", "0"],
            "--k must be",
        ),
        (["think", "Q", "--schedule", "hevy:2"], "hevy"),
        (["report", "/nowhere/j"], "No such file"),
        (["evaluate", "/nowhere/j"], "No such file"),
        (["evaluate", "--accuracy", "2"], "accuracy"),
        (["serve", "--upstream", "x"], "url must begin with"),
        (["serve", "--upstream", "http://x", "--port", "65536"], "port must be from 0 to 65535"),
        (["serve", "--upstream", "http://x", "--port", "-1"], "port must be from 0 to 65535"),
        (["evaluate", "--ks", "1,a"], "--ks must be whole numbers"),
        (["serve", "--upstream", "http://x", "--max-calls", "0"], "max_calls must cover the 9"),
        (["think", "Q", "--budget-tokens", "0"], "max_tokens must be positive"),
    ],
)
def test_a_mistake_is_one_line(capsys, arguments, words):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_evaluate_simulates(capsys):
    _, out, _ = run(capsys, "evaluate", "--problems", 30, "--ks", "4,1", "--json")
    rows = json.loads(out)
    assert [row["k"] for row in rows] == [4, 1]
    assert rows[0]["pass"][0] >= rows[1]["pass"][0]
    assert "heavy-mean@k" in run(capsys, "evaluate", "--problems", 5, "--ks", "1")[1]


def test_serve_ends_cleanly_on_ctrl_c(fault_server):
    server = fault_server()
    command = [sys.executable, "-m", "longcat_heavythink", "serve", "--upstream", server.url,
               "--port", "0"]  # fmt: skip
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in the foreground
    ) as process:
        try:
            assert "thinks heavy:8 over" in process.stdout.readline()
            process.send_signal(2)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")


# the panel


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _events():
    yield StageStarted(0, "sample", 2)
    yield CallStarted(0, 0)
    yield CallDelta(0, 0, thoughts="hm ", text="for\x1b[2Jty")
    yield CallFinished(0, 0, Reply(text="forty-two"))
    yield CallFinished(0, 1, Reply(text="7"))
    yield StageDecided(0, "enough", 0)
    yield StageStarted(1, "summarise", 1)
    yield CallDelta(1, 0, text="It is ", is_final=True)
    yield CallDelta(1, 0, text="42.", is_final=True)
    yield CallFinished(1, 0, Reply(text="It is 42."))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_panel_shows_thinkers_and_streams_the_answer(is_terminal):
    out, answer = (_Terminal() if is_terminal else io.StringIO() for _ in range(2))
    panel = Panel(out, answer, size=(80, 24))
    for event in _events():
        panel(event)
    assert answer.getvalue() == "It is 42."
    assert panel.has_answered
    assert "forty-two" in out.getvalue()
    assert ("\x1b[2K" in out.getvalue()) == is_terminal
    assert "\x1b[2J" not in out.getvalue()
    assert "enough; 0 cancelled" in out.getvalue()
    panel(FellBack(1, "it broke"))
    assert "it broke" in out.getvalue()


@pytest.mark.parametrize("columns", [10, 30, 60, 200])
@pytest.mark.parametrize("count", [1, 3, 8, 40])
def test_the_grid_fits_the_terminal(columns, count):
    lines = grid([("thinks", "日本語 text " * 20)] * count, columns, 20)
    assert len(lines) <= 20
    assert all(sum(2 if ord(c) > 0x2E80 else 1 for c in line) <= max(columns, 7) for line in lines)
    assert lines[0].startswith("#1")


def test_what_steers_terminals_is_replaced():
    assert (
        printable("a\x1b[31mb\u202ec\n")
        == "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}c\n"
    )


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("https://host/openai/v2", "https://host/openai/v2"),
    ],
)
def test_a_server_named_without_a_path_is_asked_under_v1(given, base):
    assert _base_of(given) == base


def test_think_asks_a_server_that_is_named_without_a_path(fault_server, capsys):
    server = fault_server(["ok"])
    assert server.url.endswith("/v1")
    status, out, _ = run(
        capsys, "think", "What?", "--url", server.url.removesuffix("/v1"), "--k", 2
    )
    assert (status, out) == (0, "seen 2 \n")
