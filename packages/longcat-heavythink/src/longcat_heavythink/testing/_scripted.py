"""A model that says what it is told to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from longcat_heavythink._models import Complete
from longcat_heavythink._replies import Message, Reply


def scripted(
    answers: Iterable[str | Reply | BaseException],
    log: list[tuple[list[Message], float]] | None = None,
) -> Complete:
    """Return a function for `think` that gives the answers one after the other.

    Args:
        answers: Texts, replies, or what is to be raised.
        log: Gets the messages and the temperature of each call.
    """
    left = iter(answers)

    async def complete(messages: list[Message], temperature: float) -> Any:
        if log is not None:
            log.append((messages, temperature))
        answer = next(left)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return complete
