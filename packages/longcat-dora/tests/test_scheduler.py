"""The state machine under random schedules, judged by the checker, which shares no code with it."""

import random
import sys
from collections import Counter

import pytest
from longcat_dora import (
    EndReason,
    LongcatDoraError,
    Scheduler,
    SchedulerConfig,
    assign_replicas,
    check,
    plan_moves,
)
from longcat_dora.testing import random_schedule


@pytest.mark.parametrize("hard", [0, 1, 2, 5])
def test_the_contract_holds_under_random_schedules(hard):
    committed = waited = 0
    for seed in range(75):
        config = SchedulerConfig(groups_per_batch=2, group_size=3, soft_staleness=min(1, hard),
                                 hard_staleness=hard, max_running=9, max_attempts=2)  # fmt: skip
        report = check(random_schedule(seed, config))
        assert report.breaches == []
        assert max(report.staleness, default=0) <= hard
        committed += report.num_committed
        waited += report.staleness[hard]
    assert committed > 500
    assert waited > 25 or hard > 2  # where the bound is reached, it is what held


@pytest.mark.parametrize("at_bound", ["discard", "continue", "mask"])
@pytest.mark.parametrize("hard", [0, 1, 3])
def test_the_contract_holds_whatever_happens_at_the_bound(hard, at_bound):
    reasons, moved, masked = Counter(), 0, 0
    for seed in range(50):
        config = SchedulerConfig(groups_per_batch=2, group_size=3, soft_staleness=hard,
                                 hard_staleness=hard, max_running=9, max_attempts=2,
                                 at_bound=at_bound)  # fmt: skip
        events = random_schedule(seed, config)
        report = check(events)
        assert report.breaches == []
        assert max(report.staleness, default=0) <= hard
        reasons += report.reasons
        moved, masked = moved + report.num_moved, masked + report.num_masked
        if report.num_moved:  # the same log is a breach where nothing may move
            assert not check([{**events[0], "at_bound": "wait"}, *events[1:]]).is_clean
    if hard:
        assert reasons["expired"] > (7 if at_bound == "discard" else 0)
        assert (moved > 7) == (at_bound != "discard")
        assert (masked > 7) == (at_bound == "mask")


def test_what_was_trained_on_is_used_once_more_within_the_bound():
    reused = fresh = 0
    for seed in range(100):
        config = SchedulerConfig(groups_per_batch=4, group_size=2, hard_staleness=3,
                                 max_running=12, reuse_ratio=0.25)  # fmt: skip
        events = random_schedule(seed, config, num_events=800)
        report = check(events)
        assert report.breaches == []
        reused, fresh = reused + report.num_reused, fresh + report.num_committed
    assert 0.15 < reused / (reused + fresh) <= 0.27  # the last batches are smaller
    again = next(e for e in events if e.get("reused"))
    assert not check([*events[:-1], {**again, "trajectories": [], "version": 10**6}]).is_clean


def test_quotas_are_kept_and_never_stall():
    config = SchedulerConfig(groups_per_batch=4, group_size=1, quotas={"a": 3, "b": 1})
    scheduler, num, trained = Scheduler(config), 0, Counter()

    def fill(domains):
        nonlocal num
        while scheduler.can_admit():
            scheduler.admit(f"g{num}", task="t", domain=scheduler.next_domain(domains))
            num += 1
        while (start := scheduler.start()) is not None:
            scheduler.finish(start.trajectory)

    for _ in range(50):
        fill(["a", "b"])
        for group in scheduler.lease():
            trained[scheduler._index.groups[group].domain] += 1
        scheduler.commit()
    assert trained == {"a": 150, "b": 50}
    for _ in range(10):  # the first domain has nothing more to give
        fill(["b"])
        assert len(scheduler.lease()) == 4
        scheduler.commit()


def test_replicas_go_where_the_requests_are():
    assert assign_replicas(4, {0: 1, 1: 6, 2: 5}) == {0: 1, 1: 2, 2: 1}
    assert assign_replicas(2, {0: 1, 1: 6, 2: 5}) == {0: 1, 1: 1, 2: 0}
    assert assign_replicas(3, {0: 0, 4: 0}) == {4: 3}
    rng = random.Random(0)
    for _ in range(500):
        requests = {v: rng.randrange(20) for v in range(rng.randint(1, 5))}
        num = rng.randint(1, 12)
        given = assign_replicas(num, requests)
        assert sum(given.values()) == num
        asked = {v: r for v, r in requests.items() if r}
        if len(asked) <= num:
            assert all(given[v] >= 1 for v in asked)
            # Never further than one from the exact share, but for the least.
            for v, r in asked.items():
                exact = num * r / sum(asked.values())
                assert given[v] <= max(1, exact + 1)
        holding = [rng.choice([*requests, None]) for _ in range(num)]
        moves = plan_moves(holding, given)
        after = Counter(moves.get(place, version) for place, version in enumerate(holding))
        assert all(after[v] == n for v, n in given.items())
        kept = sum((Counter(h for h in holding if h is not None) & Counter(given)).values())
        assert len(moves) == num - kept  # nobody moves who need not


def test_the_cost_of_an_event_does_not_grow_with_what_is_open():
    """Counted in lines of our own code that run, which no other load on the machine can change."""

    def lines(num_running):
        config = SchedulerConfig(groups_per_batch=num_running // 8, group_size=8,
                                 max_running=num_running)  # fmt: skip
        scheduler, count = Scheduler(config), 0
        for n in range(num_running // 8):
            scheduler.admit(f"g{n}", task="t", domain="")
        names = [scheduler.start().trajectory for _ in range(num_running)]

        def trace(*_):
            nonlocal count
            count += 1
            return trace

        sys.settrace(trace)
        try:
            for name in names[:50]:
                scheduler.fail(name, EndReason.FAILED)
                assert scheduler.start() is not None
                assert scheduler.num_running == num_running
                assert scheduler.live_versions == [0]
        finally:
            sys.settrace(None)
        return count

    assert lines(8000) < 1.2 * lines(800)


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
        ([_started("a"), _produced("a"), _produced("a")], "C2"),
        ([_produced("a")], "C2"),
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
