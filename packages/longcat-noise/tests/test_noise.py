"""Noise is reproducible, spares what matters, and can always be sat out."""

import json

import pytest
from longcat_noise import (
    Draw,
    NoiseConfig,
    NoisyEnvironment,
    disturb_request,
    disturb_result,
)  # fmt: skip


class _Observation:
    def __init__(self):
        self.messages = [{"role": "user", "content": "Please renew the loan of Ada Berg on 4821."}]
        self.tools = []


class _Result:
    content, is_error = '{"id":"M4821","state":"open"}', False


class _World:
    def __init__(self):
        self.calls = 0

    async def reset(self):
        return _Observation()

    async def call(self, tool_call):
        self.calls += 1
        return _Result()

    async def reply(self, message):
        return None

    async def score(self):
        return 1.0

    async def close(self):
        pass


CALL = {"function": {"name": "find", "arguments": "{}"}}


async def _episode(level, episode="e", calls=6, **config):
    world = _World()
    noisy = NoisyEnvironment(
        world, NoiseConfig(level=level, **config), episode=episode, protected=["Ada Berg", "4821"]
    )
    observation = await noisy.reset()
    results = [await noisy.call(CALL) for _ in range(calls)]
    return observation.messages[0]["content"], [r.content for r in results], world.calls


async def test_level_zero_changes_nothing():
    said, results, calls = await _episode(0.0)
    assert said == _Observation().messages[0]["content"]
    assert set(results) == {_Result.content}
    assert calls == 6


async def test_the_same_episode_has_the_same_noise_and_others_have_other():
    assert await _episode(0.8, "a") == await _episode(0.8, "a")
    assert len({str(await _episode(0.8, f"{n}")) for n in range(20)}) > 10


async def test_a_tool_is_disturbed_at_most_so_often_and_then_answers():
    for n in range(50):
        _, results, _ = await _episode(1.0, f"{n}", max_per_tool=3)
        assert all(r != _Result.content for r in results[:3])
        assert all(r == _Result.content for r in results[3:])


async def test_a_failed_call_did_not_happen():
    _, results, calls = await _episode(1.0, tool_kinds=("failure",), max_per_tool=2)
    assert calls == 4
    assert "try again" in results[0]


@pytest.mark.parametrize("kind", ["redundancy", "typo", "casing"])
def test_protected_literals_survive(kind):
    text = "Please renew the loan of Ada Berg for 4821."
    config = NoiseConfig(level=1.0, user_kinds=(kind,))
    changed = 0
    for n in range(200):
        said = disturb_request(
            text, config=config, draw=Draw(0, f"{n}"), protected=["Ada Berg", "4821"]
        )
        assert "Ada Berg" in said
        assert "4821" in said
        changed += said != text
    assert changed > 150


def test_partial_hides_and_never_alters():
    content = json.dumps([{"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": "5", "c": "6"}])
    for n in range(50):
        rows = json.loads(disturb_result("partial", content, Draw(0, f"{n}"), "t", 0))
        for row, old in zip(rows, json.loads(content), strict=True):
            assert sum(value == "..." for value in row.values()) == 2
            assert all(value in ("...", old[key]) for key, value in row.items())


def test_draws_are_uniform_and_independent_of_order():
    draws = [Draw(1, "e")("x", n) for n in range(4000)]
    assert 0.48 < sum(draws) / 4000 < 0.52
    assert [Draw(1, "e")("x", n) for n in reversed(range(4000))][::-1] == draws


def test_bad_settings_are_named():
    for level in ("0.5", None, True, float("nan")):
        with pytest.raises(ValueError, match=r"level must be in \[0, 1\]"):
            NoiseConfig(level=level)
    for seed in ("a", 1.5, None):
        with pytest.raises(ValueError, match="seed must be a whole number"):
            NoiseConfig(level=0.1, seed=seed)
    with pytest.raises(ValueError, match=r"level must be in \[0, 1\], got 2"):
        NoiseConfig(level=2)
    with pytest.raises(ValueError, match=r"among failure, partial, padding, .*, got 'lies'"):
        NoiseConfig(level=0.1, tool_kinds=("lies",))
    with pytest.raises(ValueError, match=r"among redundancy, typo, .*, got 'lies'"):
        NoiseConfig(level=0.1, user_kinds=("lies",))
    with pytest.raises(ValueError, match="named once each, got typo, typo"):
        NoiseConfig(level=0.1, user_kinds=("typo", "typo"))
    with pytest.raises(ValueError, match="max_per_tool must be 0 or more, got -1"):
        NoiseConfig(level=0.1, max_per_tool=-1)
    with pytest.raises(ValueError, match="position must be among any, early, middle, late, got"):
        NoiseConfig(level=0.1, position="nowhere")
    assert NoiseConfig(level=1, max_per_tool=0).level == 1
