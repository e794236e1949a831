"""Answers fit into a prompt by a stated policy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longcat_heavythink import HeavyConfig, think
from longcat_heavythink._packing import cut, fair_cap, pack


@given(st.text(max_size=60), st.integers(1, 70))
def test_a_cut_text_is_never_longer_than_the_limit(text, limit):
    got = cut(text, limit)
    assert len(got) <= limit
    assert got == text or len(text) > limit
    assert len(got) == min(limit, len(text))


def test_a_text_is_cut_in_the_middle():
    assert cut("a" * 50 + "b" * 50, 25) == "a" * 10 + " ... " + "b" * 10
    assert cut("x" * 2001, 1) == "x"


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 200))
def test_the_fair_cap_is_the_highest_that_fits(lengths, total):
    cap = fair_cap(lengths, total)
    assert sum(min(n, cap) for n in lengths) <= total or cap == 0
    if cap < max(lengths):
        assert sum(min(n, cap + 1) for n in lengths) > total


@given(st.lists(st.text(max_size=40), min_size=1, max_size=8), st.integers(1, 100),
       st.sampled_from(["fair", "clusters"]))  # fmt: skip
def test_all_answers_together_fit(answers, limit, policy):
    packed = pack(answers, max_chars_each=30, max_chars=limit, policy=policy)
    assert sum(map(len, packed.texts)) <= limit
    assert max(map(len, packed.texts)) <= 30
    if policy == "fair":
        assert packed.members == list(range(len(answers)))


def test_clusters_keep_one_of_each_and_the_largest_when_room_is_short():
    answers = ["rare", "common", "common!", "COMMON"]
    packed = pack(answers, max_chars_each=10, policy="clusters", key=lambda n: n > 0)
    assert (packed.texts, packed.counts, packed.members) == (["common", "rare"], [3, 1], [1, 0])
    packed = pack(answers, max_chars_each=10, max_chars=20, policy="clusters", key=lambda n: n > 0)
    assert packed.texts == ["common"]


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="fair, clusters"):
        pack(["a"], max_chars_each=1, policy="best")


async def test_answers_are_cut_in_the_summarys_prompt():
    seen = []

    async def complete(messages, temperature):
        seen.append(messages[-1]["content"])
        return "x" * 3000

    config = HeavyConfig(width=4, max_answer_chars=1000, max_prompt_chars=800)
    await think([{"role": "user", "content": "Q"}], complete, config=config)
    assert seen[-1].count("x") == 4 * 195
