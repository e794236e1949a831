"""Which tasks, in which groups, and when to judge oneself."""

import heapq
import json
from collections import Counter
from random import Random

import pytest
from longcat_gspo import (
    ContextGrowth,
    Oversampler,
    PassRateCurriculum,
    StagedCurriculum,
    Stagnation,
    TaskFacts,
    num_groups,
    verification_items,
    verification_reward,
)

# -- duplication and oversampling ------------------------------------------------------------


def test_a_task_is_started_as_often_as_one_success_needs():
    for rate in (0.02, 0.05, 0.1, 0.2, 0.5, 0.9):
        n = num_groups(rate, group_size=8, confidence=0.8, most=100)
        assert 1 - (1 - rate) ** (8 * n) >= 0.8
        assert n == 1 or 1 - (1 - rate) ** (8 * (n - 1)) < 0.8
    assert num_groups(0.0, group_size=8, most=4) == 4
    assert num_groups(1.0, group_size=8) == 1
    assert num_groups(0.001, group_size=8, most=3) == 3
    with pytest.raises(ValueError, match="pass_rate in"):
        num_groups(1.5, group_size=8)


def test_the_least_settings_of_num_groups_are_allowed_and_less_is_refused():
    assert num_groups(0.5, group_size=1, confidence=0.75, most=9) == 2
    assert num_groups(0.5, group_size=8, most=1) == 1
    for wrong in ({"group_size": 0}, {"most": 0}, {"confidence": 0.0}, {"confidence": 1.0}):
        with pytest.raises(ValueError, match="need pass_rate in"):
            num_groups(0.5, **{"group_size": 8, **wrong})


# Mean seconds of an episode, and how often a group has a signal.
DOMAINS = {"math": (1.0, 0.9), "shop": (4.0, 0.6), "search": (20.0, 0.35)}


def _simulate(choose, done, *, places=64, num=3000, seed=0):
    """Long-tailed episodes, `places` at once; return what arrived with a signal, and when."""
    rng, running, arrived = Random(seed), [], []

    def begin(now):
        key = choose()
        mean, _ = DOMAINS[key]
        heapq.heappush(running, (now + rng.paretovariate(2.2) * mean * 0.55, rng.random(), key))

    for _ in range(places):
        begin(0.0)
    while len(arrived) < num:
        now, _, key = heapq.heappop(running)
        has_signal = rng.random() < DOMAINS[key][1]
        done(key, has_signal)
        if has_signal:
            arrived.append((now, key))
        begin(now)
    return arrived


def _worst_share_error(arrived, *, batch=192):
    """Over the batches after the first few, how far a domain is from a third at most."""
    worst = 0.0
    for begin in range(3 * batch, len(arrived) - batch, batch):
        counts = Counter(key for _, key in arrived[begin : begin + batch])
        worst = max(worst, *(abs(counts[key] / batch - 1 / 3) for key in DOMAINS))
    return worst


def test_batches_stay_balanced_though_one_domain_is_slow_and_another_seldom_useful():
    sampler = Oversampler(dict.fromkeys(DOMAINS, 1.0), max_running_share=0.95)
    balanced = _simulate(sampler.start, lambda key, s: sampler.finish(key, has_signal=s))
    rng = Random(1)
    uniform = _simulate(lambda: rng.choice(list(DOMAINS)), lambda *_: None)
    assert _worst_share_error(balanced) < 0.1
    assert _worst_share_error(uniform) > 0.12
    # Nobody waits for the slow domain: places are never idle, so the price is what its share costs.
    # A domain's place-seconds per useful group are its mean over its signal rate.
    cost = sum(mean / signal for mean, signal in DOMAINS.values()) / 3
    ideal = 3000 * cost / 64
    assert balanced[-1][0] < 1.25 * ideal
    assert sampler.ratio("search") == pytest.approx(1 / 0.35, rel=0.35)
    assert "started for each" in sampler.explain("search")


def test_a_slow_domain_cannot_take_all_places():
    sampler = Oversampler({"fast": 1.0, "stuck": 1.0}, max_running_share=0.75)
    running = Counter()
    for _ in range(400):
        key = sampler.start()
        running[key] += 1
        if key == "fast":
            sampler.finish(key, has_signal=True)
            running[key] -= 1
        if sum(running.values()) >= 40:
            break
    assert running["stuck"] <= 0.75 * 40 + 2


def test_what_was_given_survives_a_restart_and_what_ran_does_not():
    sampler = Oversampler({"a": 1.0, "b": 3.0})
    for _ in range(40):
        sampler.finish(sampler.start(), has_signal=True)
    sampler.start()
    other = Oversampler({"a": 1.0, "b": 3.0})
    other.load_state_dict(json.loads(json.dumps(sampler.state_dict())))
    sampler.load_state_dict(sampler.state_dict())
    assert [other.start() for _ in range(8)] == [sampler.start() for _ in range(8)]
    with pytest.raises(ValueError, match="nothing running"):
        Oversampler({"a": 1.0}).finish("a", has_signal=True)


# -- curricula -------------------------------------------------------------------------------

TASKS = [
    TaskFacts("easy", 0.9, frozenset({"call"})),
    TaskFacts("hard-call", 0.1, frozenset({"call"})),
    TaskFacts("hard-odd", 0.1, frozenset({"odd"})),
    TaskFacts("easy-both", 0.8, frozenset({"call", "plan"})),
    TaskFacts("hard-both", 0.2, frozenset({"call", "plan"})),
    TaskFacts("hopeless", 0.0, frozenset({"call", "plan", "decide"})),
]


def test_early_what_is_easy_or_will_be_used_again_later_everything():
    curriculum = StagedCurriculum(TASKS, seed=0, easy=0.5, reuse=0.5)
    assert curriculum.open_tasks() == ["easy", "hard-call"]
    assert "of the tasks to come ask for call" in curriculum.explain("hard-call")
    assert "at most 1" in curriculum.explain("easy-both")
    curriculum.advance(0.5)
    assert curriculum.open_tasks() == ["easy", "hard-call", "easy-both"]
    curriculum.advance(1.0)
    assert curriculum.open_tasks() == [task.id for task in TASKS]
    assert curriculum.explain("hopeless").startswith("open")


def test_context_grows_when_the_90th_percentile_nears_the_limit():
    growth = ContextGrowth((100, 120, 140))
    assert not growth.observe([50] * 91 + [99] * 9)
    assert growth.observe([50] * 89 + [90] * 11)
    assert growth.limit == 120
    other = ContextGrowth((100, 120, 140))
    other.load_state_dict(growth.state_dict())
    assert other.observe([119] * 10)
    assert not other.observe([140] * 10)  # there is no longer one
    assert other.limit == 140


@pytest.mark.parametrize("kind", ["staged", "rates"])
def test_a_curriculum_goes_on_from_its_saved_state(kind):
    def make():
        if kind == "staged":
            return StagedCurriculum(TASKS, seed=3)
        return PassRateCurriculum(["a", "b", "c"], seed=3)

    one, other = make(), make()
    for _ in range(5):
        one.draw()
    if kind == "staged":
        one.advance(0.7)
    else:
        one.record("a", 1.0)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert [one.draw() for _ in range(20)] == [other.draw() for _ in range(20)]


# -- self-verification -----------------------------------------------------------------------


def test_stagnation_is_told_when_the_reward_stops_rising():
    watch = Stagnation(patience=5, least_gain=0.01, memory=0.5)
    rising = [watch.observe(0.1 * step) for step in range(10)]
    assert not any(rising)
    flat = [watch.observe(0.9) for _ in range(15)]
    assert flat[-1]
    other = Stagnation(patience=5, least_gain=0.01, memory=0.5)
    other.load_state_dict(watch.state_dict())
    assert other.stagnates
    assert "no gain of 0.01" in other.explain()
    for _ in range(5):
        other.observe(2.0)
    assert not other.stagnates


def test_items_are_half_right_half_wrong_hard_first_and_never_hopeless():
    rewards, groups = [], []
    for name, num_right in (
        ("mixed-hard", 1),
        ("mixed-easy", 6),
        ("all-right", 8),
        ("hopeless", 0),
    ):
        rewards += [1.0] * num_right + [0.0] * (8 - num_right)
        groups += [name] * 8
    items = verification_items(rewards, groups, num=8, rng=Random(0))
    assert sum(item.is_right for item in items) == 4
    assert {item.group for item in items} == {"mixed-hard", "mixed-easy", "all-right"}
    assert all((rewards[item.place] == 1) == item.is_right for item in items)
    few = verification_items(rewards, groups, num=2, rng=Random(0))
    assert {item.group for item in few} == {"mixed-hard"}
    assert verification_items([1.0, 1.0], ["a", "a"], num=4, rng=Random(0)) == []  # no wrong one
    with pytest.raises(ValueError, match="even"):
        verification_items(rewards, groups, num=3, rng=Random(0))


def test_judging_well_what_one_answers_badly_earns_little():
    rewards, groups = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0], ["bad"] * 4 + ["good"] * 4
    items = verification_items(rewards, groups, num=4, rng=Random(0))
    earned = {item.group: verification_reward(item, item.is_right) for item in items}
    assert earned == {"bad": 0.25, "good": 0.75}
    assert all(verification_reward(item, not item.is_right) == 0 for item in items)
    assert all(verification_reward(item, None) == 0 for item in items)
    # Saying yes to all earns half of what judging earns.
    yes = sum(verification_reward(item, True) for item in items)
    assert yes == sum(earned[item.group] for item in items) / 2
