"""The simulator against closed forms, and the plan against what it promises."""

import itertools
import json
import math
import os
import random
import time

import pytest
from longcat_dora import LongcatDoraError, SchedulerConfig, plan, simulate, why
from longcat_dora.__main__ import main


def _config(**changes):
    return SchedulerConfig(
        **{"groups_per_batch": 16, "group_size": 8, "soft_staleness": 2, "hard_staleness": 6,
           "max_running": 128, **changes}
    )  # fmt: skip


def _long_tail(num, *, cap, seed=0):
    """Lognormal of mean one and sigma one, cut where a token limit would."""
    rng = random.Random(seed)
    return [min(cap, rng.lognormvariate(-0.5, 1.0)) for _ in range(num)]


def test_the_synchronous_run_takes_the_longest_and_then_the_step():
    config = _config(soft_staleness=0, hard_staleness=0)
    run = simulate(config, [2.0], train_s=0.5, num_steps=20, seed=0)
    assert run.seconds == pytest.approx(20 * 2.5)
    assert run.num_trained == 20 * 128
    assert run.trainer_idle_share == pytest.approx(2.0 / 2.5)
    assert run.load_ratio == pytest.approx(2.0 / 2.5)
    latencies = _long_tail(4000, cap=5.0)
    run = simulate(config, latencies, train_s=1.0, num_steps=50, seed=0)
    rng = random.Random(0)
    longest = [max(rng.choice(latencies) for _ in range(128)) for _ in range(50)]
    assert run.seconds == pytest.approx(sum(longest) + 50)


def test_an_equal_latency_and_a_fast_trainer_keep_every_place_busy():
    run = simulate(_config(max_running=128), [1.0], train_s=0.01, num_steps=50, seed=0)
    # 128 places give 128 trajectories a second: one step's worth.
    assert run.throughput == pytest.approx(128, rel=0.05)
    assert run.load_ratio > 0.95


@pytest.mark.parametrize("soft", [1, 2, 4])
@pytest.mark.parametrize("train_s", [0.2, 1.0])
def test_trajectories_are_as_old_as_the_soft_target_says(soft, train_s):
    config = _config(soft_staleness=soft, hard_staleness=10**6, max_running=10**6)
    run = simulate(config, _long_tail(3000, cap=5.0), train_s=train_s, num_steps=200, seed=0)
    assert run.mean_staleness == pytest.approx(soft, rel=0.05)


def test_no_bound_is_ever_crossed_and_the_sufficient_one_never_waits():
    latencies = _long_tail(3000, cap=5.0)
    free = simulate(_config(hard_staleness=10**6), latencies, train_s=1.0, num_steps=150, seed=1)
    assert max(free.staleness) > 3  # there is something to bound
    for hard in (2, 3, 4):
        run = simulate(_config(hard_staleness=hard), latencies, train_s=1.0, num_steps=150, seed=1)
        assert max(run.staleness) <= hard
    enough = math.ceil(5.0 / (free.seconds / 150)) + 1
    run = simulate(_config(hard_staleness=enough), latencies, train_s=1.0, num_steps=150, seed=1)
    assert run.seconds == pytest.approx(free.seconds)


def test_the_plan_names_the_least_bound_that_costs_nothing():
    latencies = _long_tail(3000, cap=5.0)
    found = plan(_config(), latencies, train_s=1.0, num_steps=150)
    runs = found.by_bound
    assert list(runs) == list(range(2, found.hard_staleness + 1))
    throughputs = [run.throughput for run in runs.values()]
    assert all(a <= b * 1.02 for a, b in itertools.pairwise(throughputs))  # more room is no loss
    assert throughputs[0] < 0.97 * throughputs[-1]  # and the least bound tried did cost
    assert found.hard_staleness <= found.sufficient
    assert found.gain > 3
    assert f"hard_staleness={found.hard_staleness} costs nothing" in str(found)


def test_where_all_take_equally_long_and_training_is_short_synchronous_is_as_good():
    found = plan(_config(soft_staleness=1), [1.0], train_s=0.01, num_steps=60)
    assert found.gain < 1.1


def test_discarding_trades_lost_work_for_no_waiting():
    latencies = _long_tail(3000, cap=5.0)
    waits, drops = (
        simulate(_config(hard_staleness=2, at_bound=at_bound), latencies, train_s=1.0, num_steps=150,
                 seed=1)
        for at_bound in ("wait", "discard")
    )  # fmt: skip
    assert waits.num_discarded == 0
    assert drops.num_discarded > 0.02 * drops.num_trained
    assert max(drops.staleness) <= 2
    assert drops.trainer_idle_share < waits.trainer_idle_share


def test_impossible_times_are_refused():
    with pytest.raises(ValueError, match="positive latencies"):
        simulate(_config(), [], train_s=1.0, num_steps=1, seed=0)


# -- why -------------------------------------------------------------------------------------


def _status(folder, **changes):
    record = {"pid": os.getpid(), "at": time.time(), "version": 7, "why": "the trainer waits for t1",
              "for_s": 12.0, "is_over": False, **changes}  # fmt: skip
    (folder / "status.json").write_text(json.dumps(record))


def test_why_says_who_waits_and_whether_anyone_is_left_to(tmp_path, capsys):
    with pytest.raises(LongcatDoraError, match=r"must hold status\.json"):
        why(tmp_path)
    _status(tmp_path)
    assert why(tmp_path) == "step 7: the trainer waits for t1, for 12 s"
    _status(tmp_path, at=time.time() - 60)
    assert "last heard of 60 s ago, it does not answer; then, step 7" in why(tmp_path)
    _status(tmp_path, at=time.time() - 60, pid=2**22 - 3)
    assert "its process is gone" in why(tmp_path)
    _status(tmp_path, is_over=True)
    assert why(tmp_path).startswith("ended 0 s ago at step 7")
    assert main(["why", str(tmp_path)]) == 0
    assert main(["why", str(tmp_path / "nothing")]) == 2
    assert "must hold status.json" in capsys.readouterr().err


def test_what_a_world_will_draw_can_be_told_beforehand():
    config = SchedulerConfig(groups_per_batch=2, group_size=3, max_running=12)
    options = {"train_s": 0.5, "num_steps": 20, "seed": 0}
    starts = []

    def latency_of(start):
        starts.append(start)
        return 1.0

    told = simulate(config, [9.0], latency_of=latency_of, **options)
    assert told == simulate(config, [1.0], **options)
    assert starts[0].group == "g00000"  # as a runtime names it
    seeds = [start.seed(7) for start in starts]
    assert len(set(seeds)) == len(starts)
    assert seeds[0] == starts[0].seed(7) != starts[0].seed(8)
