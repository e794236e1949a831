"""One language for width and depth, and what each schedule does."""

import asyncio
import math
from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from longcat_heavythink import (
    Best,
    Endpoint,
    EndpointConfig,
    HeavyConfig,
    Reply,
    Sample,
    Schedule,
    StageDecided,
    Summarise,
    Tournament,
    Usage,
    Vote,
    best_of,
    confidence_vote,
    genselect,
    heavy,
    pacore,
    parse_schedule,
    plain,
    rsa,
    think,
    vote,
)
from longcat_heavythink.schedule import group_replies, is_decided
from longcat_heavythink.schedule._select import read_pick
from longcat_heavythink.schedule._votes import Tally
from longcat_heavythink.testing import scripted

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 x 7?"}]

NAMED = {
    "plain": plain(), "heavy:8": heavy(8), "heavy:4,3": heavy(4, 3), "vote:16": vote(16),
    "confidence:5": confidence_vote(5), "best:4": best_of(4), "genselect:16,4": genselect(16, 4),
    "rsa:16,4,10": rsa(16, 4, 10), "pacore:32,4": pacore(32, 4),
    "confidence:8,tail,keep=0.5": confidence_vote(8, "tail", 0.5),
    "sample:8,quorum=6>summarise": Schedule((Sample(8, 6), Summarise())),
    "sample:4,temperature=0.7>tournament:2": Schedule((Sample(4, None, 0.7), Tournament(2))),
    " Sample:3 > Summarize:2 , subset=2 > vote ": Schedule(
        (Sample(3), Summarise(2, 2), Vote())
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", NAMED)
def test_a_schedule_has_a_text(text):
    assert parse_schedule(text) == NAMED[text]
    assert parse_schedule(str(NAMED[text])) == NAMED[text]


@given(
    st.integers(1, 99), st.lists(st.builds(
        Summarise, st.integers(1, 9), st.none() | st.integers(1, 9), st.none(),
        st.none() | st.floats(0, 2)), max_size=3),
    st.sampled_from([Vote(), Vote("tail", 0.25, 7), Best(), Tournament(3), Summarise()]),
)  # fmt: skip
def test_every_schedule_is_read_back_from_its_text(width, middle, last):
    schedule = Schedule((Sample(width), *middle, last))
    assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize(
    "text",
    ["", "hevy:4", "heavy:x", "heavy:0", "heavy:2.5", "heavy:1,2,3", "vote:-1", "summarise:1",
     "sample:4", "sample:2>sample:2", "sample:4>vote:most", "sample:4,quorum=9>vote",
     "sample:4,colour=2>vote", "heavy:99999999", "sample:4>", "vote:3,keep=nan", "sample:4>vote,",
     "sample:4,temperature=inf>vote", "rsa:4,2,99999", "best:4,4", "tournament:2"],
)  # fmt: skip
def test_what_is_no_schedule_is_refused_in_words(text):
    with pytest.raises(ValueError, match=r"schedule|must|understood|word|calls|keep"):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("schedule", "calls"),
    [(heavy(8), 9), (heavy(4, 3), 13), (vote(16), 16), (genselect(16, 4), 21), (pacore(8, 2), 11),
     (rsa(4, 2, 3), 12), (genselect(5, 4), 7), (plain(), 1), (genselect(9, 4), 12)],
)  # fmt: skip
async def test_the_number_of_calls_is_known_before(schedule, calls):
    assert schedule.num_calls == calls
    count = []

    async def complete(messages, temperature):
        count.append(1)
        return f"Best: 1 {len(count)}" if "Best" in messages[-1]["content"] else f"a{len(count)}"

    await think(ASK, complete, config=HeavyConfig(schedule=schedule))
    assert len(count) == calls


# votes


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=7), st.integers(0, 4))
def test_a_decided_vote_is_one_that_no_outcome_of_the_rest_changes(votes, outstanding):
    def winner(all_votes):
        counts = Counter(all_votes)
        most = max(counts.values())
        leaders = [key for key, count in counts.items() if count == most]
        return leaders[0] if len(leaders) == 1 else None

    leader = winner(votes)
    certain = leader is not None and all(
        winner([*votes, *rest]) == leader for rest in product("abcd", repeat=outstanding)
    )
    assert is_decided(Counter(votes).values(), outstanding) == certain
    tally = Tally()
    for key in votes:
        lead = tally.add(key)
    assert (lead > outstanding) == certain


async def test_a_decided_vote_cancels_the_rest_and_equals_the_full_one():
    ended, events = [], []

    async def complete(messages, temperature):
        number = next(numbers)
        try:
            await asyncio.sleep(0 if number < 5 else 60)
        except asyncio.CancelledError:
            ended.append(number)
            raise
        return "0.5" if number % 2 == 0 or number == 3 else "7"

    numbers = iter(range(6))
    got = await think(ASK, complete, config=HeavyConfig(schedule="vote:6"), on_event=events.append)
    assert got.answer == "0.5"
    assert got.decided_by == "vote"
    assert ended == [5]
    assert [e.num_cancelled for e in events if isinstance(e, StageDecided)] == [1]
    assert got.num_failed == 0
    assert [str(r.reply.failure.kind) for r in got.records if r.reply.failure] == ["cancelled"]


async def test_a_vote_in_doubt_waits():
    got = await think(
        ASK, scripted(["a", "a", "b", "b", "b"]), config=HeavyConfig(schedule="vote:5")
    )
    assert got.answer == "b"
    got = await think(ASK, scripted(["b", "a", "a", "b"]), config=HeavyConfig(schedule="vote:4"))
    assert got.answer == "b"  # a tie goes to the answer drawn first


async def test_equal_tool_calls_are_one_vote():
    from longcat_heavythink import ToolCall

    def call(arguments):
        return Reply(tool_calls=(ToolCall("f", arguments),))

    script = [call('{"a": 1, "b": 2}'), call('{"c": 1}'), call('{"b":2,"a":1}')]
    got = await think(ASK, scripted(script), config=HeavyConfig(schedule="vote:3"))
    assert got.reply == script[0]


async def test_a_quorum_goes_on_and_cancels_the_rest():
    started = []

    async def complete(messages, temperature):
        if "Thinker" in messages[-1]["content"]:
            return "end"
        started.append(1)
        if len(started) == 1:
            return ""
        await asyncio.sleep(0 if len(started) <= 3 else 60)
        return "x"

    got = await think(ASK, complete, config=HeavyConfig(width=5, quorum=2))
    assert (got.answer, got.attempts, got.num_failed) == ("end", ["x", "x"], 1)


# confidence


def _sure(text, *confidence):
    return Reply(text=text, confidence=confidence, usage=Usage(1, 1))


async def test_a_confident_minority_wins_by_weight_or_by_filter():
    script = [_sure("a", 1.0), _sure("a", 1.0), _sure("b", 9.0), _sure("c", 0.5)]
    by_weight = HeavyConfig(schedule="sample:4>vote:mean")
    assert (await think(ASK, scripted(script), config=by_weight)).answer == "b"
    by_filter = HeavyConfig(schedule="sample:4>vote:count,keep=0.25")
    assert (await think(ASK, scripted(script), config=by_filter)).answer == "b"
    assert (await think(ASK, scripted(script), config=HeavyConfig(schedule="vote:4"))).answer == "a"


async def test_the_kinds_of_weight_differ():
    steady, late, early = _sure("s", 4, 4, 4, 4), _sure("l", 0, 0, 9, 9), _sure("e", 9, 9, 0, 0)
    for weight, winner in [("mean", "e"), ("tail", "l"), ("lowest", "s"), ("bottom", "s")]:
        config = HeavyConfig(schedule=Schedule((Sample(3), Vote(weight, window=2))))
        assert (await think(ASK, scripted([early, late, steady]), config=config)).answer == winner


async def test_a_vote_without_log_probabilities_is_plain_and_says_so():
    got = await think(ASK, scripted(["a", "b", "b"]), config=HeavyConfig(schedule="confidence:3"))
    assert (got.answer, len(got.warnings)) == ("b", 1)


# best of N


async def test_the_best_scored_wins_and_scores_may_fail():
    async def scorer(messages, reply):
        if reply.text == "bad":
            raise OSError("no score")
        return {"a": 1, "b": math.nan, "c": 3}[reply.text]

    config = HeavyConfig(schedule="best:4")
    got = await think(ASK, scripted(["a", "b", "c", "bad"]), config=config, scorer=scorer)
    assert (got.answer, got.decided_by) == ("c", "best")
    assert "2 of 4 scores could not be had" in got.warnings[0]


async def test_without_any_score_the_vote_stands_in():
    async def scorer(messages, reply):
        raise OSError("down")

    got = await think(ASK, scripted(["a", "b", "b"]), config=HeavyConfig(schedule="best:3"),
                      scorer=scorer)  # fmt: skip
    assert (got.answer, got.decided_by) == ("b", "fallback: vote")
    assert "down" in got.fell_back


async def test_best_of_n_needs_a_scorer():
    with pytest.raises(ValueError, match="needs a scorer"):
        await think(ASK, scripted([]), config=HeavyConfig(schedule="best:3"))


# tournament


@pytest.mark.parametrize(
    ("text", "pick"),
    [("Best: 2", 2), ("1 is wrong.\n**Best:** 3", 3), (r"\boxed{1}", 1), ("Thinker #2", 2),
     ("3", 3), ("Best: 9", None), ("none", None), ("Best: 0", None), ("Best: 1 ... Best: 2", 2)],
)  # fmt: skip
def test_a_pick_is_read(text, pick):
    assert read_pick(text, 3) == pick


async def test_the_best_wins_every_round_of_a_tournament():
    matches = []

    async def complete(messages, temperature):
        text = messages[-1]["content"]
        if "Thinker #" not in text:
            return f"value {next(numbers)}"
        shown = [int(line.split()[1]) for line in text.splitlines() if line.startswith("value")]
        matches.append(len(shown))
        return f"Best: {shown.index(max(shown)) + 1}"

    numbers = iter(range(9))
    got = await think(ASK, complete, config=HeavyConfig(schedule="genselect:9,4"))
    assert (got.answer, got.decided_by, got.warnings) == ("value 8", "tournament", [])
    assert matches == [4, 4, 3]


async def test_matches_that_cannot_be_read_go_by_vote_and_are_counted():
    async def complete(messages, temperature):
        return "no idea" if "Thinker #" in messages[-1]["content"] else next(answers)

    answers = iter(["a", "b", "b", "b"])
    got = await think(ASK, complete, config=HeavyConfig(schedule="genselect:4,4"))
    assert (got.answer, got.decided_by) == ("b", "fallback: vote")
    assert "could not be read" in got.fell_back


# RSA, PaCoRe


async def test_rsa_sees_subsets_and_votes():
    log = []
    script = [f"a{n}" for n in range(4)] + [f"b{n}" for n in range(4)] + ["c", "d", "c", "e"]
    got = await think(ASK, scripted(script, log), config=HeavyConfig(schedule="rsa:4,2,3"))
    assert got.answer == "c"
    for messages, _ in log[4:8]:
        assert messages[-1]["content"].count("# ----- Thinker #") == 2
        assert "\nb" not in messages[-1]["content"]
    assert [record.stage for record in got.records] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(len(record.members) == 2 for record in got.records[4:])


async def test_pacore_goes_by_rounds_of_given_widths():
    log = []
    script = ["a", "b", "c", "d", "e", "f"]
    got = await think(ASK, scripted(script, log), config=HeavyConfig(schedule="pacore:3,2"))
    assert (got.answer, [sorted(r) for r in got.rounds]) == ("f", [["a", "b", "c"], ["d", "e"]])


def test_groups_are_by_weight_then_by_number():
    replies = {3: Reply(text="1/2"), 1: Reply(text="7"), 5: Reply(text="0.5"), 2: Reply(text="7.0")}
    groups = group_replies(replies)
    assert [group.members for group in groups] == [(1, 2), (3, 5)]
    weighted = group_replies(replies, weights={1: 1.0, 2: 1.0, 3: 1.5, 5: 1.0})
    assert [(g.members, g.weight) for g in weighted] == [((3, 5), 2.5), ((1, 2), 2.0)]


async def test_confidence_asks_the_server_for_log_probabilities(fault_server):
    server = fault_server()
    endpoint = Endpoint(EndpointConfig(url=server.url))
    await think(ASK, endpoint, config=HeavyConfig(schedule="confidence:2"))
    assert [body["top_logprobs"] for body in server.requests] == [5, 5]
