"""The dynamic rollout budget: who is tried how often, and that it is what the runs then do."""

import itertools

import pytest
from longcat_cli.budget import Budget
from longcat_cli.checks import broken_rules, check_recipe
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages import grow
from longcat_cli.stages.experts import TaskSource, trainer_config
from longcat_cli.worlds import load_worlds

RATES = [0.0, 0.1, 0.35, 0.5, 0.9, 1.0, 0.35, 0.5]


def _recipe(*settings):
    return load_recipe("smoke", ["rl.group_size=8", "rl.groups_per_batch=8", *settings])


@pytest.mark.parametrize("way", ["knapsack", "coba"])
def test_what_can_be_learned_from_is_tried_more_often_and_the_sum_is_kept(way):
    budget = Budget(_recipe(f"rl.budget={way}", "rl.budget_low=3", "rl.budget_high=20").rl)
    assert budget.num_tasks == 8
    attempts = budget.attempts(RATES)
    assert sum(attempts) == 8 * 8
    assert attempts[0] == attempts[5] == 3  # nothing to learn, but they must be looked at
    assert min(attempts[2], attempts[3]) > attempts[4]  # what is nearly mastered
    assert max(attempts) == 20


def test_alike_is_what_dora_does_by_itself():
    budget = Budget(_recipe().rl)
    assert budget.num_tasks == 1
    assert budget.attempts([0.5]) == [None]
    assert trainer_config(_recipe()).weigh == "attempts"


def test_a_task_does_not_count_more_because_it_was_tried_more_often():
    assert trainer_config(_recipe("rl.budget=coba")).weigh == "groups"


def test_cobas_value_follows_what_the_policy_can_do():
    weak, strong = (Budget(_recipe("rl.budget=coba").rl) for _ in range(2))
    for _ in range(5):
        weak.record(0.05)
        strong.record(0.95)
    assert weak.attempts(RATES) != strong.attempts(RATES)


@pytest.mark.parametrize(("low", "high"), [(9, 20), (2, 7)])
def test_a_budget_that_cannot_be_met_is_named(low, high):
    limits = [f"rl.budget_low={low}", f"rl.budget_high={high}"]
    told = "rl.group_size=8 must be from rl.budget_low to rl.budget_high"
    with pytest.raises(UsageError, match=told):
        check_recipe(_recipe("rl.budget=knapsack", *limits))
    assert not list(broken_rules(_recipe(*limits)))  # not asked for


def test_jobs_carry_it_and_rates_are_those_of_the_moment(tmp_path):
    recipe = _recipe("rl.budget=knapsack", "rl.budget_low=2", "rl.budget_high=24")
    folder = RunFolder.create(tmp_path / "run", recipe)
    tasks = grow.grow_tasks("shop", "train", 60, 1, recipe)
    folder.tasks("shop", "train").parent.mkdir(parents=True, exist_ok=True)
    folder.tasks("shop", "train").write_text("\n".join(task.to_json() for task in tasks))
    assert "shop" in load_worlds(["shop"])
    source = TaskSource(folder, "shop")
    jobs = list(itertools.islice(source, 8))
    assert {job.attempts for job in jobs} == {8}  # nothing was seen yet
    keys = sorted(source._keys._rates)
    for key in keys:
        for _ in range(20):
            source._keys.record(key, 0.33 if key == keys[0] else 1.0)
    source._keys.draw = itertools.cycle([keys[0], *keys[1:2] * 3]).__next__
    again = list(itertools.islice(iter(source), 8))
    assert sum(job.attempts for job in again) == 8 * 8
    by_key = {job.payload["key"]: job.attempts for job in again}
    assert by_key[keys[0]] == 24
    assert by_key[keys[1]] < 8
