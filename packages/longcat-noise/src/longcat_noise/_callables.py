"""Put noise around functions and objects with tools, synchronous or not.

A failure is raised as `NoisyFailure`, or returned where the tool's dialect is a returned error. A
result that is not text is disturbed in its JSON form and returned as the value of that form.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

from ._apply import Applier, NoisyResult
from ._contract import Book
from ._draw import canonical
from ._kind import compact
from ._noise import Disturbance, EpisodeNoise, NoiseConfig

OnFailure = Literal["raise", "return"]


class NoisyFailureError(RuntimeError):
    """A tool failed because noise made it fail; the words are the tool's own dialect."""


class NoisyTools:
    """An object with tools, or a dictionary of functions, in noise.

    Args:
        tools: A dictionary of functions, or any object whose public methods are tools.
        config: How much noise.
        episode: Names the episode.
        contracts: What the tools read and write.
        on_failure: Whether a failure is raised (`NoisyFailureError`) or returned as text.

    Example:
        >>> tools = NoisyTools({"add": lambda a, b: a + b}, NoiseConfig(level=0), episode="e")
        >>> tools.add(1, b=2)
        3
    """

    def __init__(
        self,
        tools: Any,
        config: NoiseConfig,
        *,
        episode: str,
        contracts: Book | Iterable[Any] = (),
        on_failure: OnFailure = "raise",
    ) -> None:
        book = contracts if isinstance(contracts, Book) else Book.of(contracts)
        self._tools = tools
        self._on_failure: OnFailure = on_failure
        self._applier = Applier(EpisodeNoise(config, episode, book=book))
        self._made: dict[str, Callable[..., Any]] = {}

    @property
    def log(self) -> list[dict[str, Any]]:
        """What was disturbed."""
        return self._applier.log

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Any:
        made = self._made.get(name)
        if made is None:
            tools: Any = self._tools
            is_dict = isinstance(tools, dict)
            tool: Any = cast("Any", tools)[name] if is_dict else getattr(tools, name)
            if not callable(tool):
                return tool
            made = self._made[name] = _wrapped(tool, name, self._applier, self._on_failure)
        return made


def noisy_function(
    function: Callable[..., Any],
    config: NoiseConfig,
    *,
    episode: str,
    contracts: Book | Iterable[Any] = (),
    on_failure: OnFailure = "raise",
) -> Any:
    """Return a function in noise, asynchronous if it is.

    Example:
        >>> noisy_function(len, NoiseConfig(level=0), episode="e")("four")
        4
    """
    name = getattr(function, "__name__", type(function).__name__)
    tools = NoisyTools({name: function}, config, episode=episode, contracts=contracts,
                       on_failure=on_failure)  # fmt: skip
    return tools[name]


class _Noisy:
    """What happens before and after one function."""

    def __init__(
        self, function: Callable[..., Any], name: str, applier: Applier, on_failure: OnFailure
    ) -> None:
        self._names = _parameter_names(function)
        self._name, self._applier, self._raises = name, applier, on_failure == "raise"
        self._keeps = applier.keeps_answers
        self.meet = applier.noise.meet

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return all arguments by name, where they have one."""
        named = dict(zip(self._names, args, strict=False))
        rest = {str(at): args[at] for at in range(len(named), len(args))}
        return {**named, **rest, **kwargs}

    def instead(self, met: Disturbance) -> Any:
        """Return or raise what comes in place of a call."""
        seen = self._applier.instead(met, self._name)
        assert seen is not None
        return self.seen(seen, "")

    def after(self, met: Disturbance | None, arguments: object, result: Any) -> Any:
        """Return what is seen of a result."""
        if met is None:
            if self._keeps:
                self._applier.keep((self._name, canonical(arguments)), _content(result))
            return result
        changed = self._applier.after(met, self._name, _content(result))
        return result if changed is None else self.seen(changed, result)

    def seen(self, result: NoisyResult, old: Any) -> Any:
        """Return or raise a disturbed result, in the form that the function's own has."""
        if result.is_error and self._raises:
            raise NoisyFailureError(result.content)
        return result.content if isinstance(old, str) or result.is_error else _value(result, old)


def _wrapped(
    function: Callable[..., Any], name: str, applier: Applier, on_failure: OnFailure
) -> Callable[..., Any]:
    noisy = _Noisy(function, name, applier, on_failure)

    meet = noisy.meet

    @functools.wraps(function)
    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        arguments = noisy.arguments(args, kwargs) if args else kwargs
        met = meet(name, arguments)
        if met is not None and met.kind.is_before:
            return noisy.instead(met)
        return noisy.after(met, arguments, await function(*args, **kwargs))

    @functools.wraps(function)
    def synchronous(*args: Any, **kwargs: Any) -> Any:
        arguments = noisy.arguments(args, kwargs) if args else kwargs
        met = meet(name, arguments)
        if met is not None and met.kind.is_before:
            return noisy.instead(met)
        return noisy.after(met, arguments, function(*args, **kwargs))

    return asynchronous if inspect.iscoroutinefunction(function) else synchronous


def _parameter_names(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have none
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds]


def _content(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        return compact(result)
    except (TypeError, ValueError):
        return str(result)


def _value(result: NoisyResult, old: Any) -> Any:
    """Return the value of a disturbed answer; text where it is no longer JSON."""
    if result.content == _content(old):
        return old
    try:
        return json.loads(result.content)
    except ValueError:
        return result.content
