"""A table of records over one that others share: what is looked up by key is copied first."""

from __future__ import annotations

import copy
from collections.abc import ItemsView, Iterator, MutableMapping, ValuesView
from typing import Any


class Overlay(MutableMapping[str, Any]):
    """Records by key; the shared ones are never handed out by key, so none of them changes.

    Looking through all records (`values`, `items`) hands out the shared ones: it would cost a copy
    of the whole table. A tool that changed what it found in this way would be noticed by
    `ForeignSet.intact`.
    """

    def __init__(self, base: dict[str, Any]) -> None:
        self._base = base
        self._own: dict[str, Any] = {}
        self._gone: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        if key not in self._own:
            if key in self._gone:
                raise KeyError(key)
            self._own[key] = copy.deepcopy(self._base[key])
        return self._own[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._own[key] = value
        self._gone.discard(key)

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._own.pop(key, None)
        if key in self._base:
            self._gone.add(key)

    def __contains__(self, key: object) -> bool:
        return key in self._own or (key in self._base and key not in self._gone)

    def __iter__(self) -> Iterator[str]:
        yield from (key for key in self._base if key not in self._gone)
        yield from (key for key in self._own if key not in self._base)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def look(self, key: str) -> Any:
        """Return a record that will not be changed by who looks."""
        return self._own[key] if key in self._own else self._base[key]

    def values(self) -> ValuesView[Any]:
        """Look through all records, shared ones too."""
        return {key: self.look(key) for key in self}.values()

    def items(self) -> ItemsView[str, Any]:
        """Look through all keys and records, shared ones too."""
        return {key: self.look(key) for key in self}.items()

    def difference(self) -> dict[str, Any]:
        """Return what differs from the shared table: plain records, `None` for one that is gone."""
        found: dict[str, Any] = dict.fromkeys(sorted(self._gone))
        for key, record in self._own.items():
            now = plain(record)
            if key not in self._base or now != plain(self._base[key]):
                found[key] = now
        return found


def plain(record: Any) -> Any:
    """Return a copy of a record as dictionaries and lists."""
    return record.model_dump() if hasattr(record, "model_dump") else copy.deepcopy(record)
