"""The state machine under random schedules, judged by the checker, which shares no code with it."""

import random
from collections import Counter

import pytest
from longcat_dora import EndReason, LongcatDoraError, Scheduler, SchedulerConfig, check


def _random_run(seed: int, config: SchedulerConfig, steps: int = 400) -> list[dict]:  # noqa: C901
    """Drive a scheduler with random events until `steps` of them happened, then end it."""
    rng, scheduler = random.Random(seed), Scheduler(config)
    events = [{"kind": "opened", "hard_staleness": config.hard_staleness},
              {"kind": "published", "version": 0}]  # fmt: skip
    running, leased, groups = [], False, 0
    for _ in range(steps):
        choice = rng.random()
        if choice < 0.15 and scheduler.can_admit():
            scheduler.admit(f"g{groups}", task="t", domain="")
            groups += 1
        elif choice < 0.5:
            if (start := scheduler.start()) is not None:
                running.append(start.trajectory)
        elif choice < 0.85 and running:
            # a long tail: old ones are seldom picked
            name = running.pop(int(len(running) * rng.random() ** 0.3))
            if rng.random() < 0.3:
                scheduler.fail(name, EndReason.FAILED)
            else:
                scheduler.finish(name)
        elif leased:
            scheduler.commit()
            leased = False
        else:
            for group in scheduler.complete_groups():
                if rng.random() < 0.05:
                    scheduler.evict(group, EndReason.NO_SIGNAL)
            leased = scheduler.lease() is not None
            discarded = set(scheduler.take_discarded())
            running = [name for name in running if name not in discarded]
    if leased:
        scheduler.commit()
    while (start := scheduler.start()) is not None or running:  # nothing may be stuck
        scheduler.finish(start.trajectory if start else running.pop())
    while scheduler.lease(at_least=1):
        scheduler.commit()
        while (start := scheduler.start()) is not None:  # what was discarded is sampled anew
            scheduler.finish(start.trajectory)
    assert scheduler.num_open_groups == 0
    scheduler.end()
    return [*events, *scheduler.take_events(), {"kind": "closed"}]


@pytest.mark.parametrize("hard", [0, 1, 2, 5])
def test_the_contract_holds_under_random_schedules(hard):
    committed = waited = 0
    for seed in range(150):
        config = SchedulerConfig(groups_per_batch=2, group_size=3, soft_staleness=min(1, hard),
                                 hard_staleness=hard, max_running=9, max_attempts=2)  # fmt: skip
        report = check(_random_run(seed, config))
        assert report.breaches == []
        assert max(report.staleness, default=0) <= hard
        committed += report.num_committed
        waited += report.staleness[hard]
    assert committed > 1000
    assert waited > 50 or hard > 2  # where the bound is reached, it is what held


@pytest.mark.parametrize("hard", [0, 1, 3])
def test_the_contract_holds_when_what_is_too_old_is_discarded(hard):
    reasons = Counter()
    for seed in range(150):
        config = SchedulerConfig(groups_per_batch=2, group_size=3, soft_staleness=hard,
                                 hard_staleness=hard, max_running=9, max_attempts=2,
                                 at_bound="discard")  # fmt: skip
        report = check(_random_run(seed, config))
        assert report.breaches == []
        assert max(report.staleness, default=0) <= hard
        reasons += report.reasons
    assert reasons["expired"] > 20 or hard == 0


def test_at_the_bound_a_slow_one_is_discarded_and_the_step_goes_on():
    config = SchedulerConfig(groups_per_batch=1, group_size=1, soft_staleness=1, hard_staleness=1,
                             at_bound="discard")  # fmt: skip
    scheduler = Scheduler(config)
    scheduler.admit("slow", task="t", domain="")
    slow = scheduler.start()
    scheduler.admit("fast", task="t", domain="")
    scheduler.finish(scheduler.start().trajectory)
    assert scheduler.lease() == ["fast"]
    scheduler.commit()
    scheduler.admit("next", task="t", domain="")
    again = scheduler.start()
    scheduler.finish(again.trajectory)
    assert scheduler.lease() == ["next"]
    assert scheduler.take_discarded() == [slow.trajectory]
    assert not scheduler.is_running(slow.trajectory)
    new = scheduler.start()
    assert (new.group, new.version) == ("slow", 1)
    with pytest.raises(ValueError, match="at_bound must be one of"):
        SchedulerConfig(at_bound="hope")


def test_the_step_waits_for_what_would_break_the_bound_and_takes_it_along():
    config = SchedulerConfig(groups_per_batch=1, group_size=1, soft_staleness=1, hard_staleness=1)
    scheduler = Scheduler(config)
    scheduler.admit("slow", task="t", domain="")
    slow = scheduler.start()
    scheduler.admit("fast", task="t", domain="")
    scheduler.finish(scheduler.start().trajectory)
    assert scheduler.lease() == ["fast"]
    scheduler.commit()
    scheduler.admit("next", task="t", domain="")
    scheduler.finish(scheduler.start().trajectory)
    assert scheduler.lease() is None
    assert scheduler.blocked_by() == [slow.trajectory]
    scheduler.finish(slow.trajectory)
    assert scheduler.lease() == ["slow"]


def test_a_failed_attempt_is_replaced_and_a_hopeless_group_shrinks():
    scheduler = Scheduler(SchedulerConfig(groups_per_batch=1, group_size=2, max_attempts=2))
    scheduler.admit("g", task="t", domain="")
    for _ in range(3):
        scheduler.fail(scheduler.start().trajectory, EndReason.FAILED)
    scheduler.finish(scheduler.start().trajectory)
    assert scheduler.complete_groups() == ["g"]
    assert len(scheduler.members("g")) == 1


def test_orders_out_of_turn_are_refused():
    scheduler = Scheduler(SchedulerConfig())
    with pytest.raises(LongcatDoraError, match="not being sampled"):
        scheduler.finish("t9")
    with pytest.raises(ValueError, match="soft_staleness <= hard_staleness"):
        SchedulerConfig(soft_staleness=3, hard_staleness=2)


def _log(*events):
    return [{"kind": "opened", "hard_staleness": 1}, {"kind": "published", "version": 0}, *events]


def _started(name, version=0):
    return {"kind": "started", "trajectory": name, "group": "g", "version": version}


def _produced(name, version=0, **more):
    return {"kind": "produced", "trajectory": name, "group": "g", "version": version, **more}


def _committed(version, *names):
    return {"kind": "committed", "version": version, "trajectories": list(names)}


@pytest.mark.parametrize(
    ("events", "rule"),
    [
        ([_started("a"), _produced("a", 1)], "C1"),
        ([_started("a"), _produced("a", 0, versions=[0, 1])], "C1"),
        ([_started("a", 3)], "C1"),
        ([_started("a"), _produced("a"), _committed(0, "a"), _committed(0, "a")], "C2"),
        ([_started("a"), _committed(0, "a")], "C2"),
        ([_started("a"), {"kind": "closed"}], "C2"),
        ([_started("a"), {"kind": "ended", "trajectory": "a", "reason": ""}], "C2"),
        ([_started("a"), _produced("a"), {"kind": "published", "version": 2}, _committed(2, "a")],
         "C3"),
        ([_started("a"), _produced("a"), _committed(1, "a")], "C3"),
    ],
)  # fmt: skip
def test_the_checker_finds_each_breach(events, rule):
    breaches = check(_log(*events)).breaches
    assert breaches
    assert breaches[0].startswith(rule)


def test_the_checker_finds_an_admission_rule_that_bounds_only_the_average():
    """Admit while the count allows it, train on whatever is first: no bound on any single one."""
    rng, version, events, running = random.Random(0), 0, [], []
    for n in range(600):
        events.append(_started(f"t{n}", version))
        running.append((rng.lognormvariate(0, 1.5) + n, f"t{n}", version))
        running.sort()
        if len(running) > 8:
            batch = [running.pop(0) for _ in range(4)]
            events += [_produced(name, v) for _, name, v in batch]
            events.append(_committed(version, *(name for _, name, _ in batch)))
            version += 1
            events.append({"kind": "published", "version": version})
    report = check(_log(*events))
    assert any(breach.startswith("C3") for breach in report.breaches)
