"""Run a schedule: stage after stage over the candidates, losing none of them.

What always holds:

- Every call ends in a record, whatever became of it.
- A stage that fails leaves the candidates as they were; the run goes on with the best of them and
  says so. Only a first stage without one good answer raises, and its error holds the records.
- What is random is drawn from the seed, the stage and the index: the same replies in any order of
  arrival give the same prompts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from longcat_heavythink._budget import Budget, prompt_bytes
from longcat_heavythink._events import FellBack, OnEvent, RunFinished, StageStarted
from longcat_heavythink._models import Model, copy_message
from longcat_heavythink._packing import pack
from longcat_heavythink._prompts import candidate_text, quoted
from longcat_heavythink._replies import Call, FailureKind, Message, Reply, Usage

from ._draw import Drawer, Enough
from ._records import Book, HeavyThinkError, Outcome, Plan, Record, RunSettings, Scorer
from ._select import fall_back, pick_best, play_tournament, take_vote
from ._stages import Best, Sample, Schedule, Stage, Summarise, Tournament, Vote
from ._votes import Tally, vote_key

_SHRINKS = 3


class Runner:
    """One run of a schedule."""

    def __init__(
        self,
        model: Model,
        schedule: Schedule,
        settings: RunSettings,
        *,
        summariser: Model | None = None,
        scorer: Scorer | None = None,
        budget: Budget | None = None,
        book: Book | None = None,
        on_event: OnEvent | None = None,
        on_record: Callable[[Record], None] | None = None,
    ) -> None:
        if scorer is None and any(isinstance(stage, Best) for stage in schedule.stages):
            raise ValueError(f"the schedule {schedule} needs a scorer")
        self.model, self.schedule, self.settings = model, schedule, settings
        self.summariser = summariser or model
        self.scorer, self.budget, self.book = scorer, budget, book
        self.on_event, self.on_record = on_event, on_record
        self.drawer = Drawer(budget=budget, book=book, on_event=on_event, stream=settings.stream)
        self.outcome = Outcome(Reply(), "")
        self.messages: tuple[Message, ...] = ()
        self._until_s: float | None = None
        self._began_s = 0.0

    async def run(self, messages: Sequence[Message]) -> Outcome:
        """Answer a conversation.

        Raises:
            HeavyThinkError: Not one good answer came.
        """
        self.messages = tuple(copy_message(message) for message in messages)
        clock = asyncio.get_running_loop().time
        self._began_s = clock()
        candidates: dict[int, Reply] = {}
        for number, stage in enumerate(self.schedule.stages):
            self._start(number, stage)
            if isinstance(stage, Sample):
                candidates = await self._sample(number, stage)
            elif isinstance(stage, Summarise):
                candidates = await self._summarise(number, stage, candidates)
            elif isinstance(stage, Vote):
                candidates = take_vote(self, number, stage, candidates)
            elif isinstance(stage, Best):
                candidates = await pick_best(self, number, candidates)
            else:
                candidates = await play_tournament(self, number, stage, candidates)
        has_summary = self.outcome.decided_by == "summary"
        lacks_summary = isinstance(self.schedule.stages[-1], Summarise) and not has_summary
        if len(candidates) > 1 or lacks_summary:
            candidates, how = fall_back(candidates, self.settings.normaliser)
            self.outcome.decided_by = f"fallback: {how}"
        (self.outcome.reply,) = candidates.values()
        self.outcome.total_s = clock() - self._began_s
        self.outcome.cost = self.drawer.ledger.cost if self.drawer.ledger else None
        if self.on_event is not None:
            self.on_event(RunFinished(self.outcome.reply, self.outcome.decided_by))
        return self.outcome

    def _start(self, number: int, stage: Stage) -> None:
        is_last = number + 1 == len(self.schedule.stages)
        self._until_s = None
        if self.budget is not None and self.budget.max_time_s is not None:
            is_only = len(self.schedule.stages) == 1
            share = 1.0 if is_last or is_only else self.budget.think_share
            self._until_s = self._began_s + self.budget.max_time_s * share
        if self.on_event is not None:
            width = stage.width if isinstance(stage, Sample | Summarise) else 0
            self.on_event(StageStarted(number, type(stage).__name__.lower(), width))

    async def draw(
        self, number: int, model: Model, plans: Sequence[Plan], enough: Enough | None = None,
        on_record: Callable[[Record], None] | None = None,
        keep: Callable[[], Usage] | None = None,
    ) -> list[Record]:  # fmt: skip
        """Make the calls of a stage and keep their records."""
        records = await self.drawer.draw(
            number, model, plans, enough=enough, on_record=on_record, until_s=self._until_s,
            keep=keep,
        )  # fmt: skip
        self.outcome.records += records
        return records

    def fell_back(self, number: int, reason: str) -> None:
        """Note that a stage could not be had."""
        self.outcome.fell_back = self.outcome.fell_back or reason
        if self.on_event is not None:
            self.on_event(FellBack(number, reason))

    async def _sample(self, number: int, stage: Sample) -> dict[int, Reply]:
        temperature = stage.temperature
        if temperature is None:
            temperature = self.settings.temperature
        is_final = len(self.schedule.stages) == 1
        call = self._call(self.messages, temperature)
        size = prompt_bytes(call)
        is_heard = self.on_event is not None  # then each call has listeners of its own
        plans = [
            Plan(index, _seeded(replace(call) if is_heard else call, index), size, (), is_final)
            for index in range(stage.width)
        ]
        records = await self.draw(
            number, self.model, plans, self._enough(number, stage), self.on_record,
            self._kept(size, stage.width),
        )  # fmt: skip
        good = {record.index: record.reply for record in records if record.reply.good}
        if not good:
            raise HeavyThinkError(_all_failed(records), records)
        self.outcome.decided_by = "sample"
        return good

    def _enough(self, number: int, stage: Sample | Summarise) -> Enough | None:
        """Return what says that the rest of a stage is not needed: a quorum or a decided vote."""
        following = self.schedule.stages[number + 1 : number + 2]
        is_vote = any(isinstance(s, Vote) and not s.needs_confidence for s in following)
        if stage.quorum is None and (not is_vote or stage.width < 2):
            return None
        tally, left, num_good = Tally(), stage.width, 0
        normaliser = self.settings.normaliser

        def enough(record: Record) -> str:
            nonlocal left, num_good
            left -= 1
            if not record.reply.good:
                return ""
            num_good += 1
            if is_vote and tally.add(vote_key(record.reply, normaliser)) > left > 0:
                return "the vote is decided"
            if stage.quorum is not None and num_good >= stage.quorum and left:
                return f"{num_good} good answers are there"
            return ""

        return enough

    async def _summarise(
        self, number: int, stage: Summarise, candidates: dict[int, Reply]
    ) -> dict[int, Reply]:
        self.outcome.rounds.append([candidate_text(r) for r in candidates.values()])
        is_final = number + 1 == len(self.schedule.stages)
        temperature = stage.temperature
        if temperature is None:
            is_single = stage.width == 1
            s = self.settings
            temperature = s.summary_temperature if is_single else s.temperature
        room = self.settings.max_prompt_chars
        records: list[Record] = []
        first, shrinks, tries = 0, 0, 0
        while True:
            plans = [
                self._plan(number, index, stage, candidates, temperature, room, is_final)
                for index in range(first, first + stage.width)
            ]
            records = await self.draw(
                number, self.summariser, plans, self._enough(number, stage)
            )  # fmt: skip
            good = {record.index: record.reply for record in records if record.reply.good}
            if good:
                if is_final:
                    self.outcome.decided_by = "summary"
                return good
            first += stage.width
            failures = [record.reply.failure for record in records]
            if any(f and f.kind is FailureKind.CONTEXT for f in failures) and shrinks < _SHRINKS:
                shrinks += 1
                room = max(1, sum(map(_quoted_chars, plans)) // len(plans) // 2)
                continue
            tries += 1
            can_help = any(
                f and not f.permanent and f.kind not in (FailureKind.BUDGET, FailureKind.CANCELLED)
                for f in failures
            )
            is_over = tries >= self.settings.summary_tries or not can_help
            if is_over or self.drawer.has_shown:  # what was shown cannot be taken back
                break
        reason = _all_failed(records).replace("attempts", "summaries")
        self.fell_back(number, reason)
        return candidates

    def _plan(
        self, number: int, index: int, stage: Summarise, candidates: dict[int, Reply],
        temperature: float, room: int | None, is_final: bool,
    ) -> Plan:  # fmt: skip
        random = Random(f"{self.settings.seed}:{number}:{index}")
        members = list(candidates)
        if stage.subset is not None and stage.subset < len(members):
            members = random.sample(members, stage.subset)
        random.shuffle(members)
        return self.quoting_plan(
            index, self.settings.prompts.summary, {m: candidates[m] for m in members}, temperature,
            max_tokens=self.settings.summary_max_tokens, room=room, is_final=is_final,
        )  # fmt: skip

    def quoting_plan(
        self, index: int, instruction: str, shown: dict[int, Reply], temperature: float, *,
        max_tokens: int | None = None, room: int | None = None, is_final: bool = False,
        policy: str | None = None,
    ) -> Plan:  # fmt: skip
        """Return the plan of a call whose prompt shows candidates, in the order given."""
        settings = self.settings
        members = list(shown)
        packed = pack(
            [candidate_text(reply, settings.prompts) for reply in shown.values()],
            max_chars_each=settings.max_answer_chars, max_chars=room,
            policy=policy or settings.packing,
            key=lambda place: vote_key(shown[members[place]], settings.normaliser),
        )  # fmt: skip
        messages = quoted(
            self.messages, packed.texts, instruction=instruction, prompts=settings.prompts,
            counts=packed.counts if max(packed.counts) > 1 else (),
        )  # fmt: skip
        call = _seeded(self._call(messages, temperature, max_tokens), index)
        seen = tuple(members[place] for place in packed.members)
        return Plan(index, call, prompt_bytes(call), seen, is_final)

    def _call(
        self, messages: Sequence[Message], temperature: float, max_tokens: int | None = None
    ) -> Call:
        settings = self.settings
        logprobs = any(isinstance(s, Vote) and s.needs_confidence for s in self.schedule.stages)
        return Call(
            messages=messages, temperature=temperature,
            max_tokens=max_tokens or settings.max_tokens, tools=settings.tools,
            top_logprobs=5 if logprobs else 0, extra=settings.extra,
        )  # fmt: skip

    def _kept(self, prompt: int, width: int) -> Callable[[], Usage] | None:
        """Return what the last model stage needs, so that thinkers do not eat it up."""
        needs = any(isinstance(s, Summarise | Tournament) for s in self.schedule.stages[1:])
        ledger = self.drawer.ledger
        if not needs or ledger is None:
            return None
        settings = self.settings
        longest = getattr(self.model, "max_tokens", None)
        answer = settings.max_tokens or longest or settings.max_answer_chars
        most = settings.summary_max_tokens or settings.max_tokens
        most = most or getattr(self.summariser, "max_tokens", None) or answer

        def kept() -> Usage:
            frame = ledger.estimate(prompt + len(settings.prompts.summary) + 1000, most)
            each = min(answer, ledger.estimate(settings.max_answer_chars, 0).prompt_tokens)
            room = settings.max_prompt_chars
            quoted_tokens = each * width
            if room is not None:
                quoted_tokens = min(quoted_tokens, ledger.estimate(room, 0).prompt_tokens)
            return replace(frame, prompt_tokens=frame.prompt_tokens + quoted_tokens)

        return kept


def _quoted_chars(plan: Plan) -> int:
    return math.ceil(plan.num_bytes)


def _all_failed(records: Sequence[Record]) -> str:
    failures = [record.reply.failure for record in records if record.reply.failure]
    first = next((f for f in failures if f.kind is not FailureKind.CANCELLED), failures[0])
    return f"all {len(records)} attempts failed: {first.message}"


def _seeded(call: Call, index: int) -> Call:
    """Give each attempt a seed of its own: a server that obeys one would repeat the first."""
    seed = call.extra.get("seed")
    if not index or not isinstance(seed, int) or isinstance(seed, bool):
        return call
    return replace(call, extra={**call.extra, "seed": seed + index})
