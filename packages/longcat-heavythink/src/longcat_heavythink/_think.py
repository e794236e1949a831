"""Heavy thinking: K attempts side by side, then one answer about the K answers.

- The summary sees the history, the question and the *answers* of the attempts, never their
  thoughts, in shuffled order. It may overrule all of them.
- Only the summary's answer enters the history of a conversation (`Conversation`).
- `depth` repeats the summary: its answers become the attempts of the next round.

Source: LongCat-Flash-Thinking-2601 report section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from ._budget import Budget
from ._checks import check_number, check_whole
from ._events import OnEvent
from ._journal import Journal
from ._models import Complete, FunctionModel, Model, as_model
from ._normalise import normalise
from ._packing import POLICIES, cut
from ._prompts import ENGLISH, Prompts, candidate_text, quoted
from ._replies import Message, Reply, Usage
from .schedule import (
    HeavyThinkError,
    Outcome,
    Record,
    Runner,
    RunSettings,
    Sample,
    Schedule,
    Scorer,
    Summarise,
    parse_schedule,
)

_STREAMS = ("none", "last", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeavyConfig:
    """How wide and how deep, and in which words."""

    width: int = 4
    """K, the attempts."""
    depth: int = 1
    """Rounds of summary; between rounds, `width` summaries are drawn."""
    schedule: Schedule | str | None = None
    """Another way than `width` and `depth` say, such as `"vote:16"`; see `parse_schedule`."""
    temperature: float = 1.0
    """Of the attempts; the last summary uses `summary_temperature`."""
    summary_temperature: float = 0.6
    quorum: int | None = None
    """Summarise once that many attempts are good; the others are cancelled."""
    max_tokens: int | None = None
    """Of one answer; the model's own setting when `None`."""
    summary_max_tokens: int | None = None
    """`max_tokens` when `None`."""
    max_answer_chars: int = 4000
    """Longer answers are cut in the summary's prompt, in the middle."""
    max_prompt_chars: int | None = None
    """All answers together have at most that many characters in a prompt, by `packing`."""
    packing: str = "fair"
    """`fair` or `clusters`; see `pack`."""
    prompts: Prompts = ENGLISH
    normaliser: Callable[[str], str] = normalise
    """Maps an answer to what makes it equal to others."""
    summary_tries: int = 2
    """Before the best attempt stands in for a summary that fails."""
    stream: str = "none"
    """Whose pieces become events: `none`, the `last` stage's or `all`."""
    seed: int = 0

    def __post_init__(self) -> None:
        names = ("width", "depth", "max_answer_chars", "summary_tries")
        optional = ("quorum", "max_tokens", "summary_max_tokens", "max_prompt_chars")
        for name in (*names, *optional):
            value = getattr(self, name)
            if value is not None or name in names:
                check_whole(name, value)
        check_whole("seed", self.seed, None)
        check_number("temperature", self.temperature)
        check_number("summary_temperature", self.summary_temperature)
        if self.packing not in POLICIES:
            raise ValueError(f"packing must be one of {', '.join(POLICIES)}, got {self.packing!r}")
        if self.stream not in _STREAMS:
            raise ValueError(f"stream must be one of {', '.join(_STREAMS)}, got {self.stream!r}")
        words: Any = self.prompts
        if not isinstance(words, Prompts):
            raise ValueError(f"prompts must be a Prompts, got {words!r}")
        if not callable(self.normaliser):
            raise ValueError(f"normaliser must be a function, got {self.normaliser!r}")
        schedule: Any = self.schedule
        if not isinstance(schedule, str | Schedule | None):
            raise ValueError(f"schedule must be a Schedule or its words, got {schedule!r}")
        self.resolved()

    def resolved(self) -> Schedule:
        """Return the schedule that a run follows."""
        if isinstance(self.schedule, str):
            return parse_schedule(self.schedule)
        if self.schedule is not None:
            return self.schedule
        summaries = [Summarise(self.width)] * (self.depth - 1)
        return Schedule((Sample(self.width, self.quorum), *summaries, Summarise()))


@dataclass(frozen=True, slots=True)
class HeavyAnswer:
    """The answer and how it came about."""

    answer: str
    attempts: list[str]
    """Good answers of the first stage."""
    num_failed: int
    """Calls without a good answer, those that were not needed left out."""
    rounds: list[list[str]] = field(default_factory=list[list[str]])
    """Answers that each summary round was given."""
    reply: Reply = field(default_factory=Reply)
    """The answer as data, with tool calls."""
    decided_by: str = "summary"
    """`summary`, `vote`, `best`, `tournament`, `sample`, or `fallback: ` and how."""
    fell_back: str = ""
    """Why, where the schedule could not be followed to its end."""
    records: list[Record] = field(default_factory=list[Record])
    """Every call: its reply or the reason of its failure, tokens and time."""
    usage: Usage = field(default_factory=Usage)
    """Tokens of all calls."""
    cost: float | None = None
    """In the currency of `Budget.price`."""
    total_s: float = 0.0
    warnings: list[str] = field(default_factory=list[str])


async def think(
    messages: Sequence[Message],
    complete: Complete | Model,
    *,
    config: HeavyConfig | None = None,
    summarise: Complete | Model | None = None,
    on_attempt: Callable[[int, str], None] | None = None,
    on_event: OnEvent | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    scorer: Scorer | None = None,
    budget: Budget | None = None,
    journal: Journal | None = None,
    extra: Mapping[str, Any] | None = None,
) -> HeavyAnswer:
    """Answer a conversation that waits for the assistant.

    Args:
        messages: OpenAI messages ending with the user's or a tool's.
        complete: The thinker: an async function, an `Endpoint`, or any `Model`.
        config: Width, depth, temperatures, words; or another schedule.
        summarise: The summary model; the thinker when absent.
        on_attempt: Called with number and answer as each good attempt ends.
        on_event: Called with everything that happens, as it happens.
        tools: OpenAI function tools, offered to thinkers and summary alike.
        scorer: For schedules with a `best` stage.
        budget: Limits of tokens, time and money.
        journal: Records every call; calls that it holds are not made again.
        extra: Further fields of each request, such as `top_p`.

    Raises:
        ValueError: The conversation does not wait for the assistant.
        HeavyThinkError: A `RuntimeError`: every attempt failed; `records` says how each.
    """
    config = config or HeavyConfig()
    history = _checked(messages)
    model, schedule = as_model(complete), config.resolved()
    summariser = as_model(summarise) if summarise is not None else model

    def attempted(record: Record) -> None:
        if on_attempt is not None and record.reply.good:
            on_attempt(record.index, candidate_text(record.reply))

    settings = RunSettings(
        temperature=config.temperature, summary_temperature=config.summary_temperature,
        max_tokens=config.max_tokens, summary_max_tokens=config.summary_max_tokens,
        max_answer_chars=config.max_answer_chars, max_prompt_chars=config.max_prompt_chars,
        packing=config.packing, prompts=config.prompts, normaliser=config.normaliser,
        summary_tries=config.summary_tries, seed=config.seed, tools=tools, extra=extra or {},
        stream=config.stream if on_event is not None else "none",
    )  # fmt: skip
    book = None
    if journal is not None:
        names = [getattr(each, "journal_name", each.name) for each in (model, summariser)]
        book = journal.begin(history, str(schedule), settings, *names)
    runner = Runner(
        model, schedule, settings, summariser=summariser, scorer=scorer, budget=budget, book=book,
        on_event=on_event, on_record=attempted if on_attempt is not None else None,
    )  # fmt: skip
    async with AsyncExitStack() as held:
        for each in {id(model): model, id(summariser): summariser}.values():
            if hasattr(each, "__aenter__"):  # keeps its connections for the whole run
                await held.enter_async_context(each)  # pyright: ignore[reportArgumentType]
        try:
            outcome = await runner.run(history)
        except HeavyThinkError as error:
            if book is not None:
                book.fail(str(error))
            raise error from (model.last_error if isinstance(model, FunctionModel) else None)
    answer = _answer(outcome)
    if book is not None:
        book.end(answer.reply, answer.decided_by, answer.fell_back)
    return answer


def _checked(messages: Sequence[Message]) -> list[Message]:
    given: Any = messages
    if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
        raise ValueError(f"messages must be a list of messages, got {given!r}")
    messages = list(messages)
    for message in messages:
        is_mapping = isinstance(cast("Any", message), Mapping)
        if not is_mapping or not isinstance(message.get("role"), str):
            raise ValueError(f"each message must be a mapping with a role, got {message!r}")
    if not messages or messages[-1].get("role") not in ("user", "tool"):
        last = messages[-1].get("role") if messages else "nothing"
        raise ValueError(f"messages must end with a user message or a tool's, got {last!r}")
    return messages


def _answer(outcome: Outcome) -> HeavyAnswer:
    first = [record for record in outcome.records if record.stage == 0]
    failed = [r for r in outcome.records if r.reply.failure and r.reply.failure.kind != "cancelled"]
    return HeavyAnswer(
        answer=outcome.reply.text,
        attempts=[candidate_text(record.reply) for record in first if record.reply.good],
        num_failed=len(failed), rounds=outcome.rounds, reply=outcome.reply,
        decided_by=outcome.decided_by, fell_back=outcome.fell_back, records=outcome.records,
        usage=outcome.usage, cost=outcome.cost, total_s=outcome.total_s,
        warnings=outcome.warnings,
    )  # fmt: skip


def summary_prompt(
    messages: Sequence[Message], answers: Sequence[str], *, config: HeavyConfig, shuffle: int = 0
) -> list[Message]:
    """Return the history with its last message replaced by the question and the answers."""
    order = list(answers)
    Random(f"{config.seed}:{shuffle}").shuffle(order)
    texts = [cut(text, config.max_answer_chars) for text in order]
    prompts = config.prompts
    return quoted(messages, texts, instruction=prompts.summary, prompts=prompts)
