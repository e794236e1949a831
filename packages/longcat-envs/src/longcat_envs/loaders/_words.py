"""What golden calls say against what their task says: values from nowhere and the like.

Judged without a model, so only what is plain is a fault: a name, an id, a date or an enumerated
word that nobody said, no golden call has yielded, and no record that the texts lead to holds.
Numbers may be computed and longer texts written freely: they are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from longcat_envs._database import ToolError
from longcat_envs.tasks import Step

from ._types import ForeignSet, ForeignTask, Schema, Session, TwoSided, inner, leaves

MAX_WORDS = 4
"""Words of a value that is looked for; longer ones are free text."""

_AMOUNT = re.compile(r"[-+$€£]?\d[\d.,]* [^\W\d]+")
"""A number with its unit, such as `1020 points`: it may be computed."""
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_ID = re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z_])[A-Za-z]\w{5,}\b|#\w{4,}")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def contradictions(source: ForeignSet, task: ForeignTask) -> list[str]:
    """Return what is wrong with a task's golden calls, by what they and the texts say."""
    found: list[str] = []
    texts = [task.system, _schema_words((*task.tools, *task.acts))]
    session = source.begin(task)
    offered = {schema["function"]["name"] for schema in task.tools}
    for turn, steps in enumerate(task.golden):
        texts += task.turns[turn : turn + 1]
        new = [schema for at, schema in task.later if at == turn]
        offered |= {schema["function"]["name"] for schema in new}
        texts.append(_schema_words(new))
        for step in steps:
            if step.tool not in offered:
                found.append(f"a tool that is not offered: {step.tool}")
            found += _step_faults(source, task, step, texts, turn)
            texts.append(_run(session, step))
        session.end_turn()
        found += _acts(source, task, session, texts, turn)
    return list(dict.fromkeys([*found, *_unknown_names(source, task, texts)]))


def _acts(
    source: ForeignSet, task: ForeignTask, session: Session, texts: list[str], turn: int
) -> Iterator[str]:
    """Run what the person is asked for in a turn; say what is wrong with it."""
    if not isinstance(session, TwoSided):
        return
    own = {schema["function"]["name"] for schema in task.acts}
    for step in task.asked[turn]:
        if step.tool not in own:
            yield f"a tool that is not offered: {step.tool}"
        yield from _step_faults(source, task, step, texts, turn)
        texts.append(session.act(step.tool, step.arguments))


def _run(session: Session, step: Step) -> str:
    try:
        return session.call(step.tool, step.arguments)[0]
    except ToolError as error:
        return str(error)


def _step_faults(
    source: ForeignSet, task: ForeignTask, step: Step, texts: Sequence[str], turn: int
) -> Iterator[str]:
    said = "\n".join(task.turns[: turn + 1]).casefold()
    text = "\n".join(texts).casefold()
    step = inner(step)
    known: set[str] | None = None
    for value in leaves(step.arguments):
        if not isinstance(value, str) or len(value.split()) > MAX_WORDS:
            continue
        if _AMOUNT.fullmatch(value) or not re.search(r"\w", value) or _is_said(value, text):
            continue
        known = source.known(task, texts) if known is None else known
        if value.casefold() not in known and not _is_said(value, source.library):
            yield f"a value from nowhere: {step.tool} {value!r}"
    for one in _objects(step.arguments):
        if not _fits(source.records(task, texts), one, said):
            yield f"no record holds this together: {step.tool} {one}"
    if _same_lists(step.arguments):
        yield f"a thing is replaced by itself: {step.tool}"


def _is_said(value: str, text: str) -> bool:
    """Whether a value, or each of its words, stands in a text in lower case."""
    low = value.casefold().strip()
    if low in text:
        return True
    date = _DATE.fullmatch(low)
    if date is not None:
        day, number = int(date[3]), int(date[2])
        month = _MONTHS[number - 1] if 1 <= number <= 12 else "-"
        forms = (
            rf"\b{month}\w*\.?\s+(?:the\s+)?0?{day}(?:st|nd|rd|th)?\b",
            rf"\b0?{day}(?:st|nd|rd|th)?\s+(?:of\s+)?{month}",
            rf"\b0?{number}/0?{day}\b",
        )
        return any(re.search(form, text) for form in forms)
    words = re.findall(r"\w+", low)
    return bool(words) and all(re.search(rf"\b{re.escape(w)}\b", text) for w in words)


def _objects(value: Any) -> Iterator[dict[str, str]]:
    """Yield what is described by several texts together, such as a passenger."""
    if isinstance(value, list | tuple):
        for one in cast("list[Any]", value):
            if isinstance(one, dict):
                whole = cast("dict[str, Any]", one)
                if len(whole) > 1 and all(isinstance(v, str) for v in whole.values()):
                    yield cast("dict[str, str]", whole)
    elif isinstance(value, dict):
        for one in cast("dict[str, Any]", value).values():
            yield from _objects(one)


def _fits(records: list[dict[str, Any]], one: dict[str, str], said: str) -> bool:
    """Whether the person or a record gives these values together; yes if no record has the form."""
    if all(value.casefold() in said for value in one.values()):
        return True
    flat = [one for record in records for one in _flat(record)]
    if not any(other.keys() == one.keys() for other in flat):
        return True
    return any(all(other.get(key) == value for key, value in one.items()) for other in flat)


def _flat(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every dictionary in a record, also with one that lies right under it."""
    if isinstance(value, dict):
        whole = cast("dict[str, Any]", value)
        plain = {key: one for key, one in whole.items() if not isinstance(one, dict | list)}
        yield plain
        for one in whole.values():
            if isinstance(one, dict):
                yield {**plain, **cast("dict[str, Any]", one)}
        for one in whole.values():
            yield from _flat(one)
    elif isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from _flat(one)


def _same_lists(arguments: dict[str, Any]) -> bool:
    """Whether a list of things is to be replaced by one that shares an entry at its place."""
    for name, value in arguments.items():
        other = arguments.get(f"new_{name}")
        if isinstance(value, list) and isinstance(other, list):
            pairs = zip(cast("list[Any]", value), cast("list[Any]", other), strict=False)
            if any(one == two for one, two in pairs):
                return True
    return False


def _unknown_names(source: ForeignSet, task: ForeignTask, texts: Sequence[str]) -> list[str]:
    """Return ids in the words about a right run that nothing in the task or its world bears."""
    named = {name for hint in task.hints for name in _ID.findall(hint)}
    if not named:
        return []
    known = source.known(task, [*texts, *task.hints])
    steps = [step for turn in task.golden for step in turn]
    used = {str(leaf).casefold() for step in steps for leaf in leaves(step.arguments)}
    text = "\n".join(texts).casefold()
    return [f"an id that does not exist: {name!r}" for name in sorted(named)
            if name.casefold() not in known | used and name.casefold() not in text]  # fmt: skip


def _schema_words(schemas: Sequence[Schema]) -> str:
    """Return the words of descriptions and enumerations."""
    return "\n".join(str(leaf) for schema in schemas for leaf in leaves(schema["function"]))
