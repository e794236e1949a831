"""Scorers for best of N: a model as judge, or a reward model behind an endpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import aiohttp

from ._models import Model
from ._prompts import ENGLISH, Prompts, quoted
from ._replies import Call, Message, Reply

_MARK = re.compile(r"(?im)\bmark\b\W{0,6}(\d{1,3}(?:\.\d+)?)")
_REDUCE: dict[str, Callable[[list[float]], float]] = {
    "last": lambda values: values[-1],
    "min": min,
    "mean": lambda values: sum(values) / len(values),
    "product": math.prod,
}


class Judge:
    """Ask a model for a mark from 0 to 10."""

    def __init__(self, model: Model, *, prompts: Prompts = ENGLISH) -> None:
        self._model, self._prompts = model, prompts

    async def __call__(self, messages: Sequence[Message], reply: Reply) -> float:
        """Return the mark.

        Raises:
            RuntimeError: The judge failed, or gave no mark.
        """
        prompt = quoted(
            messages, [reply.text], instruction=self._prompts.judge, prompts=self._prompts
        )
        said = await self._model.reply(Call(messages=prompt, temperature=0.0))
        if said.failure is not None:
            raise RuntimeError(said.failure.message)
        found = _MARK.findall(said.text)
        if not found or not 0 <= float(found[-1]) <= 10:
            raise RuntimeError(f"the judge must end with a mark from 0 to 10: {said.text[-80:]!r}")
        return float(found[-1])


class RewardEndpoint:
    """Ask a reward model served over HTTP, such as vLLM's `/pooling` or `/classify`.

    One number is an outcome reward; a list of numbers, one for each step, is a process reward.

    Args:
        url: Whole address.
        model: Its name.
        reduce: Of step rewards: `last`, `min`, `mean` or `product`.
        timeout_s: Of one score.
    """

    def __init__(
        self, url: str, *, model: str, reduce: str = "last", timeout_s: float = 60.0
    ) -> None:
        if reduce not in _REDUCE:
            raise ValueError(f"reduce must be one of {', '.join(_REDUCE)}, got {reduce!r}")
        self._url, self._model, self._reduce = url, model, _REDUCE[reduce]
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def __call__(self, messages: Sequence[Message], reply: Reply) -> float:
        """Return the reward.

        Raises:
            RuntimeError: The endpoint answers with an error or without a number.
        """
        body = {"model": self._model, "messages": [*messages, reply.to_message()]}
        async with (
            aiohttp.ClientSession(timeout=self._timeout) as session,
            session.post(self._url, json=body) as response,
        ):
            text = await response.text()
            if response.status != 200:
                raise RuntimeError(f"{self._url} answered {response.status}: {text[:300]}")
            data: Any = await response.json(content_type=None)
        values = _numbers(data)
        if not values:
            raise RuntimeError(f"{self._url} must answer with rewards, got: {text[:300]}")
        return self._reduce(values)


def _numbers(data: Any) -> list[float]:
    """Return the rewards in an answer: `data[0].data`, `.probs`, `.score`, or bare numbers."""
    if isinstance(data, bool):
        return []
    if isinstance(data, int | float):
        return [float(data)]
    if isinstance(data, list):
        items = cast("list[Any]", data)
        if items and isinstance(items[0], dict):
            return _numbers(items[0])
        return [value for item in items for value in _numbers(item)[-1:]]
    if isinstance(data, dict):
        fields = cast("dict[str, Any]", data)
        for name in ("rewards", "reward", "score", "probs", "data"):
            if name in fields:
                return _numbers(fields[name])
    return []
