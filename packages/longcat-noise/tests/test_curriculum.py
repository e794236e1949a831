"""The curriculum climbs on evidence, falls on evidence, and stays between the two."""

import json
import math
import random
from concurrent.futures import ProcessPoolExecutor

import pytest
from longcat_noise import CurriculumConfig, NoiseCurriculum
from longcat_noise._evidence import LOOKS, Trials

CONFIG = CurriculumConfig(levels=(0.0, 0.2, 0.4), max_gap=0.15)


def begin(config=CONFIG):
    curriculum = NoiseCurriculum(config)
    for _ in range(config.min_episodes):
        curriculum.record(0.0, passed=True)
    return curriculum


def run(gap, pairs, seed, clean=0.8, alike=0.0):
    """Return the level at the end of a run; it ends early when the level moves."""
    rng = random.Random(seed)
    curriculum = begin()
    for _ in range(pairs):
        first = rng.random()
        second = first if rng.random() < alike else rng.random()
        curriculum.record(0.0, passed=first < clean)
        curriculum.record(0.2, passed=second < clean - gap)
        if curriculum.level != 0.2:
            break
    return curriculum.level


@pytest.mark.parametrize("gap", [0.2, 0.3])
def test_a_gap_above_the_limit_climbs_in_under_five_percent(gap):
    assert sum(run(gap, 250, seed) == 0.4 for seed in range(200)) < 10


def test_a_gap_of_a_third_of_the_limit_climbs_within_250_pairs():
    assert sum(run(0.05, 250, seed) == 0.4 for seed in range(100)) > 90


def test_there_is_a_way_down():
    assert sum(run(0.35, 500, seed) == 0.0 for seed in range(40)) > 36


def test_hysteresis_a_gap_at_the_limit_does_not_fall():
    assert sum(run(0.15, 250, seed, clean=0.6) == 0.0 for seed in range(100)) <= 12


@pytest.mark.long
@pytest.mark.parametrize("clean", [0.95, 0.8, 0.6])
def test_false_climbs_in_long_runs(clean):
    with ProcessPoolExecutor(2) as pool:
        ends = list(pool.map(run, [0.2] * 800, [2000] * 800, range(800), [clean] * 800))
    assert ends.count(0.4) < 0.05 * 800 + 2 * (800 * 0.05 * 0.95) ** 0.5  # two standard errors


def passing_by_recursion(alpha, steps=400):
    """Probability that a driftless random walk ever passes a look, by numerical integration."""
    trials = Trials(0.0, alpha, 250)
    trials.alpha, low = alpha / 0.8, -8.0
    assert trials.share == pytest.approx(alpha)
    bounds = [trials.needed(k) * math.sqrt(k) for k in range(1, LOOKS + 1)]
    width = (bounds[0] - low) / steps
    grid = [low + (i + 0.5) * width for i in range(steps)]
    density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in grid]
    kernel = [math.exp(-((d * width) ** 2) / 2) / math.sqrt(2 * math.pi) * width
              for d in range(-steps, steps + 1)]  # fmt: skip
    passed = 1 - 0.5 * (1 + math.erf(bounds[0] / math.sqrt(2)))
    for k in range(1, LOOKS):
        inside = [(x, p) for x, p in zip(grid, density, strict=True) if x < bounds[k - 1]]
        passed += sum(
            p * width * 0.5 * math.erfc((bounds[k] - x) / math.sqrt(2)) for x, p in inside
        )
        if k < LOOKS - 1:
            indices = [i for i, x in enumerate(grid) if x < bounds[k - 1]]
            density = [sum(density[i] * kernel[j - i + steps] for i in indices)
                       for j in range(steps)]  # fmt: skip
    return passed


@pytest.mark.parametrize("alpha", [0.045, 0.02])
def test_five_looks_spend_no_more_than_the_share(alpha):
    passed = passing_by_recursion(alpha, 200)
    assert 0.6 * alpha < passed <= 1.02 * alpha


def test_spending_over_trials_and_stays_is_all_of_it_and_no_more():
    trials = Trials(0.2, 0.05, 5)
    spent = 0.0
    for nth in range(1, 4000):
        trials.nth = nth
        spent += trials.share
    assert 0.0499 < spent <= 0.05
    curriculum = NoiseCurriculum(CONFIG)
    stays = 0.0
    for _ in range(4000):
        curriculum._enter(1)
        stays += curriculum._up.alpha
    assert 0.0499 < stays <= 0.05


def test_distance_is_that_of_the_textbook():
    rng = random.Random(1)
    trials = Trials(0.2, 0.05, 100_000)
    seen = [rng.choice((-1, 0, 0, 1)) for _ in range(20_000)]
    for difference in seen:
        trials.see(difference)
    mean = sum(seen) / len(seen)
    error = math.sqrt(sum((d - 0.2) ** 2 for d in seen) / len(seen) / len(seen))
    assert trials.distance() == pytest.approx((0.2 - mean) / error, rel=1e-3)
    assert trials.num == 20_000


def test_few_pairs_are_believed_to_vary_as_independent_ones_do():
    trials = Trials(0.2, 0.05, 50)
    for _ in range(10):
        trials.see(0.0)
    variance = (10 * 0.2**2 + 5 * 0.35) / (10 + 5)
    assert trials.distance() == pytest.approx(0.2 * math.sqrt(10 / variance))


def test_a_trial_is_looked_at_five_times_and_then_gives_way():
    looks = []

    class Watched(Trials):
        def needed(self, look):
            looks.append((self.nth, self.num, look))
            return math.inf

    watched = Watched(0.2, 0.05, 50)
    for _ in range(101):
        watched.see(0.0)
    wanted = [(nth, 10 * k, k) for nth in (1, 2) for k in (1, 2, 3, 4, 5)]
    assert looks == wanted
    assert (watched.nth, watched.num, watched.num_in_all) == (3, 1, 101)
    assert not watched.has_passed


def test_evidence_of_an_old_trial_does_not_count():
    trials = Trials(0.2, 0.05, 50)
    for _ in range(50):
        trials.see(-1.0)
    assert trials.has_passed
    trials.see(1.0)
    assert not trials.has_passed


def test_nothing_climbs_below_the_pass_rate_and_all_does_above_it():
    for rate, level in ((0.2, 0.2), (0.45, 0.4)):
        config = CurriculumConfig(levels=(0.0, 0.2, 0.4), min_pass_rate=0.3)
        curriculum = begin(config)
        rng = random.Random(0)
        for _ in range(200):
            passed = rng.random() < rate
            curriculum.record(0.0, passed=passed)
            curriculum.record(0.2, passed=passed)
        assert curriculum.level == level, rate


def test_clean_episodes_alone_leave_the_first_level_once_there_are_enough():
    curriculum = NoiseCurriculum(CurriculumConfig(window=10, min_episodes=4, min_pass_rate=0.5))
    for passed, level in ((1, 0), (0, 0), (1, 0), (0, 0.1)):
        curriculum.record(0.0, passed=bool(passed))
        assert curriculum.level == level
    low = NoiseCurriculum(CurriculumConfig(window=10, min_episodes=4, min_pass_rate=0.5))
    for passed in (1, 0, 0, 0, 1, 0):
        low.record(0.0, passed=bool(passed))
    assert low.level == 0.0


def test_outcomes_of_one_task_make_a_pair():
    curriculum = begin()
    for task in "abc":
        curriculum.record(0.0, passed=True, key=task)
    assert curriculum.num_pairs == 0
    curriculum.record(0.2, passed=False, key="b")
    curriculum.record(0.2, passed=False, key="d")
    assert curriculum.num_pairs == 1
    assert (curriculum._up.total, curriculum._down.total) == (1.0, -1.0)
    curriculum.record(0.0, passed=0.25, key="d")
    assert (curriculum.num_pairs, curriculum._up.total) == (2, 1.25)
    curriculum.record(0.4, passed=True, key="a")  # another level than the present one
    assert curriculum.num_pairs == 2


def test_what_waits_for_its_other_half_is_bounded():
    curriculum = begin()
    for n in range(1000):
        curriculum.record(0.0, passed=True, key=f"{n}")
    curriculum.record(0.2, passed=True, key="0")
    assert curriculum.num_pairs == 0
    curriculum.record(0.2, passed=True, key="999")
    assert curriculum.num_pairs == 1
    assert len(curriculum.state()["waiting"]) <= 257


def test_a_state_is_what_it_was_and_goes_on_alike():
    rng = random.Random(3)
    curriculum = begin()
    outcomes = [(rng.choice((0.0, 0.2)), rng.random() < 0.8) for _ in range(300)]
    for level, passed in outcomes[:150]:
        curriculum.record(level, passed=passed, key=rng.choice(("", "a", "b")))
    again = NoiseCurriculum(CONFIG)
    again.restore(json.loads(json.dumps(curriculum.state())))
    assert again.state() == curriculum.state()
    for level, passed in outcomes[150:]:
        curriculum.record(level, passed=passed)
        again.record(level, passed=passed)
    assert again.state() == curriculum.state()


def test_a_state_of_the_first_form_begins_a_stay():
    curriculum = NoiseCurriculum(CONFIG)
    curriculum.restore({"place": 9, "clean": [True] * 40, "noisy": [True, False]})
    assert (curriculum.level, curriculum.num_pairs, curriculum.stage) == (0.4, 0, 2)
    curriculum.restore({"place": -3, "clean": [], "noisy": []})
    assert curriculum.stage == 0


def test_the_gap_is_that_of_late():
    curriculum = begin(CurriculumConfig(levels=(0.0, 0.2), window=4, min_episodes=4))
    assert curriculum.level == 0.2
    assert curriculum.gap is None
    for passed in (True, False, False, True):
        curriculum.record(0.2, passed=passed)
    assert curriculum.gap == 0.5
    assert NoiseCurriculum().gap is None


def test_level_and_diversity_rise_in_turns():
    kinds = (("failure", "typo"), ("partial",), ("lost_ack", "conflict"))
    config = CurriculumConfig(levels=(0.1, 0.3), kinds=kinds)
    assert config.stages == ((0, 1), (1, 1), (1, 2), (1, 3))
    curriculum = NoiseCurriculum(config)
    assert (curriculum.tool_kinds, curriculum.user_kinds) == (("failure",), ("typo",))
    seen = []
    for stage in range(4):
        curriculum._enter(stage)
        seen.append((curriculum.level, len(curriculum.tool_kinds), len(curriculum.user_kinds)))
    assert seen == [(0.1, 1, 1), (0.3, 1, 1), (0.3, 2, 1), (0.3, 3, 2)]
    assert len(NoiseCurriculum().tool_kinds) > 10
    assert CurriculumConfig(levels=(0.0, 0.1, 0.2), kinds=(("typo",), ("casing",))).stages == (
        (0, 1), (1, 1), (2, 1), (2, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": (0.5, 0.1)}, "levels must rise"),
        ({"levels": (0.1, 0.1)}, "levels must rise"),
        ({"levels": ()}, "levels must rise"),
        ({"levels": (0.1, 1.1)}, "levels must be in"),
        ({"min_episodes": 65}, "need 1 <= min_episodes <= window, got 65 and 64"),
        ({"window": float("inf")}, "window must be a whole number, got inf"),
        ({"trial_pairs": 5.0}, "trial_pairs must be a whole number, got 5.0"),
        ({"min_episodes": "32"}, "min_episodes must be a whole number"),
        ({"max_gap": 0.0}, "max_gap must be in"),
        ({"max_false_climbs": 0.2}, "max_false_climbs must be in"),
        ({"max_false_falls": 0.0}, "max_false_falls must be in"),
        ({"trial_pairs": 12}, "trial_pairs must be a multiple of 5, got 12"),
        ({"min_pass_rate": 1.5}, "min_pass_rate must be in"),
        ({"kinds": (("typo",), ("typo",))}, "kinds must be known and join once, got 'typo'"),
        ({"kinds": (("lies",),)}, "kinds must be known and join once, got 'lies'"),
    ],
)
def test_bad_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        CurriculumConfig(**settings)


def test_an_outcome_is_a_share():
    with pytest.raises(ValueError, match=r"passed must be in \[0, 1\], got 2"):
        NoiseCurriculum().record(0.0, passed=2)
