"""The stages that take one of the candidates: by vote, by score, by tournament.

Each leaves exactly one candidate. What cannot be done as stated is done by vote, and said so.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from longcat_heavythink._replies import Reply

from ._records import Plan
from ._stages import Tournament, Vote
from ._votes import confidence_weights, group_replies

if TYPE_CHECKING:
    from ._runner import Runner

_BEST = re.compile(r"(?im)\b(?:best|answer|thinker)\b\W{0,6}(\d{1,6})|\\boxed\{\s*(\d{1,6})\s*\}")


def take_vote(
    runner: Runner, number: int, stage: Vote, candidates: dict[int, Reply]
) -> dict[int, Reply]:
    """Leave a candidate of the heaviest group of equal answers: its most confident, or first."""
    weights: dict[int, float] | None = None
    voters = candidates
    if stage.needs_confidence:
        weights = confidence_weights(
            candidates, weight=stage.weight, keep=stage.keep, window=stage.window
        )
        if weights is None:
            note = "the model gave no log-probabilities: every answer weighs the same"
            runner.outcome.warnings.append(note)
        else:
            voters = {number: candidates[number] for number in sorted(weights)}
    groups = group_replies(voters, runner.settings.normaliser, weights)
    members = groups[0].members
    index = max(members, key=lambda m: (weights[m], -m)) if weights else members[0]
    runner.outcome.decided_by = "vote"
    return {index: candidates[index]}


async def pick_best(runner: Runner, number: int, candidates: dict[int, Reply]) -> dict[int, Reply]:
    """Leave the candidate with the highest score; ties go to the lowest number."""
    scorer = runner.scorer
    assert scorer is not None

    async def score(reply: Reply) -> float | str:
        try:
            value = float(await scorer(list(runner.messages), reply))
        except Exception as error:
            return str(error) or type(error).__name__
        return value if math.isfinite(value) else f"the score is {value}"

    scores = await asyncio.gather(*map(score, candidates.values()))
    found = {i: s for i, s in zip(candidates, scores, strict=True) if not isinstance(s, str)}
    missing = [s for s in scores if isinstance(s, str)]
    if missing:
        note = f"{len(missing)} of {len(scores)} scores could not be had: {missing[0]}"
        runner.outcome.warnings.append(note)
    if not found:
        runner.fell_back(number, f"no score could be had: {missing[0]}")
        left, how = fall_back(candidates, runner.settings.normaliser)
        runner.outcome.decided_by = f"fallback: {how}"
        return left
    best = max(found, key=lambda index: (found[index], -index))
    runner.outcome.decided_by = "best"
    return {best: candidates[best]}


async def play_tournament(
    runner: Runner, number: int, stage: Tournament, candidates: dict[int, Reply]
) -> dict[int, Reply]:
    """Leave the candidate that the model picks, group by group, round by round."""
    random = Random(f"{runner.settings.seed}:{number}")
    left = list(candidates)
    random.shuffle(left)
    first, num_unread = 0, 0
    reason = ""
    while len(left) > 1:
        groups = [left[i : i + stage.size] for i in range(0, len(left), stage.size)]
        matches = [group for group in groups if len(group) > 1]
        plans = [
            _match(runner, first + place, {m: candidates[m] for m in group})
            for place, group in enumerate(matches)
        ]
        records = await runner.draw(number, runner.summariser, plans)
        winners: list[int] = [group[0] for group in groups if len(group) == 1]
        for record in records:
            shown = record.members
            pick = read_pick(record.reply.text, len(shown)) if record.reply.good else None
            if pick is None:
                num_unread += 1
                failure = record.reply.failure
                reason = failure.message if failure else "the pick could not be read"
                some, _ = fall_back({m: candidates[m] for m in shown}, runner.settings.normaliser)
                winners += some
            else:
                winners.append(shown[pick - 1])
        left = winners
        first += len(plans)
    runner.outcome.decided_by = "tournament"
    if num_unread:
        runner.outcome.warnings.append(f"{num_unread} of {first} matches by vote: {reason}")
        if num_unread == first:
            runner.fell_back(number, f"no match could be decided: {reason}")
            runner.outcome.decided_by = "fallback: vote"
    return {left[0]: candidates[left[0]]}


def _match(runner: Runner, index: int, shown: dict[int, Reply]) -> Plan:
    settings = runner.settings
    return runner.quoting_plan(
        index, settings.prompts.select, shown, settings.summary_temperature,
        max_tokens=settings.summary_max_tokens, room=settings.max_prompt_chars, policy="fair",
    )  # fmt: skip


def read_pick(text: str, count: int) -> int | None:
    """Return the number of the thinker that a judgement ends with, from 1 to `count`.

    >>> read_pick("Thinker 1 errs. Best: 2", 3)
    2
    """
    found = [int(a or b) for a, b in _BEST.findall(text)]
    if not found and text.strip().strip(".*# ").isdigit() and len(text) < 20:
        found = [int(text.strip().strip(".*# "))]
    return found[-1] if found and 1 <= found[-1] <= count else None


def fall_back(
    candidates: dict[int, Reply], normaliser: Callable[[str], str]
) -> tuple[dict[int, Reply], str]:
    """Return the best of what there is, and how it was chosen.

    The answer that most give, where two agree; else the first by number.
    """
    group = group_replies(candidates, normaliser)[0]
    index = group.members[0]
    how = "vote" if len(group.members) > 1 else "first attempt"
    return {index: candidates[index]}, how
