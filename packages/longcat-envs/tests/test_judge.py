"""Rubrics by a judge: windows, verdicts, and what stands beside the state's verdict."""

import json
import re
from itertools import pairwise

import pytest
from longcat_envs.commands import main
from longcat_envs.history import load_setting
from longcat_envs.running import (
    Endpoint,
    ModelError,
    WindowJudge,
    agreement,
    read_verdicts,
    rubrics_of,
    windows,
)  # fmt: skip
from longcat_envs.tasks import REFUSE, TaskMaker
from longcat_envs.testing import FakeServer, golden_model


@pytest.mark.parametrize("number", [0, 1, 9, 10, 11, 18, 19, 50])
def test_windows_of_ten_share_two_and_leave_nothing_out(number):
    talk = [{"content": str(n)} for n in range(number)]
    parts = list(windows(talk))
    assert all(len(part) <= 10 for _, part in parts)
    assert all(part == talk[start : start + 10] for start, part in parts)
    for (_, before), (_, after) in pairwise(parts):
        assert before[-2:] == after[:2]
        assert len(after) > 2
    said = {message["content"] for _, part in parts for message in part}
    assert said == {str(n) for n in range(number)}
    with pytest.raises(ValueError, match="overlap must be 0 to size - 1"):
        list(windows(talk, size=3, overlap=3))


GOOD = [{"rubric_idx": n, "justification": "j", "meetExpectation": n == 1} for n in range(2)]


@pytest.mark.parametrize(
    ("text", "is_read"),
    [
        (json.dumps(GOOD), True),
        (f"Here:\n```json\n{json.dumps(GOOD)}\n```", True),
        (json.dumps(GOOD[:1]), False),
        (json.dumps([*GOOD, GOOD[0]]), False),
        (json.dumps([*GOOD[:1], {**GOOD[1], "rubric_idx": 7}]), False),
        (json.dumps([*GOOD[:1], {**GOOD[1], "rubric_idx": True}]), False),
        (json.dumps([*GOOD[:1], {**GOOD[1], "meetExpectation": "yes"}]), False),
        ("[1, 2]", False), ("none", False), ("[" * 5_000 + "]", False), ("", False),
    ],
)  # fmt: skip
def test_a_verdict_is_read_whole_or_not_at_all(text, is_read):
    found = read_verdicts(text, 2)
    assert found == ([(0, False, "j"), (1, True, "j")] if is_read else None)


def judging(decide):
    """A judge that answers for each rubric of the prompt what `decide` says of number and prompt."""

    def answer(body):
        prompt = body["messages"][0]["content"]
        number = len(re.findall(r"^\d+\. \[", prompt, re.MULTILINE))
        rows = [{"rubric_idx": n, "justification": "so", "meetExpectation": decide(n, prompt)}
                for n in range(number)]  # fmt: skip
        return 200, {"content": json.dumps(rows)}

    return answer


async def test_state_is_carried_from_window_to_window_and_may_be_taken_back():
    talk = [{"role": "system", "content": "rules"}]
    talk += [{"role": "user", "content": f"message {n}"} for n in range(20)]

    def decide(number, prompt):
        first = int(re.search(r"from message (\d+)", prompt)[1])
        was_met = f"{number}. [met]" in prompt
        return (number == 0 and (first == 1 or was_met)) or (number == 1 and first == 1)

    with FakeServer(judging(decide)) as server:
        judge = WindowJudge(Endpoint(server.url))
        found = await judge.judge(talk, ["kept", "taken back", "never"], "a desk")
    prompts = [body["messages"][0]["content"] for body in server.bodies]
    assert (found.met, found.num_windows) == ((True, False, False), 3)
    assert (found.reward, round(found.share, 2)) == (0.0, 0.33)
    assert "0. [unmet] kept" in prompts[0]
    assert "0. [met] kept" in prompts[1]
    assert "rules" not in prompts[0]
    assert "message 8" in prompts[0]
    assert "message 8" in prompts[1]


async def test_a_judge_that_cannot_be_read_is_asked_again_and_then_an_error():
    answers = ["no", json.dumps([GOOD[0]])]
    with FakeServer(lambda body: (200, {"content": answers.pop(0) if answers else "no"})) as server:
        judge = WindowJudge(Endpoint(server.url), num_tries=2)
        found = await judge.judge([], ["one"], "a desk")
        assert found.met == (False,)
        with pytest.raises(ModelError, match="the judge gave no verdicts: 'no'"):
            await judge.judge([], ["one"], "a desk")


def test_rubrics_say_what_the_goal_asks_for():
    setting = load_setting("bank")
    maker = TaskMaker(setting, seed=2, pasts=range(2))
    for _ in range(3):
        task = next(maker)
        text = "\n".join(rubrics_of(setting, task))
        for step in task.golden:
            tool = setting.machine.tools.get(step.tool)
            if tool is not None and tool.is_writer:
                assert f"{step.tool} was called with" in text
                assert all(str(value) in text for value in step.arguments.values())
        assert (REFUSE in text) == bool(task.goal.refused)
        assert all(tell.value in text for tell in task.goal.told)
        assert "{" not in text


@pytest.mark.parametrize(
    "given", [{"num_tries": 0}, {"size": 3, "overlap": 3}, {"overlap": -1}, {"size": 0}]
)
def test_a_judge_of_no_window_or_no_try_is_refused(given):
    with pytest.raises(ValueError, match="overlap must be 0 to size - 1, and num_tries"):
        WindowJudge(Endpoint("http://127.0.0.1:9", model="m"), **given)
    WindowJudge(Endpoint("http://127.0.0.1:9", model="m"), size=1, overlap=0, num_tries=1)


def test_no_agreement_is_no_agreement():
    assert agreement([])["alike"] == 0.0
    counts = agreement([(True, True), (True, False), (True, False), (False, True)])
    assert counts["state passed, judge passed"] == 1
    assert counts["state passed, judge failed"] == 2
    assert counts["state failed, judge passed"] == 1
    assert counts["state failed, judge failed"] == 0
    assert agreement([(True, True), (True, False), (False, False), (False, True)])["alike"] == 0.5


def test_agreement_is_counted_and_kappa_is_cohens():
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    found = agreement(pairs)
    assert (found["judged"], found["alike"], found["kappa"]) == (50, 0.7, 0.4)
    assert found["state failed, judge passed"] == 10
    assert agreement([])["kappa"] is None
    assert agreement([(True, True)])["kappa"] is None


def test_a_judge_runs_beside_the_state(capsys):
    maker = TaskMaker(load_setting("bank"), seed=0, difficulty="shallow", pasts=range(2))
    tasks = [next(maker) for _ in range(2)]
    arguments = ["run", "bank", "--difficulty", "shallow", "--tasks", "2", "--k", "1", "--json"]
    for is_met in (True, False):
        with (
            FakeServer(golden_model(tasks)) as model,
            FakeServer(judging(lambda *_, v=is_met: v)) as judge,
        ):
            assert main([*arguments, "--model", model.url, "--judge", judge.url]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["summary"]["judge"]["alike"] == float(is_met)
        assert all(row["judged"] is is_met for row in found["rows"])
        assert found["summary"]["pass@1"][0] == 1
    with (
        FakeServer(golden_model(tasks)) as model,
        FakeServer(lambda body: (200, {"content": "?"})) as judge,
    ):
        assert main([*arguments, "--model", model.url, "--judge", judge.url]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["judge"]["judged"] == 0
    assert "gave no verdicts" in found["rows"][0]["judge_reason"]
