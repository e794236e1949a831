"""Tasks: a person, wishes, a chain that fulfils them, words, a goal, and tools around it.

    shallow   one wish or question, everything said
    deep      a refused wish with what makes it possible, further wishes, numbers to look up,
              something withheld or changed later, something that must be refused

A task depends on domain, difficulty, seed and number only, not on process or hash seed.
"""

from __future__ import annotations

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

from ._call import Call, Figure
from ._chain import Chains
from ._describe import unique_steps
from ._environment import REFUSE
from ._goal import Goal, Tell, goal_of, tells
from ._say import Sentence, Speaker, Vague
from ._task import Step, WorldTask

Difficulty = Literal["shallow", "deep"]

NUM_PASTS = 16
"""Worlds of a domain that tasks start from, unless it is said from which."""

SHARE_QUESTION, SHARE_REFUSAL, SHARE_WITHHELD, SHARE_CHANGE = 0.45, 0.3, 0.4, 0.2
SHARE_COMPUTED = 0.3
"""Probability that a further wish of a deep task must hold a number to be looked up."""
SHARE_PLAIN = 0.35
"""Share of the deep drafts that go on although no refused wish was found that can be repaired."""
MIN_WRITES, MAX_WRITES = 4, 7
MAX_ORDERS = 24
"""Orders of a chain that are tried, to see whether the order must be said."""


class TaskMaker:
    """Makes tasks of one domain.

    Example:
        >>> from longcat_envs.history import load_setting
        >>> maker = TaskMaker(load_setting("bank"), seed=1, difficulty="deep")
        >>> task = next(maker)
    """

    def __init__(
        self, setting: Setting, *, seed: int, difficulty: Difficulty = "deep", prefix: str = "",
        pasts: Sequence[int] = range(NUM_PASTS),
    ) -> None:  # fmt: skip
        if difficulty not in ("shallow", "deep"):
            raise ValueError(f"difficulty must be shallow or deep, got {difficulty!r}")
        self.setting, self.seed, self.difficulty = setting, seed, difficulty
        if not pasts:
            raise ValueError("pasts must hold one seed at least, got none")
        self.pasts = tuple(pasts)
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
            task = _Draft(self, Random(key)).make(f"{self._prefix}-{self._count:05d}")
            if task is not None:
                self._count += 1
                self.uses.update(step.tool for step in task.writes)
                return task
            self.num_failed += 1
        raise RuntimeError(f"no {self.difficulty} task of {self.setting.spec.name} was found; does "
                           "its file of words have `ask` and `noun` lines?")  # fmt: skip


class _Draft:
    """One attempt at a task."""

    def __init__(self, maker: TaskMaker, rng: Random) -> None:
        self.maker, self.rng, self.setting = maker, rng, maker.setting
        self.past = maker.pasts[rng.randrange(len(maker.pasts))]
        base, one = self.setting.past(self.past).base, self.setting.spec.person
        ends = self.setting.spec.classes[one].ends
        people = [i for i in base.order[one] if base.rows[one][i].get("state") not in ends]
        self.chains = Chains(self.setting, self.past, rng.choice(people), rng)
        self.speaker = Speaker(self.setting, self.chains, rng)
        self.language = self.speaker.language
        self.refusal: tuple[Call, Guard] | None = None
        self.vague: tuple[Call, Vague] | None = None
        self.withheld, self.topics, self.change, self.mistaken = "", tuple[str, ...](), "", ""

    def make(self, name: str) -> WorldTask | None:
        """Return a task, `None` if this draft comes to nothing."""
        is_deep = self.maker.difficulty == "deep"
        chain = self._deep_chain() if is_deep else self._shallow_chain()
        if chain is None:
            return None
        asks_figure = self.rng.random() < SHARE_QUESTION if chain else True
        is_fixed = self._order_matters_unsaid(chain)
        if is_deep:
            self._refuse_something(chain)
            self._hold_back(chain)
        said = self._say(chain, is_fixed=is_fixed)
        if said is None:
            return None
        sentences, steps = said
        told = self._ask_figure(chain) if asks_figure else None
        base = self.chains.world.store.base.rows
        if told is not None:
            sentences.append(told[0])
            *looks, last = told[1].steps
            is_new = last.arguments[f"{last.tool[4:]}_id"] not in base[last.tool[4:]]
            steps = [*steps, *looks, last] if is_new else [*looks, *steps, last]
        elif not chain and self.refusal is None:
            return None
        tells = (told[2],) if told is not None else ()
        goal = self._goal(chain, tells)
        return self._task(name, sentences, steps, goal, told, chain, is_fixed) if goal else None

    # -- what is wished for ----------------------------------------------------------------

    def _shallow_chain(self) -> list[Call] | None:
        if self.rng.random() < 0.3:
            return []
        call = self.chains.plain([], self.maker.uses)
        return None if call is None else [call]

    def _deep_chain(self) -> list[Call] | None:
        chain: list[Call] = []
        wanted = self.rng.randint(MIN_WRITES, MAX_WRITES)
        uses = Counter(self.maker.uses)
        for number in range(6):
            if len(chain) >= wanted:
                break
            part = self.chains.repaired(uses) if number < 2 else None
            if part is None and number == 0 and self.rng.random() > SHARE_PLAIN:
                return None
            if part is not None and (not chain or self._goes_after(chain, part)):
                chain += part
                uses.update(call.tool for call in part)
                continue
            call = None
            if not any(c.computed for c in chain) and self.rng.random() < SHARE_COMPUTED:
                call = self.chains.plain(chain, uses, must_compute=True)
            call = call or self.chains.plain(chain, uses)
            if call is not None:
                chain.append(call)
                uses[call.tool] += 3
        return chain if len(chain) >= 2 else None

    def _goes_after(self, chain: list[Call], part: list[Call]) -> bool:
        """Whether a repaired wish still needs its helpers after the chain, and succeeds."""
        if self.chains.run([*chain, part[-1]])[1] is None:
            return False
        for end in range(1, len(part) + 1):
            if not self.chains.fits([*chain, *part[: end - 1]], part[end - 1]):
                return False
        return True

    def _order_matters_unsaid(self, chain: list[Call]) -> bool:
        """Whether another order is legal but ends elsewhere, so that the order must be said."""
        wanted = self.chains.outcome(chain)
        for _ in range(MAX_ORDERS if len(chain) > 1 else 0):
            other = self.rng.sample(chain, len(chain))
            reached = self.chains.outcome(other)
            if reached is not None and reached != wanted:
                return True
        self.chains.run([])
        for place, call in enumerate(chain):
            for figure in call.computed.values():
                self.chains.run([])
                if figure.id not in self.chains.world.store.base.rows[figure.of]:
                    return True
                before = self.chains.value(figure)
                self.chains.run(chain[:place])
                if self.chains.value(figure) != before:
                    return True
        return False

    def _refuse_something(self, chain: list[Call]) -> None:
        if self.rng.random() < SHARE_REFUSAL:
            self.refusal = self.chains.refused(chain, self.maker.uses)

    def _hold_back(self, chain: list[Call]) -> None:
        """Choose a value that is withheld at first, or said otherwise and changed later."""
        draw = self.rng.random()
        tools = self.setting.machine.tools
        options = [
            (call, one) for call in chain if not call.is_helper
            for one in tools[call.tool].parameters
            if one.name not in call.computed and one.type.kind in self.language.vague
            and f"{{{one.name}}}" in " ".join(self.setting.words.asks[call.tool])
            and self._name(tools[call.tool], one)
        ]  # fmt: skip
        if not options or draw > SHARE_WITHHELD + SHARE_CHANGE:
            return
        call, one = self.rng.choice(options)
        value = call.arguments[one.name]
        words, said = self._name(tools[call.tool], one), self.speaker.argument(one.type, value)
        if draw < SHARE_WITHHELD:
            vague = self.language.vague[one.type.kind].format(words)
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
        self.vague, self.mistaken = (call, Vague(one.name, wrong)), wrong
        self.change = self.language.change.format(words, said)

    def _name(self, tool: Tool, one: Parameter) -> str:
        """Return what an argument is called when one asks for it; empty if nothing is known."""
        named = self.setting.words.names.get(f"{tool.name}.{one.name}", ())
        if named or self.language.code != "en":
            return (*named, self.language.value_names.get(one.type.kind, ""))[0]
        words = one.name.replace("_new", "").replace("_", " ")
        if words == "value":
            words = tool.action.edits.replace("_", " ") if tool.action is not None else words
        return f"number of {words}" if one.type.kind == "int" and words.endswith("s") else words

    # -- words -----------------------------------------------------------------------------

    def _say(self, chain: list[Call], *, is_fixed: bool) -> tuple[list[str], list[Step]] | None:
        found: list[Sentence] = []
        early: list[Step] = []
        late: list[Step] = []
        for place, call in enumerate(chain):
            is_early = self._look_at_start(call, chain[:place])
            vague = self.vague[1] if self.vague is not None and self.vague[0] is call else None
            sentence = self.speaker.wish(call, vague)
            if sentence is None:
                return None
            found.append(sentence)
            for step in sentence.steps:
                (early if is_early and step.tool.startswith("search_") else late).append(step)
        steps = [*early, *late]
        frame = self.speaker.frame
        if is_fixed:
            words = self.language
            texts = [frame(s, words.then if n else words.first) for n, s in enumerate(found)]
        else:
            texts = self._shuffled(chain, found)
        if self.refusal is not None:
            self.chains.run([])
            sentence = self.speaker.wish(self.refusal[0])
            if sentence is None:
                self.refusal = None
            else:
                texts.append(frame(sentence, self.language.more))
                steps = [*sentence.steps[:-1], *steps]
                steps.append(
                    Step(tool=REFUSE, arguments={"rule": self._rule()}, thought="forbidden")
                )
        return texts, steps

    def _look_at_start(self, call: Call, before: list[Call]) -> bool:
        """Go to the start if all that a call speaks of exists there, else to just before it."""
        rows = self.chains.world.store.base.rows
        tool = self.setting.machine.tools[call.tool]
        ids = [(p.type.of, call.arguments[p.name]) for p in tool.parameters if p.type.kind == "ref"]
        ids += [(figure.of, figure.id) for figure in call.computed.values()]
        is_early = all(identifier in rows[of] for of, identifier in ids)
        self.chains.run([] if is_early else before)
        return is_early

    def _shuffled(self, chain: list[Call], found: list[Sentence]) -> list[str]:
        """Say each wish first and then what makes it possible, groups in any order."""
        groups: list[tuple[Sentence, list[Sentence]]] = []
        helpers: list[Sentence] = []
        for call, sentence in zip(chain, found, strict=True):
            if call.is_helper:
                helpers.append(sentence)
            else:
                groups.append((sentence, helpers))
                helpers = []
        self.rng.shuffle(groups)
        texts: list[str] = []
        for number, (wish, needed) in enumerate(groups):
            more, before = self.language.more, self.language.before
            texts.append(self.speaker.frame(wish, more if number else ("{}",)))
            for place, helper in enumerate(needed):
                texts.append(self.speaker.frame(helper, more if place else before))
        return texts

    def _rule(self) -> str:
        assert self.refusal is not None
        return f"R{self.setting.spec.clauses.index(self.refusal[1].reason) + 1}"

    def _has_ended(self, figure: Figure) -> bool:
        """Whether a record is in a state that nothing leaves, in the world as it stands."""
        ends = self.setting.spec.classes[figure.of].ends
        return self.chains.world.store.row(figure.of, figure.id).get("state") in ends

    def _ask_figure(self, chain: list[Call]) -> tuple[str, Sentence, Tell] | None:
        """Choose a number to be told at the end."""
        self.chains.run(chain)
        figures = self.chains.figures(chain) or self.chains.figures([])
        self.rng.shuffle(figures)
        for figure, _ in figures:
            if self._has_ended(figure):
                continue
            tell = self.speaker.tell(figure)
            if figure.id in self.chains.world.store.base.rows[figure.of]:
                self.chains.run([])
            sentence = self.speaker.figure(figure)
            self.chains.run(chain)
            if tell is not None and sentence is not None:
                ways = list(self.language.asks_figure)
                if chain or self.refusal is not None:
                    ways += self.language.asks_figure_too
                words = self.rng.choice(ways).format(sentence.text)
                if chain:
                    words = self.rng.choice(self.language.last).format(words)
                return f"{words[0].upper()}{words[1:]}{self.language.stop}", sentence, tell
        return None

    # -- the whole -------------------------------------------------------------------------

    def _goal(self, chain: list[Call], tells: tuple[Tell, ...]) -> Goal | None:
        reached = self.chains.outcome(chain)
        if reached is None:
            return None
        if self.refusal is not None:
            reached = replace(reached, refused=(self._rule(),))
        return goal_of(reached, tells)

    def _task(
        self, name: str, sentences: list[str], steps: list[Step], goal: Goal,
        told: tuple[str, Sentence, Tell] | None, chain: list[Call], is_fixed: bool,
    ) -> WorldTask | None:  # fmt: skip
        me = self.speaker.describer.me()
        answer = self._answer(told, is_done=bool(chain) or self.refusal is not None)
        golden = unique_steps([*me.steps, *steps])
        wanted = [s.tool for s in golden if s.tool != REFUSE]
        wanted += [self.refusal[0].tool] if self.refusal is not None else []
        tools = self.maker.graph.grow(wanted, self.rng)
        tags = [
            *["question"] * (told is not None), *["refusal"] * (self.refusal is not None),
            *["computed"] * any(c.computed for c in chain), *["withheld"] * bool(self.withheld),
            *["change"] * bool(self.change), *["said_order"] * is_fixed,
            *["exchange"] * (self._failing_exchanges(chain) > 0),
        ]  # fmt: skip
        opening = self.speaker.opening(sentences, me.text)
        heard = " ".join([opening, self.withheld, self.change])
        if not tells(goal, answer, heard, (v for s in golden for v in s.arguments.values())):
            return None
        return WorldTask(
            id=name, domain=self.setting.spec.name, past=self.past,
            id_digits=self.setting.id_digits, difficulty=self.maker.difficulty,
            language=self.language.code, tags=tuple(tags),
            opening=opening, withheld=self.withheld,
            topics=self.topics, change=self.change, mistaken=self.mistaken,
            person=self.chains.person,
            tools=(*tools, REFUSE), golden=tuple(golden), answer=answer, goal=goal,
            forbidden=() if self.refusal is None else (
                Step(tool=self.refusal[0].tool, arguments=self.refusal[0].arguments),
            ),
            profile={"name": me.text},
        )  # fmt: skip

    def _answer(self, told: tuple[str, Sentence, Tell] | None, *, is_done: bool) -> str:
        """Return what a good agent says at the end."""
        words = self.language
        answer = words.done if is_done else words.looked
        if self.refusal is not None:
            answer += words.refused
        if told is not None:
            value = words.amount(told[2].kind, told[2].value, self.speaker.describer.year)
            answer += words.answer.format(words.yours(told[1].text), value)
        return answer

    def _failing_exchanges(self, chain: list[Call]) -> int:
        """Return how many pairs of writes cannot be exchanged."""
        wanted, failing = self.chains.outcome(chain), 0
        for one, other in combinations(range(len(chain)), 2):
            swapped = list(chain)
            swapped[one], swapped[other] = swapped[other], swapped[one]
            failing += self.chains.outcome(swapped) != wanted
        return failing
