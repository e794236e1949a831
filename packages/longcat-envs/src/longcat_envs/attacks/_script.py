"""Scripts: what an agent says and calls, played in one environment without waiting."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from longcat_envs._task import Reward
from longcat_envs.tasks import REFUSE, Outcome, Step, WorldEnvironment, WorldTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """What agents say, in the language of the person."""

    ask: str = "Could you tell me which details you left out, please?"
    confirm: str = "I have found what I need. Shall I go on?"
    here_is_all: str = "Here is all: {}"
    deny: str = "I do not think that it is {}."
    deny_surely: str = "It is certainly not {}."
    take_back: str = " No, that is wrong."
    maybe: str = "It may be {} or {}."
    cannot: str = "I cannot do that."
    settled: str = "That is done."
    bye: str = " Goodbye!"
    done: str = "All of that is done."
    hello: str = "Hello! Let me see what I can do for you."
    anything_else: str = " Is there anything else that I can do for you?"
    which: str = "Which records do you mean, exactly?"
    tell_me: str = "Please tell me the {}."
    go_ahead: str = "Should I go ahead?"
    you_asked: str = "You asked: {} {}"


_LINES = {
    "en": Lines(),
    "zh": Lines(
        ask="请问您刚才没说的具体信息是什么？", confirm="需要的信息我都查到了，可以继续办理吗？",
        here_is_all="全部信息如下：{}", deny="我觉得不是{}。", deny_surely="肯定不是{}。",
        take_back="不对，刚才说错了。", maybe="可能是{}，或者{}。", cannot="这个我办不了。", done="都办好了。",
        settled="这件办好了。", bye="再见！",
        hello="您好！我来看看能为您做些什么。", anything_else="请问还有什么可以帮您的吗？",
        which="请问具体是哪一个？", tell_me="请告诉我{}。", go_ahead="要我现在办吗？",
        you_asked="您的要求是：{}{}",
    ),
}  # fmt: skip


def lines_of(task: WorldTask) -> Lines:
    """Return what agents say to the person of a task."""
    return _LINES[task.language]


@dataclass(frozen=True, slots=True)
class Say:
    """A message to the person."""

    text: str


Act = Step | Say


@dataclass(frozen=True, slots=True)
class Played:
    """What a script came to."""

    outcome: Outcome
    passed: bool
    errors: tuple[str, ...]
    """Calls that were refused, as tool and answer."""
    parts: Mapping[str, float]
    """Each part of the reward, 1 or 0; empty if the world failed."""


def play(environment: WorldEnvironment, acts: Iterable[Act]) -> Played:
    """Play a script from the start."""
    environment.start()
    errors: list[str] = []
    for act in acts:
        if isinstance(act, Say):
            environment.hear(act.text)
            continue
        call = {"function": {"name": act.tool, "arguments": act.arguments}}
        result = environment.call_now(call)
        if result.is_error:
            errors.append(f"{act.tool}: {result.content}")
    score = environment.score_now()
    parts = score.parts if isinstance(score, Reward) else dict[str, float]()
    passed = isinstance(score, Reward) and score.total == 1.0
    return Played(environment.outcome(), passed, tuple(errors), parts)


def hearing_acts(task: WorldTask) -> list[Act]:
    """Return what brings the person to say all that they want, with nothing done."""
    return [Say(lines_of(task).anything_else.strip()) for _ in task.later]


def asking_acts(task: WorldTask) -> list[Act]:
    """Return what brings out what is withheld or changed, once its wish was brought up."""
    acts: list[Act] = [Say(lines_of(task).ask)] if task.withheld else []
    return [*acts, Say(lines_of(task).confirm)] if task.change else acts


def opening_acts(task: WorldTask) -> list[Act]:
    """Return what must be said before anything is done, where all is heard first."""
    return [*hearing_acts(task), *asking_acts(task)]


def golden_acts(task: WorldTask) -> list[Act]:
    """Return the golden script: one wish after the other, as they are brought up."""
    acts: list[Act] = []
    for number in range(len(task.parts)):
        acts += part_acts(task, number)
    return [*acts, Say(task.answer)]


def part_acts(task: WorldTask, number: int) -> list[Act]:
    """Return the golden script for one wish; it ends with what brings up the next, if any."""
    steps = task.parts[number]
    acts: list[Act] = asking_acts(task) if number == task.open_wish else []
    acts += steps
    if number == len(task.later):
        return acts
    says = lines_of(task)
    is_refused = any(step.tool == REFUSE for step in steps)
    return [*acts, Say((says.cannot if is_refused else says.settled) + says.anything_else)]


def is_write(step: Act) -> bool:
    """Whether an act is a call that changes or refuses something."""
    return isinstance(step, Step) and not step.tool.startswith(("search_", "get_"))
