"""The blind solver, the figures of difficulty, and the cut by them."""

import dataclasses
import json
from itertools import islice

import pytest
from longcat_envs.attacks import Say, play
from longcat_envs.attacks._script import hearing_acts
from longcat_envs.commands import main
from longcat_envs.difficulty import Cut, Hardness, branching, measure, solve_figures
from longcat_envs.history import load_setting
from longcat_envs.tasks import REFUSE, Step, TaskMaker, WorldEnvironment, solve
from longcat_envs.tasks._solve import Solution


@pytest.fixture(scope="module")
def setting():
    return load_setting("hotel")


@pytest.fixture(scope="module")
def tasks(setting):
    maker = TaskMaker(setting, seed=3, pasts=[0])
    return [next(maker) for _ in range(6)]


@pytest.fixture(scope="module")
def solutions(setting, tasks):
    return [solve(setting, task) for task in tasks]


def said_and_done(task, solution):
    """A whole episode of what the solver found: its calls, the refusals, the closing words."""
    refusals = [Step(tool=REFUSE, arguments={"rule": rule}) for rule in task.goal.refused]
    first = [Say("Which details did you leave out?")] if task.withheld else []
    return [*hearing_acts(task), *first, *solution.steps, *refusals, Say(task.answer)]


def test_what_the_solver_finds_passes_and_one_call_less_does_not(setting, tasks, solutions):
    num_found = 0
    for task, solution in zip(tasks, solutions, strict=True):
        if not solution.is_found:
            continue
        num_found += 1
        environment = WorldEnvironment(setting, task)
        assert play(environment, said_and_done(task, solution)).passed, task.id
        for place in range(len(solution.steps)):
            shorter = dataclasses.replace(
                solution, steps=solution.steps[:place] + solution.steps[place + 1 :]
            )
            assert not play(environment, said_and_done(task, shorter)).passed
    assert num_found >= len(tasks) - 2


def test_the_solver_does_not_see_the_golden_chain(setting, tasks, solutions):
    task, seen = tasks[0], solutions[0]
    blind = solve(setting, dataclasses.replace(task, golden=(), answer="", forbidden=()))
    assert (blind.attempts, blind.steps) == (seen.attempts, seen.steps)
    assert seen.is_golden
    assert not blind.is_golden


def test_a_goal_that_cannot_be_reached_is_not_found_and_the_bound_holds(setting, tasks):
    task = next(t for t in tasks if t.goal.events)
    events = (*task.goal.events, "state room RM00000 clean > occupied")
    impossible = dataclasses.replace(task, goal=dataclasses.replace(task.goal, events=events))
    solution = solve(setting, impossible, max_nodes=400)
    assert not solution.is_found
    assert solution.attempts <= 460
    assert not solve(setting, task, max_nodes=3).is_found


def test_deep_tasks_cost_more_attempts_than_shallow_ones(setting, solutions):
    shallow = TaskMaker(setting, seed=3, difficulty="shallow")
    few = sorted(solve(setting, next(shallow)).attempts for _ in range(6))
    many = sorted(solution.attempts for solution in solutions)
    assert many[3] > 2 * few[3]


def test_figures_name_what_was_not_found_and_each_loophole(setting, tasks):
    found = solve_figures(setting, tasks[:3])
    summary = found["summary"]
    assert summary["tasks"] == len(found["rows"]) == 3
    assert summary["share_not_found"] == round(1 - summary["found"] / 3, 3)
    assert summary["loopholes"] == sum("loophole" in row for row in found["rows"])
    other = dataclasses.replace(tasks[0], golden=tasks[0].golden[:1])
    (row,) = solve_figures(setting, [other])["rows"]
    assert row["loophole"]


def test_a_cut_keeps_what_lies_within_its_bounds():
    one = Hardness("t", 4, 9, 3.0, 250, True, 0.5)
    assert Cut().keeps(one)
    assert Cut(writes=(4, 4), attempts=(250, 250), pass_rate=(0.5, 0.5)).keeps(one)
    assert not Cut(writes=(5, 9)).keeps(one)
    assert not Cut(attempts=(0, 249)).keeps(one)
    assert not Cut(pass_rate=(0.1, 0.4)).keeps(one)
    unknown = dataclasses.replace(one, pass_rate=None)
    assert Cut().keeps(unknown)
    assert not Cut(pass_rate=(0, 1)).keeps(unknown)
    with pytest.raises(ValueError, match="attempts must be a range low:high"):
        Cut(attempts=(3, 2))


def test_branching_counts_the_tools_whose_ids_are_at_hand(setting, tasks):
    task = next(t for t in tasks if len(t.writes) > 2)
    writers = [n for n in task.tools if n in setting.machine.tools
               and setting.machine.tools[n].is_writer]  # fmt: skip
    assert 1 <= branching(setting, task) <= len(writers)
    assert branching(setting, dataclasses.replace(task, golden=())) == 0
    one, _ = measure(setting, task, max_nodes=50, pass_rates={task.id: 0.25})
    assert (one.pass_rate, one.writes) == (0.25, len(task.writes))


def test_commands_solve_and_cut(capsys, tmp_path):
    path, kept = tmp_path / "tasks.jsonl", tmp_path / "kept.jsonl"
    assert main(["grow", "hr", "--tasks", "3", "--difficulty", "shallow", "--out", str(path)]) == 0
    capsys.readouterr()
    assert main(["solve", "hr", "--file", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["tasks"] == 3
    arguments = ["difficulty", "hr", "--file", str(path), "--writes", "1:1", "--out", str(kept)]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["kept"] == sum(row["writes"] == 1 for row in found["rows"])
    assert len(kept.read_text().splitlines()) == found["summary"]["kept"]
    assert main(["solve", "bank", "--file", str(path)]) == 2
    assert "a task must be of bank, is of hr" in capsys.readouterr().err
    path.write_text("{}\n")
    assert main(["solve", "hr", "--file", str(path)]) == 2
    assert "tasks.jsonl:1:1: a line is a task" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["difficulty", "hr", "--writes", "3"])


def test_compare_prints_the_share_of_each_pair(capsys):
    assert main(["compare", "bank", "hotel", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["summary"]["pairs"] == len(found["rows"]) == 2
    assert all(0 < row["share"] < 1 for row in found["rows"])
    assert main(["compare", "bank", "bank", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["pairs"] == 0


def test_the_share_that_the_solver_does_not_find_is_counted(monkeypatch):
    setting = load_setting("hr")
    tasks = list(islice(TaskMaker(setting, seed=1), 3))
    hidden = tasks[0].id

    def solve(setting, task):
        return Solution(attempts=5, is_found=task.id != hidden, is_golden=True, steps=())

    monkeypatch.setattr("longcat_envs.difficulty.solve", solve)
    assert solve_figures(setting, tasks)["summary"]["share_not_found"] == 0.333
    assert solve_figures(setting, tasks[1:])["summary"]["share_not_found"] == 0.0
    assert solve_figures(setting, [])["summary"]["share_not_found"] == 0.0
