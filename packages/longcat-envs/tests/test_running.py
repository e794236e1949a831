"""Anybody's agent: a model behind a server, a stranger's class, and the figures of both."""

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from longcat_envs.commands import main
from longcat_envs.history import load_setting
from longcat_envs.running import (
    Endpoint,
    ModelError,
    ModelPerson,
    pass_at,
    pass_hat,
    pass_rates,
    read_trials,
    summary,
    wilson,
)  # fmt: skip
from longcat_envs.tasks import TaskMaker, WorldEnvironment, _make
from longcat_envs.testing import FakeServer, golden_model

NUM = 3

INTERRUPTIBLE = """
import os, signal, sys
from longcat_envs.commands import main
from longcat_envs.tasks import _make
_make.NUM_PASTS = int(os.environ["NUM_PASTS"])
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
"""The command with Ctrl-C as in a terminal: a job in the background begins with it ignored."""


@pytest.fixture(scope="module")
def setting():
    return load_setting("bank")


@pytest.fixture(scope="module")
def tasks(setting):
    maker = TaskMaker(setting, seed=0, difficulty="shallow")
    return [next(maker) for _ in range(NUM)]


def ran(capsys, *arguments):
    code = main(["run", "bank", "--difficulty", "shallow", "--tasks", str(NUM), "--json",
                 "--tries", "1", *arguments])  # fmt: skip
    said = capsys.readouterr()
    assert said.err.startswith("no episode is valid, the first: ") is (code == 1)
    return code, json.loads(said.out)


def test_a_model_that_does_the_golden_chain_passes_every_time(capsys, tasks, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "hush")
    with FakeServer(golden_model(tasks)) as server:
        code, found = ran(capsys, "--model", server.url, "--k", "2", "--name", "m",
                          "--key-variable", "SOME_KEY", "--temperature", "0.5")  # fmt: skip
    assert code == 0
    assert found["summary"]["pass^2"][0] == found["summary"]["pass@1"][0] == 1
    assert found["summary"]["episodes"] == 2 * NUM
    assert 0 < found["summary"]["pass^2"][1] < 1
    body = server.bodies[0]
    assert (body["model"], body["temperature"]) == ("m", 0.5)
    assert len(body["tools"]) >= 20
    assert server.headers[0]["Authorization"] == "Bearer hush"


def test_a_model_that_only_talks_fails_and_says_what_is_unmet(capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    talk = {"role": "assistant", "content": "All of that is done."}
    with FakeServer(lambda body: (200, talk)) as server:
        _, found = ran(capsys, "--model", server.url, "--k", "1")
    assert found["summary"]["pass@1"][0] == 0
    assert all(row["unmet"] and row["status"] == "done" for row in found["rows"])
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("status", "answered", "words"),
    [
        (400, {"error": "bad"}, "400"), (500, {"error": "down"}, "no answer in 1 tries: 500"),
        (200, b"no json", "no answer"), (200, b"[]", "choices"), (200, b'{"choices": []}', "choices"),
    ],
)  # fmt: skip
def test_a_server_that_fails_is_invalid_and_never_a_zero(capsys, status, answered, words):
    with FakeServer(lambda body: (status, answered)) as server:
        code, found = ran(capsys, "--model", server.url, "--k", "1")
    assert code == 1  # nothing is known of the model
    assert found["summary"]["invalid"] == NUM
    assert found["summary"]["pass@1"] is None
    assert words in found["rows"][0]["reason"]
    for row in found["rows"]:  # nothing happened in them
        assert (row["reward"], row["calls"], row["errors"], row["unmet"]) == (0, 0, 0, [])


def test_one_valid_episode_is_enough(capsys):
    talk, num = {"role": "assistant", "content": "All of that is done."}, itertools.count()
    with FakeServer(
        lambda body: (200, talk) if next(num) == 0 else (400, {"error": "bad"})
    ) as server:
        code, found = ran(capsys, "--model", server.url, "--k", "2", "--concurrency", "1")
    assert code == 0
    assert 0 < found["summary"]["invalid"] < 2 * NUM


def test_whatever_a_model_answers_ends_in_a_record(capsys):
    odd = [{"content": None}, {"content": 3, "tool_calls": "x"}, {"tool_calls": [None]},
           {"tool_calls": [{"function": {"name": 3, "arguments": "["}}]}, {"content": ["a"]}]  # fmt: skip
    rng = random.Random(0)
    with FakeServer(lambda body: (200, rng.choice(odd))) as server:
        _, found = ran(capsys, "--model", server.url, "--k", "3")
    assert len(found["rows"]) == 3 * NUM
    assert not any(row["passed"] for row in found["rows"])
    assert {row["status"] for row in found["rows"]} <= {"done", "turns", "raised"}


def test_a_request_is_tried_again_with_growing_pauses():
    waits, answers = [], [(503, {}), (429, {}), (200, {"content": "Hello."})]
    with FakeServer(lambda body: answers.pop(0)) as server:
        endpoint = Endpoint(server.url + "/chat/completions", wait_s=0.5, sleep=waits.append)
        assert endpoint.ask([])["content"] == "Hello."
    assert waits == [0.5, 1.0]
    with pytest.raises(ModelError, match="no answer in 2 tries"):
        Endpoint("http://127.0.0.1:9/v1", num_tries=2, sleep=waits.append).ask([])
    with pytest.raises(ValueError, match="url must begin with http"):
        Endpoint("file:///etc/passwd")


def test_a_run_goes_on_where_it_stopped(capsys, tasks, tmp_path):
    out = tmp_path / "runs.jsonl"
    with FakeServer(golden_model(tasks)) as server:
        _, first = ran(capsys, "--model", server.url, "--k", "1", "--out", str(out))
        num = len(server.bodies)
        out.write_text(out.read_text() + '{"task": "cut o')
        with pytest.raises(SystemExit):
            main(["run", "bank", "--model", server.url, "--k", "x"])
        capsys.readouterr()
        _, second = ran(capsys, "--model", server.url, "--k", "1", "--out", str(out))
        assert len(server.bodies) == num
        assert second["rows"] == first["rows"]
        _, third = ran(capsys, "--model", server.url, "--k", "2", "--out", str(out))
        assert third["summary"]["episodes"] == 2 * NUM
    assert len(read_trials(out)) == 2 * NUM
    assert pass_rates(read_trials(out)) == {task.id: 1.0 for task in tasks}
    out.write_text("{}\n{}\n")
    few = ["--difficulty", "shallow", "--tasks", "1"]
    assert main(["run", "bank", *few, "--model", "http://127.0.0.1:9", "--out", str(out)]) == 2
    assert "runs.jsonl:1: a line is the record of an episode" in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_done(tasks, tmp_path):
    """The server lets one episode end and then answers no more; the process is interrupted."""
    out, hold, first = tmp_path / "runs.jsonl", threading.Event(), golden_model(tasks)

    def answer(body):
        opening = next(m["content"] for m in body["messages"] if m["role"] == "user")
        if opening != tasks[0].opening:
            hold.wait()
        return first(body)

    with FakeServer(answer) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, "run", "bank", "--difficulty", "shallow",
             "--tasks", str(NUM), "--k", "1", "--model", server.url, "--out", str(out), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "NUM_PASTS": str(_make.NUM_PASTS)},
        )  # fmt: skip
        while not (out.exists() and out.read_text().endswith("\n")) or len(server.bodies) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
        hold.set()
    assert process.returncode == 130
    assert "what has ended is kept" in stderr
    assert "Traceback" not in stderr
    found = json.loads(stdout)
    assert [row["task"] for row in found["rows"]] == [tasks[0].id]
    assert found["summary"]["pass@1"][0] == 1


def test_a_model_may_speak_for_the_person(setting, capsys, tasks):
    """It is told the facts, ends the talk by a mark, and what it says counts as asked for."""
    deep = TaskMaker(setting, seed=0)
    task = next(t for t in deep if t.withheld)
    said = iter([f"Of course. {task.withheld}", "[END]"])
    with FakeServer(lambda body: (200, {"content": next(said)})) as server:
        person = ModelPerson(Endpoint(server.url), task, "a bank")
        assert not person.was_asked
        assert person.answer("How much?") == f"Of course. {task.withheld}"
        assert person.was_asked
        assert person.answer("All of that is done.") is None
    prompt = server.bodies[0]["messages"][0]["content"]
    assert task.withheld in prompt
    assert task.opening in prompt
    with (
        FakeServer(golden_model(tasks)) as model,
        FakeServer(lambda b: (200, {"content": "[END]"})) as user,
    ):
        _, found = ran(capsys, "--model", model.url, "--user", user.url, "--k", "1")
    assert found["summary"]["pass@1"][0] == 1
    assert len(user.bodies) == NUM
    with FakeServer(golden_model(tasks)) as model:
        _, found = ran(capsys, "--model", model.url, "--user", "http://127.0.0.1:9", "--k", "1")
    assert found["summary"]["invalid"] == NUM
    assert found["rows"][0]["reason"].startswith("the person: ")


async def test_a_person_who_fails_is_the_fault_of_the_world(setting, tasks):
    class Broken:
        was_asked = False

        def answer(self, text):
            raise RuntimeError("lost")

    environment = WorldEnvironment(setting, tasks[0], lambda task: Broken())
    await environment.reset()
    assert await environment.reply({"role": "assistant", "content": "Hello."}) is None
    assert (await environment.score()).reason == "the person: lost"


AGENT = """
class Talks:
    def chat(self, messages, *, tools):
        return {"role": "assistant", "content": "All of that is done."}

class Waits(Talks):
    async def chat(self, messages, *, tools):
        return super().chat(messages, tools=tools)

class Raises:
    def chat(self, messages, *, tools):
        raise ZeroDivisionError("oops")

class Mute:
    pass
"""


def test_a_strangers_agent_runs_beside_ours(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(AGENT)
    for name, raised in (("Talks", None), ("Waits", None), ("Raises", ["ZeroDivisionError: oops"])):
        assert main(["agents", "bank", "--tasks", "1", "--difficulty", "shallow", "--json",
                     "--agent", f"{path}:{name}"]) == 0  # fmt: skip
        found = json.loads(capsys.readouterr().out)
        yours = found["summary"]["yours"]
        assert (yours["tried"], yours["passed"], yours.get("raised")) == (1, 0, raised)
        assert found["rows"][-1]["kind"] == "yours"
    for text, words in ((f"{path}:Mute", "with a method chat"), (f"{path}:Nobody", "'Nobody'"),
                        ("no.py:X", "is there such a file"), ("X", "FILE:Class")):  # fmt: skip
        assert main(["agents", "bank", "--agent", text]) == 2
        assert words in capsys.readouterr().err
    path.write_text("import nothing_of_that_name")
    assert main(["agents", "bank", "--agent", f"{path}:X"]) == 2
    assert "ModuleNotFoundError" in capsys.readouterr().err


def test_estimates_agree_with_drawing_episodes_at_random():
    rng = random.Random(0)
    for n, c, k in ((5, 2, 3), (8, 5, 4), (4, 4, 2), (6, 0, 1)):
        episodes = [True] * c + [False] * (n - c)
        draws = [rng.sample(episodes, k) for _ in range(20_000)]
        assert math.isclose(pass_at(n, c, k), sum(map(any, draws)) / 20_000, abs_tol=0.02)
        assert math.isclose(pass_hat(n, c, k), sum(map(all, draws)) / 20_000, abs_tol=0.02)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, inside = random.Random(1), 0
    for _ in range(2_000):
        shares = [rng.betavariate(2, 3) for _ in range(30)]
        low, high = wilson(sum(rng.random() < share for share in shares) / 30, 30)
        inside += low <= 0.4 <= high
    assert inside >= 0.93 * 2_000
    assert wilson(0.0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("mean", "n"), [(0.0, 3), (0.25, 8), (0.5, 30), (0.9, 200), (1.0, 1)])
def test_the_ends_of_an_interval_are_where_the_mean_is_just_not_surprising(mean, n):
    for end in wilson(mean, n):  # a share p from which the mean is 1.96 standard errors away
        if 0 < end < 1:
            assert abs(mean - end) == pytest.approx(1.959963985 * math.sqrt(end * (1 - end) / n))
        else:
            assert end == mean


def test_the_summary_leaves_out_invalid_episodes_and_tasks_with_too_few():
    def trial(task, passed, status="done"):
        return {"task": task, "passed": passed, "status": status}

    trials = [trial("a", True), trial("a", False), trial("b", True), trial("b", False, "invalid")]
    figures = summary(trials, 2)
    assert (figures["episodes"], figures["invalid"], figures["tasks"]) == (4, 1, 2)
    assert figures["pass@1"][0] == figures["pass^1"][0] == 0.75
    assert (figures["pass@2"][0], figures["pass^2"][0]) == (1, 0)
    assert summary([], 1)["pass@1"] is None


def test_tasks_are_cut_by_the_pass_rates_of_a_run(capsys, tmp_path, tasks):
    results, out = tmp_path / "runs.jsonl", tmp_path / "kept.jsonl"
    lines = [{"task": task.id, "trial": n, "passed": n < place, "status": "done"}
             for place, task in enumerate(tasks) for n in range(2)]  # fmt: skip
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["difficulty", "bank", "--difficulty", "shallow", "--tasks", str(NUM), "--results",
                 str(results), "--pass-rate", "0.1:0.9", "--out", str(out), "--json"]) == 0  # fmt: skip
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["pass_rate"] for row in rows] == [0, 0.5, 1]
    assert [row["kept"] for row in rows] == [False, True, False]
    assert json.loads(out.read_text())["id"] == tasks[1].id
    with pytest.raises(SystemExit):
        main(["difficulty", "bank", "--pass-rate", "0.9:0.1"])
