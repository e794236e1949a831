"""Tasks: a person, wishes, a chain that fulfils them, words, a goal, and tools around it.

    shallow   one wish or question, everything said
    deep      a refused wish with what makes it possible, further wishes, numbers to look up,
              something withheld or changed later, something that must be refused

A task depends on domain, difficulty, seed and number only, not on process or hash seed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from random import Random
from typing import Literal

from longcat_envs.graph import Graph
from longcat_envs.history import Setting
from longcat_envs.lang import Guard
from longcat_envs.world import Parameter, Tool

from ._call import Call, groups
from ._chain import Chains, Draw
from ._describe import unique_steps
from ._effect import has_idle_value
from ._environment import REFUSE
from ._goal import Tell, goal_of, tells
from ._links import Links
from ._say import Sentence, Speaker, Vague
from ._talk import Said, Talk
from ._task import Later, Step, WorldTask

Difficulty = Literal["shallow", "deep"]

NUM_PASTS = 16
"""Worlds of a domain that tasks start from, unless it is said from which."""

SHARE_QUESTION, SHARE_REFUSAL, SHARE_WITHHELD, SHARE_CHANGE = 0.45, 0.6, 0.4, 0.2
SHARE_COMPUTED = 0.65
"""Probability that a further wish of a deep task must hold a number to be looked up."""
SHARE_PLAIN = 0.35
"""Share of the deep drafts that go on although no refused wish was found that can be repaired."""
SHARE_REPAIRED = 0.35
"""Probability that a further wish is looked for among the refused ones first."""
SHARE_SHORT = 0.1
"""Share of the drafts with fewer writes than were aimed at that are kept."""
MANY_DRAFTS = 100
"""After so many that came to nothing any short one is kept: a small domain may have no others."""
LEAST_WRITES, MIN_WRITES, MAX_WRITES = 3, 4, 6
"""Writes of any deep task, and those between which a number is aimed at."""


class TaskMaker:
    """Makes tasks of one domain.

    Args:
        setting: The domain.
        seed: The same one gives the same tasks.
        difficulty: One wish or a question, or several wishes that belong together.
        prefix: Of the tasks' ids.
        pasts: Seeds of the worlds that tasks start from.
        iso_dates: Whether people say `2026-03-05` as results do, which a small model copies more
            easily, and not `5 March`.

    Example:
        >>> from longcat_envs.history import load_setting
        >>> maker = TaskMaker(load_setting("bank"), seed=1, difficulty="deep")
        >>> task = next(maker)
    """

    def __init__(
        self, setting: Setting, *, seed: int, difficulty: Difficulty = "deep", prefix: str = "",
        pasts: Sequence[int] | None = None, iso_dates: bool = False,
    ) -> None:  # fmt: skip
        if difficulty not in ("shallow", "deep"):
            raise ValueError(f"difficulty must be shallow or deep, got {difficulty!r}")
        self.setting, self.seed, self.difficulty = setting, seed, difficulty
        self.iso_dates = iso_dates
        self.pasts = tuple(range(NUM_PASTS) if pasts is None else pasts)
        if not self.pasts:
            raise ValueError("pasts must hold one seed at least, got none")
        self.graph = Graph(setting.machine.tools)
        self.uses: Counter[str] = Counter()
        self.num_failed = 0
        """Drafts that came to nothing."""
        language = setting.words.language
        self._prefix = prefix or "-".join([setting.spec.name, *[language] * (language != "en")])
        self._count = 0

    def __iter__(self) -> Iterator[WorldTask]:
        return self

    def __next__(self) -> WorldTask:
        for attempt in range(2_000):
            key = f"{self.setting.spec.name}:{self.difficulty}:{self.seed}:{self._count}:{attempt}"
            draft = _Draft(
                self, Random(key), share_short=1 if attempt > MANY_DRAFTS else SHARE_SHORT
            )
            task = draft.make(f"{self._prefix}-{self._count:05d}")
            if task is not None:
                self._count += 1
                self.uses.update(step.tool for step in task.writes)
                return task
            self.num_failed += 1
        raise RuntimeError(f"no {self.difficulty} task of {self.setting.spec.name} was found; does "
                           "its file of words have `ask` and `noun` lines?")  # fmt: skip


class _Draft:
    """One attempt at a task."""

    def __init__(self, maker: TaskMaker, rng: Random, *, share_short: float) -> None:
        self.maker, self.rng, self.setting = maker, rng, maker.setting
        self.share_short = share_short
        self.past = maker.pasts[rng.randrange(len(maker.pasts))]
        base, one = self.setting.past(self.past).base, self.setting.spec.person
        ends = self.setting.spec.classes[one].ends
        people = [i for i in base.order[one] if base.rows[one][i].get("state") not in ends]
        self.chains = Chains(self.setting, self.past, rng.choice(people), rng)
        self.speaker = Speaker(self.setting, self.chains, rng, iso_dates=maker.iso_dates)
        self.language, self._rows = self.speaker.language, base.rows
        self.links = Links(self.setting, self.chains, rng)
        self.talk = Talk(self.setting, self.chains, self.speaker, rng)
        self.refusal: tuple[Call, Guard] | None = None
        self.vague: tuple[Call, Vague] | None = None
        self.aside: int | None = None
        self.is_refusal_aside = False
        self.withheld, self.topics, self.change, self.mistaken = "", tuple[str, ...](), "", ""

    def make(self, name: str) -> WorldTask | None:
        """Return a task, `None` if this draft comes to nothing."""
        if self.maker.difficulty == "shallow":
            chain = self._shallow_chain()
            return None if chain is None else self._shallow(name, chain)
        chain = self._deep_chain()
        return None if chain is None else self._deep(name, chain)

    def _shallow(self, name: str, chain: list[Call]) -> WorldTask | None:
        """Say all in one message."""
        asks_figure = self.rng.random() < SHARE_QUESTION if chain else True
        said = self.talk.wishes(chain, None)
        if said is None:
            return None
        one = said[0] if said else Said((), ())
        told = None
        if asks_figure:
            told = self.talk.figure(chain, 0, is_with_wish=True, is_alone=not chain)
        if told is None:
            return self._task(name, [one], None, chain) if chain else None
        *looks, last = told[0].steps
        is_new = last.arguments[f"{last.tool[4:]}_id"] not in self._rows[last.tool[4:]]
        steps = (*one.steps, *looks, last) if is_new else (*looks, *one.steps, last)
        return self._task(name, [Said((*one.texts, *told[0].texts), steps)], told[1:], chain)

    def _deep(self, name: str, chain: list[Call]) -> WorldTask | None:
        """Say one wish after the other."""
        asks_figure = self.rng.random() < SHARE_QUESTION
        self._refuse_something(chain)
        self._hold_back(chain)
        said = self.talk.wishes(chain, self.vague, aside=self.aside)
        if said is None:
            return None
        if self.refusal is not None:
            last = Step(tool=REFUSE, arguments={"rule": self._rule()}, thought="forbidden")
            place = None if self.is_refusal_aside else len(said)
            words = self.talk.refusal(chain, self.refusal[0], place, last)
            said += [] if words is None else [words]
            self.refusal = None if words is None else self.refusal
        told = None
        if asks_figure:
            refused = None if self.refusal is None else self.refusal[0]
            told = self.talk.figure(
                chain, len(said), is_with_wish=False, is_alone=False, refused=refused
            )
            said += [] if told is None else [told[0]]
        return self._task(name, said, None if told is None else told[1:], chain)

    # -- what is wished for ----------------------------------------------------------------

    def _shallow_chain(self) -> list[Call] | None:
        if self.rng.random() < 0.3:
            return []
        call = self.chains.plain([], self.maker.uses, self.chains.draw)
        return None if call is None else [call]

    def _deep_chain(self) -> list[Call] | None:
        """Return wishes that belong together, and perhaps one that does not, as the last."""
        uses = Counter(self.maker.uses)
        chain = self.chains.repaired(uses, self.chains.draw)
        if chain is None:
            if self.rng.random() > SHARE_PLAIN:
                return None
            first = self.chains.plain([], uses, self.chains.draw)
            if first is None or self.links.is_own(first):
                return None
            chain = [first]
        uses.update(call.tool for call in chain)
        wanted = self.rng.randint(MIN_WRITES, MAX_WRITES)
        while len(chain) < wanted:
            part = self._more(chain, uses)
            if part is None:
                break
            chain += part
            uses.update({call.tool: 3 for call in part})
        if len(chain) < MIN_WRITES:
            self.chains.run(chain)
            aside = self._plain(chain, uses, self.chains.draw)
            self.aside = len(groups(chain)) if aside is not None else None
            chain += [] if aside is None else [aside]
        is_long = len(chain) >= MIN_WRITES or self.rng.random() < self.share_short
        return chain if is_long and len(chain) >= LEAST_WRITES else None

    def _more(self, chain: list[Call], uses: Counter[str]) -> list[Call] | None:
        """Return a wish about records of the chain, if need be about others of their kind."""
        for is_loose in (False, True):
            draw = self.links.drawer(chain, is_loose=is_loose)
            if not is_loose and self.rng.random() < SHARE_REPAIRED:
                part = self.chains.repaired(uses, draw)
                if part is not None and self._goes_after(chain, part):
                    return part
            call = self._plain(chain, uses, draw)
            if call is not None:
                return [call]
        return None

    def _plain(self, chain: list[Call], uses: Counter[str], draw: Draw) -> Call | None:
        """Return one more wish, of which a number must be looked up if none had to so far."""
        call = None
        if not any(c.computed for c in chain) and self.rng.random() < SHARE_COMPUTED:
            call = self.chains.plain(chain, uses, draw, must_compute=True)
        return call or self.chains.plain(chain, uses, draw)

    def _goes_after(self, chain: list[Call], part: list[Call]) -> bool:
        """Whether a repaired wish still needs its helpers after the chain, and succeeds."""
        if self.chains.run([*chain, part[-1]])[1] is None:
            return False
        for end in range(1, len(part) + 1):
            if not self.chains.fits([*chain, *part[: end - 1]], part[end - 1]):
                return False
        return True

    def _refuse_something(self, chain: list[Call]) -> None:
        """Choose a wish that must be refused; one that has to do with the others if there is."""
        if self.rng.random() >= SHARE_REFUSAL:
            return
        near = self.links.drawer(chain)
        self.refusal = self.chains.refused(chain, self.maker.uses, near)
        if self.refusal is None and self.aside is None:
            self.refusal = self.chains.refused(chain, self.maker.uses, self.chains.draw)
            self.is_refusal_aside = self.refusal is not None

    def _hold_back(self, chain: list[Call]) -> None:
        """Choose a value that is withheld at first, or said otherwise and changed later."""
        draw = self.rng.random()
        tools = self.setting.machine.tools
        options = [
            (call, one) for call in chain if not call.is_helper
            for one in tools[call.tool].parameters
            if one.name not in call.computed and one.type.kind in ("money", "date", "int", "text")
            and self.speaker.can_leave_out(call.tool, one)
            and self._name(tools[call.tool], one)
        ]  # fmt: skip
        if not options or draw > SHARE_WITHHELD + SHARE_CHANGE:
            return
        call, one = self.rng.choice(options)
        value = call.arguments[one.name]
        words, said = self._name(tools[call.tool], one), self.speaker.argument(one.type, value)
        if draw < SHARE_WITHHELD:
            vague = self.language.vague.get(one.type.kind, "").format(words)
            after = self.language.vague_after.format(words)
            self.vague = (call, Vague(one.name, vague, after))
            self.withheld = self.language.withheld.format(words, said)
            others = self.setting.words.names.get(f"{call.tool}.{one.name}", ())[1:]
            usual = self.language.topics.get(one.type.kind, ())
            self.topics = (words, *others, *usual, self.language.how_much)
            return
        self.chains.run([])
        tool = tools[call.tool]
        other = self.chains.draw(tool)
        if other is None or other.arguments[one.name] == value:
            return
        wrong = self.speaker.argument(one.type, other.arguments[one.name])
        self.vague, self.mistaken = (call, Vague(one.name, wrong, is_withheld=False)), wrong
        self.change = self.language.change.format(words, said)

    def _name(self, tool: Tool, one: Parameter) -> str:
        """Return what an argument is called when one asks for it; empty if nothing is known."""
        named = self.setting.words.names.get(f"{tool.name}.{one.name}", ())
        if named or self.language.code != "en":
            return (*named, self.language.value_names.get(one.type.kind, ""))[0]
        words = one.name.replace("_new", "").replace("_", " ")
        if words == "value":
            words = tool.action.edits.replace("_", " ") if tool.action is not None else words
        return (
            f"number of {words}" if one.type.kind == "int" and re.search("[^s]s$", words) else words
        )

    # -- words -----------------------------------------------------------------------------

    def _rule(self) -> str:
        assert self.refusal is not None
        return f"R{self.setting.spec.clauses.index(self.refusal[1].reason) + 1}"

    # -- the whole -------------------------------------------------------------------------

    def _task(
        self, name: str, said: list[Said], told: tuple[Sentence, Tell] | None, chain: list[Call]
    ) -> WorldTask | None:
        reached = self.chains.outcome(chain)
        if reached is None or has_idle_value(self.chains, chain, reached):
            return None
        if self.refusal is not None:
            reached = replace(reached, refused=(self._rule(),))
        goal = goal_of(reached, (told[1],) if told is not None else ())
        me = self.speaker.describer.me()
        golden, starts = list(me.steps), list[int]()
        for one in said:  # what was found for a wish need not be looked for again
            starts.append(len(golden) if starts else 0)
            golden = unique_steps([*golden, *one.steps])
        opening = self.speaker.opening(said[0].texts, me.text, has_more=len(said) > 1)
        later = tuple(
            Later(text=self.language.space.join(one.texts), start=start)
            for one, start in zip(said[1:], starts[1:], strict=True)
        )
        answer = self._answer(told, is_done=bool(chain) or self.refusal is not None)
        task = WorldTask(
            id=name, domain=self.setting.spec.name, past=self.past,
            id_digits=self.setting.id_digits, difficulty=self.maker.difficulty,
            language=self.language.code, tags=self._tags(chain, told is not None),
            opening=opening, later=later, open_wish=self._open_wish(chain),
            withheld=self.withheld, topics=self.topics, change=self.change,
            mistaken=self.mistaken, person=self.chains.person,
            tools=self._tools(golden), golden=tuple(golden), answer=answer, goal=goal,
            forbidden=() if self.refusal is None else (
                Step(tool=self.refusal[0].tool, arguments=self.refusal[0].arguments),
            ),
            profile={"name": me.text},
        )  # fmt: skip
        names = (value for step in golden for value in step.arguments.values())
        return task if tells(goal, answer, task.heard, names) else None

    def _tools(self, golden: Sequence[Step]) -> tuple[str, ...]:
        """Return the tools of the environment that is grown around a chain."""
        wanted = [s.tool for s in golden if s.tool != REFUSE]
        wanted += [self.refusal[0].tool] if self.refusal is not None else []
        return (*self.maker.graph.grow(wanted, self.rng), REFUSE)

    def _open_wish(self, chain: list[Call]) -> int:
        """Return the number of the wish of which something is withheld or changed."""
        if self.vague is None:
            return 0
        place = next(n for n, call in enumerate(chain) if call is self.vague[0])
        return next(n for n, (start, end) in enumerate(groups(chain)) if start <= place < end)

    def _tags(self, chain: list[Call], is_question: bool) -> tuple[str, ...]:
        return (
            *["question"] * is_question, *["refusal"] * (self.refusal is not None),
            *["computed"] * any(c.computed for c in chain), *["withheld"] * bool(self.withheld),
            *["change"] * bool(self.change),
            *["exchange"] * (self._failing_exchanges(chain) > 0),
        )  # fmt: skip

    def _answer(self, told: tuple[Sentence, Tell] | None, *, is_done: bool) -> str:
        """Return what a good agent says at the end."""
        words = self.language
        answer = words.done if is_done else words.looked
        if self.refusal is not None:
            answer += words.refused
        if told is not None:
            value = words.amount(told[1].kind, told[1].value, self.speaker.describer.year)
            answer += words.answer.format(words.yours(told[0].text), value)
        return answer

    def _failing_exchanges(self, chain: list[Call]) -> int:
        """Return how many pairs of writes cannot be exchanged."""
        wanted, failing = self.chains.outcome(chain), 0
        for one, other in combinations(range(len(chain)), 2):
            swapped = list(chain)
            swapped[one], swapped[other] = swapped[other], swapped[one]
            failing += self.chains.outcome(swapped) != wanted
        return failing
