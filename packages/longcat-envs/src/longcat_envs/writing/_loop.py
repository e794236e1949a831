"""A model writes a domain: describe, write, check, repair, reject.

Takes a description; the model's answer is checked as any domain is (`_problems.py`), and what is
wrong goes back to it, at most `max_rounds` times. What never passes is rejected. Source: report
3.1.1, where 95% of the written domains passed in the end; without a live model only the loop's
mechanics can be shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from inspect import getdoc
from typing import Any

from longcat_envs._protocol import Message
from longcat_envs.checks import Damage
from longcat_envs.world.parts import PARTS

from ._problems import Bar, problems

Ask = Callable[[list[Message]], Message]
"""From messages to the model's answer, such as `Endpoint.ask`."""

_BLOCK = re.compile(r"```[ \t]*(world|words)[^\n]*\n(.*?)```", re.DOTALL)

_PROMPT = """Write a domain for tool-using agents, in a small language with the syntax of Python. \
Nothing in it is executed. Answer with two blocks, whole each time:

```world
(classes, rules, readers)
```

```words
(title, numbers, values, nouns, ways of asking)
```

It must have at least {min_tools} tools, of which at most {max_reader_share:.0%} are readers, and \
use at least {min_parts} parts. A class gives get_x, search_x, create_x and set_x_field; each \
transition and each `def` in a class is a tool.

Parts, written in a class:
{parts}

An example of the first block:

```world
{world}```

and of the second:

```words
{words}```

The domain to write: {description}"""


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote in the end."""

    name: str
    text: str
    words: str
    rounds: int
    """Answers of the model."""
    problems: tuple[str, ...]
    """What was still wrong; empty if the domain passes."""

    @property
    def is_accepted(self) -> bool:
        """Whether the domain passes."""
        return not self.problems


def write_domain(
    ask: Ask, name: str, description: str, *, bar: Bar | None = None, max_rounds: int = 6
) -> Written:
    """Let a model write a domain, and mend it until it passes or the rounds are over."""
    bar = bar or Bar()
    folder = resources.files("longcat_envs") / "domains"
    prompt = _PROMPT.format(
        min_tools=bar.min_tools, max_reader_share=bar.max_reader_share, min_parts=bar.min_parts,
        parts="\n\n".join(f"{part}: {getdoc(text) or ''}" for part, text in PARTS.items()),
        world=(folder / "template.world.txt").read_text("utf-8"),
        words=(folder / "template.words.en.txt").read_text("utf-8"), description=description,
    )  # fmt: skip
    return _mend(ask, name, [{"role": "user", "content": prompt}], bar, max_rounds)


def repair_domain(
    ask: Ask, name: str, text: str, words: str, *, bar: Bar | None = None, max_rounds: int = 3
) -> Written:
    """Let a model mend a domain in which something is wrong; one that passes is returned as is."""
    bar = bar or Bar()
    found = problems(name, text, words, bar)
    if not found:
        return Written(name, text, words, 0, ())
    told = f"```world\n{text}```\n\n```words\n{words}```"
    messages: list[Message] = [{"role": "user", "content": _complaint(found) + "\n\n" + told}]
    return _mend(ask, name, messages, bar, max_rounds)


def _mend(ask: Ask, name: str, messages: list[Message], bar: Bar, max_rounds: int) -> Written:
    if max_rounds < 1:
        raise ValueError(f"max_rounds must be at least 1, got {max_rounds}")
    text = words = ""
    found: list[str] = []
    for _ in range(max_rounds):
        answer = str(ask(messages)["content"])
        blocks = dict(_BLOCK.findall(answer))
        text, words = blocks.get("world", text), blocks.get("words", words)
        if text and words:
            found = problems(name, text, words, bar)
        else:
            found = ["an answer holds two blocks, ```world and ```words"]
        if not found:
            break
        messages = [*messages, {"role": "assistant", "content": answer},
                    {"role": "user", "content": _complaint(found)}]  # fmt: skip
    rounds = (len(messages) - 1) // 2 + (not found)
    return Written(name, text, words, rounds, tuple(found))


def _complaint(found: Sequence[str]) -> str:
    lines = "\n".join(f"- {line}" for line in found)
    return f"This is wrong; mend it and answer with the two blocks, whole:\n{lines}"


def repair_figures(
    ask: Ask, name: str, words: str, damages: Sequence[Damage], *, bar: Bar, max_rounds: int = 3
) -> dict[str, Any]:
    """Let a model repair damaged texts; return how many the checks notice, and how many it mends.

    The checks do not know the sound text: a damage that leaves a domain sound in itself passes.
    """
    counts: Counter[str] = Counter()
    for damage in damages:
        found = repair_domain(ask, name, damage.text, words, bar=bar, max_rounds=max_rounds)
        counts["noticed"] += found.rounds > 0
        counts["repaired"] += found.rounds > 0 and found.is_accepted
        counts["rejected"] += not found.is_accepted
    rate = counts["repaired"] / counts["noticed"] if counts["noticed"] else None
    return {"damages": len(damages), **{k: counts[k] for k in ("noticed", "repaired", "rejected")},
            "repair_rate": rate}  # fmt: skip
