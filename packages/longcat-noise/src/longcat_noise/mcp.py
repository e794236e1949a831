"""Put noise around a client's session with an MCP server: `pip install longcat-noise[mcp]`.

    session = NoisySession(session, NoiseConfig(level=0.3), episode="one")
    await session.call_tool("get_booking", {"booking_id": "B17"})

Everything but `call_tool` is the session's own. Read-only and idempotent hints of `list_tools` are
contracts without fields: `contracts_of` reads them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any, cast

from ._apply import Applier, NoisyResult
from ._contract import Book
from ._draw import canonical
from ._noise import EpisodeNoise, NoiseConfig


class NoisySession:
    """A session whose tools are imperfect.

    Args:
        session: Anything with `async call_tool(name, arguments)`.
        config: How much noise.
        episode: Names the episode.
        contracts: What the tools read and write.

    Raises:
        ImportError: The package `mcp` is not installed.
    """

    def __init__(
        self,
        session: Any,
        config: NoiseConfig,
        *,
        episode: str,
        contracts: Book | Iterable[Any] = (),
    ) -> None:
        _types()
        book = contracts if isinstance(contracts, Book) else Book.of(contracts)
        self._session = session
        self._applier = Applier(EpisodeNoise(config, episode, book=book))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What was disturbed."""
        return self._applier.log

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Call a tool, or not."""
        applier = self._applier
        met = applier.meet(name, arguments or {})
        instead = applier.instead(met, name) if met is not None else None
        if instead is not None:
            return _answer(instead)
        result = await self._session.call_tool(name, arguments, *args, **kwargs)
        text = _text(result)
        if text is None or _is_error(result):
            return result
        if met is None:
            if applier.keeps_answers:
                applier.keep((name, canonical(arguments or {})), text)
            return result
        seen = applier.after(met, name, text)
        return result if seen is None else _answer(seen)


def contracts_of(tools: Iterable[Any]) -> list[dict[str, Any]]:
    """Return contracts by the hints of listed tools; a tool without hints stays undeclared.

    A hint says whether a tool reads or writes, not what, so that no write is taken for detectable.
    """
    found: list[dict[str, Any]] = []
    for tool in tools:
        hints: Any = getattr(tool, "annotations", None)
        is_reader = _either(hints, "read_only_hint", "readOnlyHint")
        is_idempotent = _either(hints, "idempotent_hint", "idempotentHint")
        if is_reader:
            found.append({"name": tool.name, "reads": []})
        elif is_reader is False:
            found.append({"name": tool.name, "kind": "write", "idempotent": bool(is_idempotent)})
    return found


def _either(value: Any, *names: str) -> Any:
    found = (getattr(value, name, None) for name in names)
    return next((item for item in found if item is not None), None)


def _types() -> Any:
    try:
        return importlib.import_module("mcp.types")
    except ImportError as error:
        raise ImportError("noise on MCP sessions needs: pip install longcat-noise[mcp]") from error


def _text(result: Any) -> str | None:
    """Return the text of an answer that is one text."""
    content: Any = getattr(result, "content", None)
    parts = cast("list[Any]", content) if isinstance(content, list) else []
    text: Any = getattr(parts[0], "text", None) if len(parts) == 1 else None
    return text if isinstance(text, str) else None


def _is_error(result: Any) -> bool:
    return bool(_either(result, "is_error", "isError"))


def _answer(seen: NoisyResult) -> Any:
    types = _types()
    raw = {"content": [{"type": "text", "text": seen.content}], "isError": seen.is_error}
    return types.CallToolResult.model_validate(raw)
