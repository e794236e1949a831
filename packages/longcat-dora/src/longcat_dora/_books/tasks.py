"""Tasks on their way into a run.

In order, by domain, and passed over where they were admitted before.

A continued run is given its tasks again. The log holds the ids that were admitted: if they come in
the same order, as many are passed over; if not, they are passed over by id, and that is said.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from longcat_dora._types import LongcatDoraError, Task

Tasks = Iterable[Task] | Mapping[str, Iterable[Task]]
_END = object()
_NO_TASK = "tasks must hold at least one task, got none"
_MOST_AHEAD = 1000
"""Tasks that are looked at beyond what was admitted, to find those that come in another order."""


@dataclass(slots=True)
class _Stream:
    """One domain's tasks."""

    tasks: Iterator[Task]
    is_empty: bool = True
    """Whether no task of it has come, now or before."""
    ahead: deque[Task] = field(default_factory=deque[Task])
    """Drawn, and not admitted before."""
    missing: Counter[str] = field(default_factory=Counter[str])
    """Ids that were admitted before, and have not come again."""


class TaskFeed:
    """Hands out tasks.

    Args:
        tasks: An iterable of tasks, or by domain: the key is then the domain of its tasks.
        keeps_equal: Groups of equal rewards are trained on, and so groups of one attempt are.
        go_on: To a continued run come others than before, so that none is passed over.

    Raises:
        TypeError: It is neither.
        LongcatDoraError: It is a dictionary of no domain.
    """

    def __init__(self, tasks: Tasks, *, keeps_equal: bool = False, go_on: bool = False) -> None:
        self._keeps_equal, self._go_on = keeps_equal, go_on
        self.by_domain = isinstance(tasks, Mapping)
        given = cast("Mapping[Any, Any]", tasks if isinstance(tasks, Mapping) else {"": tasks})
        if not given:
            raise LongcatDoraError(_NO_TASK)
        for domain in given:
            if not isinstance(domain, str):
                raise TypeError(f"tasks by domain must have keys that are text, got {domain!r}")
        self._streams = {domain: _Stream(_iterator(some)) for domain, some in given.items()}
        self._has_any = False
        """Whether a task has come, now or before."""
        self.notes: list[str] = []
        """What a person should hear of."""

    @property
    def domains(self) -> list[str]:
        """Those that may have tasks left."""
        return list(self._streams)

    def take(self, domain: str) -> Task | None:
        """Return the next task that was not admitted before.

        `None` if there is none, now and ever.

        Raises:
            LongcatDoraError: There was never one.
        """
        stream = self._streams[domain]
        if stream.ahead:
            return stream.ahead.popleft()
        while (task := self._draw(domain)) is not None:
            if not self._is_missing(stream, task):
                return task
            stream.missing[task.id] -= 1
        left = [name for name, num in stream.missing.items() if num > 0]
        if left:
            self.notes.append(
                f"{len(left)} tasks that were admitted before have not come again, {left[0]!r} for"
                " one"
            )
        del self._streams[domain]
        if stream.is_empty and self.by_domain:
            self.notes.append(f"domain {domain!r} holds no task")
        if not self._streams and not self._has_any:
            raise LongcatDoraError(_NO_TASK)
        return None

    def pass_over(self, domain: str, name: str) -> Task | None:
        """A task was admitted before; return it, if it comes again now."""
        self._has_any = True
        domain = domain if self.by_domain else ""
        stream = self._streams.get(domain)
        if stream is None:
            return None
        stream.is_empty = False
        if self._go_on:
            return None
        task = self._draw(domain) if len(stream.ahead) < _MOST_AHEAD else None
        if task is not None and task.id == name:
            return task
        if not stream.missing and not stream.ahead:
            came = "the tasks end here" if task is None else f"{task.id!r} comes"
            self.notes.append(
                f"tasks do not come in the order of before: after {name!r} was admitted, {came};"
                " they are"
                " passed over by id"
            )
        stream.missing[name] += 1
        if task is not None:
            stream.ahead.append(task)
        return self._match(stream)

    def _match(self, stream: _Stream) -> Task | None:
        """Strike out what has come and was missing."""
        found = None
        for task in list(stream.ahead):
            if self._is_missing(stream, task):
                stream.missing[task.id] -= 1
                stream.ahead.remove(task)
                found = task
        stream.missing += Counter()  # drop zeros
        return found

    def _is_missing(self, stream: _Stream, task: Task) -> bool:
        return stream.missing.get(task.id, 0) > 0

    def _draw(self, domain: str) -> Task | None:
        stream = self._streams[domain]
        task = next(stream.tasks, _END)
        if task is _END:
            return None
        if not isinstance(task, Task):
            raise LongcatDoraError(f"tasks must be longcat_dora.Task, got {type(task).__name__}")
        self._has_any, stream.is_empty = True, False
        for name in ("id", "domain"):  # else a resumed run would not know them again
            value: Any = getattr(task, name)
            if not isinstance(value, str):
                raise LongcatDoraError(f"a task's {name} must be text, got {value!r:.80}")
        self._check_attempts(task)
        if not self.by_domain or task.domain == domain:
            return task
        if task.domain:
            raise LongcatDoraError(
                f"tasks of domain {domain!r} must have that domain or none, {task.id!r} has"
                f" {task.domain!r}"
            )
        return replace(task, domain=domain)

    def _check_attempts(self, task: Task) -> None:
        attempts: Any = task.attempts
        is_whole = isinstance(attempts, int) and not isinstance(attempts, bool)
        if attempts is not None and not (is_whole and attempts >= 1):
            raise LongcatDoraError(
                f"a task's attempts must be a whole number from 1, or None, got {attempts!r:.80}"
            )
        if attempts == 1 and not self._keeps_equal:
            raise LongcatDoraError(
                f"a task's attempts must be 2 or more, or keep_equal_rewards set: {task.id!r} has 1"
            )


def _iterator(tasks: Any) -> Iterator[Task]:
    if isinstance(tasks, (str, bytes, Task)) or not isinstance(tasks, Iterable):
        raise TypeError(
            "tasks must be an iterable of longcat_dora.Task, or a dictionary of such by domain, got"
            " "
            f"{type(tasks).__name__}"
        )
    return iter(cast("Iterable[Task]", tasks))


def encode_task(task: Task) -> bytes | None:
    """Return a task as JSON, from which it can be read as it was.

    `None` if it is not plain data.
    """
    try:
        if not _is_plain(task.payload):
            return None
        fields = [task.id, task.payload, task.domain]
        if task.attempts is not None:
            fields.append(task.attempts)
        return json.dumps(fields, separators=(",", ":")).encode()
    except RecursionError:  # nested too deeply to be kept
        return None


def decode_task(data: bytes) -> Task:
    """Read what `encode_task` wrote.

    Raises:
        ValueError: It is something else.
    """
    return Task(*json.loads(data))


def _is_plain(value: Any) -> bool:
    """Whether JSON gives a value back as it was."""
    # Exactly these types: what is derived from them comes back as another one.
    if type(value) in (str, int, float, bool, type(None)):
        return True
    if type(value) is list:
        return all(map(_is_plain, cast("list[Any]", value)))
    if type(value) is not dict:
        return False
    items = cast("dict[Any, Any]", value).items()
    return all(type(key) is str and _is_plain(part) for key, part in items)
