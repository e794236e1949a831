"""What a person says in a talk: one message for each wish, with the steps that it takes.

A wish that needs something else first is said with it: the rule that the person has heard of, and
what is to be done before, or what is done before and then the wish. A record is described as it
stands when the wish is brought up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from longcat_envs._plain import plain
from longcat_envs._told import numbers
from longcat_envs.history import Setting
from longcat_envs.lang import Guard

from ._call import Call, Figure, groups
from ._chain import Chains
from ._figures import figures_of
from ._goal import Tell
from ._say import Sentence, Speaker, Vague
from ._task import Step

_IS_RULE = re.compile(
    r"(?!that |this |the day |one day |the \w+ (?:is|has) no)"
    r"(?!.*\b(?:now|already|yet|today|you|we)\b)"
    r".*\b(?:is|are|has|have|needs?|takes?|gets?|goes|holds?|stays?|runs?|comes?|pays?|cannot|may"
    r"|does|do|stands?|changes|books|opens|orders|borrows|reserves|buys|begins|ends|works?)\b"
)
"""Reasons that are whole sentences, and rules of which one may have heard: `an account is emptied
before it is closed`, not `another number, six at most` or `the order is not due yet`."""

SHARE_REASON = 0.4
"""Of the wishes that need something first, those said with the rule that is in their way."""


@dataclass(frozen=True, slots=True)
class Said:
    """One message of a person, without greeting, and the steps for what it asks."""

    texts: tuple[str, ...]
    steps: tuple[Step, ...]


class Talk:
    """Puts the wishes of one person into messages."""

    def __init__(self, setting: Setting, chains: Chains, speaker: Speaker, rng: Random) -> None:
        self.setting, self.chains, self.speaker, self.rng = setting, chains, speaker, rng
        self.language = speaker.language

    def wishes(
        self, chain: list[Call], vague: tuple[Call, Vague] | None, *, aside: int | None = None
    ) -> list[Said] | None:
        """Say each wish of a chain; `None` if a record has no words.

        Args:
            chain: All that is done.
            vague: A call of which something is left out, and what is said instead.
            aside: Number of the wish that has nothing to do with the others.
        """
        found: list[Said] = []
        for number, (start, end) in enumerate(groups(chain)):
            sentences: list[Sentence] = []
            early: list[Step] = []
            late: list[Step] = []
            for place in range(start, end):
                call = chain[place]
                is_early = self._look_at(call, chain[:start], chain[start:place])
                left_out = vague[1] if vague is not None and vague[0] is call else None
                sentence = self.speaker.wish(call, left_out)
                if sentence is None:
                    return None
                sentences.append(sentence)
                for step in sentence.steps:
                    is_search = is_early and step.tool.startswith("search_")
                    (early if is_search else late).append(step)
            ways = self._ways(number, is_aside=number == aside)
            texts = self._group(sentences, ways, self._reason(chain[:start], chain[end - 1]))
            found.append(Said(tuple(texts), (*early, *late)))
        return found

    def refusal(self, chain: list[Call], wish: Call, number: int | None, last: Step) -> Said | None:
        """Say a wish that must be refused; `last` is how an agent refuses it.

        It is the message of that number; of none if it has nothing to do with the others.
        """
        self.chains.run(chain)
        sentence = self.speaker.wish(wish)
        if sentence is None:
            return None
        text = self.speaker.frame(sentence, self._ways(number or 1, is_aside=number is None))
        return Said((text,), (*sentence.steps[:-1], last))

    def figure(
        self,
        chain: list[Call],
        number: int,
        *,
        is_with_wish: bool,
        is_alone: bool,
        refused: Call | None = None,
    ) -> tuple[Said, Sentence, Tell] | None:
        """Ask for a number that is to be told at the end.

        Args:
            chain: All that is done before.
            number: Number of the message.
            is_with_wish: Whether it is asked in the message of the wish before it.
            is_alone: Whether nothing else is asked for.
            refused: A wish that must be refused; nobody asks after its record as if it were done.
        """
        self.chains.run(chain)
        figures = figures_of(self.chains, chain)
        if not figures and is_with_wish:
            figures = figures_of(self.chains, [])
        self.rng.shuffle(figures)
        known = {str(value) for call in chain for value in call.arguments.values()}
        for figure, _ in figures:
            if self._has_ended(figure):
                continue
            if refused is not None and figure.id in refused.arguments.values():
                continue
            tell = self.speaker.tell(figure)
            if tell is not None and tell.value in known:
                continue  # they have said so themselves
            is_old = figure.id in self.chains.world.store.base.rows[figure.of]
            if is_with_wish and is_old:
                self.chains.run([])
            sentence = self.speaker.figure(figure)
            self.chains.run(chain)
            if tell is None or sentence is None:
                continue
            ways = list(self.language.asks_figure)
            if not is_alone:
                ways += self.language.asks_figure_too
            words = self.rng.choice(ways).format(sentence.text)
            if chain and is_with_wish:
                words = self.rng.choice(self.language.last).format(words)
            elif not is_with_wish:
                words = self.rng.choice(self._ways(number, is_last=True)).format(words)
            text = f"{words[0].upper()}{words[1:]}{self.language.stop}"
            return Said((text,), sentence.steps), sentence, tell
        return None

    def _ways(
        self, number: int, *, is_aside: bool = False, is_last: bool = False
    ) -> tuple[str, ...]:
        """Return how a message may begin."""
        if number == 0:
            return ("{}",)
        if is_aside:
            return self.language.aside
        return self.language.last_wish if is_last else self.language.next

    def _group(self, found: list[Sentence], ways: Sequence[str], reason: str) -> list[str]:
        """Say a wish and what makes it possible, in the order in which it must be done."""
        *helpers, wish = found
        frame, words = self.speaker.frame, self.language
        if not helpers:
            return [frame(wish, ways)]
        if reason and self.rng.random() < SHARE_REASON:
            last = frame(wish, ways)
            reasons = words.reasons if helpers[0].is_order else words.reasons_stated
            first = frame(helpers[0], [way.replace("RULE", reason) for way in reasons])
            return [last, first, *(frame(helper, words.then) for helper in helpers[1:])]
        return [frame(helpers[0], ways), *(frame(one, words.then) for one in (*helpers[1:], wish))]

    def _reason(self, before: list[Call], wish: Call) -> str:
        """Return the rule that forbids a wish as things stand, if people would say it so."""
        _, refused = self.chains.run([*before, wish])
        guard: Guard | None = refused.guard if refused is not None else None
        if guard is None or not self.language.reasons:
            return ""
        is_stray = any(numbers(places=2)(plain(guard.reason)))
        return "" if is_stray or not _IS_RULE.match(guard.reason) else guard.reason

    def _look_at(self, call: Call, before: list[Call], inside: list[Call]) -> bool:
        """Go to where the message is said if all that a call speaks of exists there.

        Else go to just before the call; it speaks of something that its own message brings about.
        """
        tool = self.setting.machine.tools[call.tool]
        ids = [(p.type.of, call.arguments[p.name]) for p in tool.parameters if p.type.kind == "ref"]
        ids += [(figure.of, figure.id) for figure in call.computed.values()]
        self.chains.run(before)
        store = self.chains.world.store
        is_early = all(i is None or store.has(of, i) for of, i in ids)
        if not is_early:
            self.chains.run([*before, *inside])
        return is_early

    def _has_ended(self, figure: Figure) -> bool:
        """Whether a record is in a state that nothing leaves, in the world as it stands."""
        ends = self.setting.spec.classes[figure.of].ends
        return self.chains.world.store.row(figure.of, figure.id).get("state") in ends


def joined(one: Said, other: Said) -> Said:
    """Return two messages as one."""
    return replace(one, texts=(*one.texts, *other.texts), steps=(*one.steps, *other.steps))
