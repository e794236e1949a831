"""Rows of one world: a shared base that never changes, and an overlay per episode.

- No record is ever deleted: what ends goes into a state that nothing leaves.
- A transaction journals what it changed; undoing it restores rows and indexes exactly.
- Reset drops the overlay: nothing of an episode survives it.
- Ids depend on the class and on how many records it has, so the same calls give the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from longcat_envs.lang import Spec

Row = dict[str, Any]
Index = dict[tuple[str, str], dict[Any, tuple[str, ...]]]
ID_DIGITS = 5
"""Digits of the id of a record."""
_STEP = 38_561
"""From one number of an id to the next; it shares no divisor with 9 x 10^n, so none comes twice."""
INDEXED = ("ref", "text", "enum", "state", "int", "date")


@dataclass(frozen=True, slots=True)
class Base:
    """The rows that all episodes of an environment start from."""

    today: int
    rows: Mapping[str, Mapping[str, Row]]
    order: Mapping[str, tuple[str, ...]]
    """Ids of each class, oldest first."""
    index: Index
    id_digits: int = ID_DIGITS
    """Digits of an id, while there are numbers of so many."""

    @property
    def num_rows(self) -> int:
        """Records of all classes."""
        return sum(len(ids) for ids in self.order.values())


def empty_base(spec: Spec, today: int, id_digits: int = ID_DIGITS) -> Base:
    """Return a world without records."""
    rows: dict[str, dict[str, Row]] = {c: {} for c in spec.classes}
    return Base(today, rows, dict.fromkeys(spec.classes, ()), {}, id_digits)


def indexed_fields(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Return the fields of each class by which records are found without looking at all."""
    found: dict[str, tuple[str, ...]] = {}
    for name, one in spec.classes.items():
        fields = [f.name for f in one.fields.values() if f.type.kind in INDEXED]
        found[name] = (*fields, *(["state"] if one.states else []))
    return found


def prefixes(spec: Spec) -> dict[str, str]:
    """Return what the ids of each class begin with: its consonants, distinct in the domain."""
    taken: dict[str, str] = {}
    for name in spec.classes:
        letters = name.replace("_", "").upper()
        options = [letters[:1] + "".join(c for c in letters[1:] if c not in "AEIOU")]
        for size in range(1, 7):
            options += [options[0][:size]] if size >= 2 else []
            options += [letters[:size]] if size >= 2 else []
        short = [o for o in options[1:] if o not in taken.values()]
        taken[name] = short[0] if short else "X" + _letters(len(taken))
    return taken


def _letters(number: int) -> str:
    return "".join(chr(65 + int(digit)) for digit in str(number))


@dataclass(frozen=True, slots=True)
class Change:
    """One row before and after a write; `before` is `None` for a new record."""

    of: str
    id: str
    before: Row | None
    after: Row


class Store:
    """A world that can be changed: a base and an overlay."""

    def __init__(self, spec: Spec, base: Base) -> None:
        self.spec, self.base = spec, base
        self._base_rows = base.rows
        self._indexed = indexed_fields(spec)
        self._prefixes = prefixes(spec)
        self.today = base.today
        self.reset()

    def reset(self) -> None:
        """Return to the base."""
        self.today = self.base.today
        self._rows: dict[str, dict[str, Row]] = {of: {} for of in self.base.rows}
        self._new: dict[str, list[str]] = {}
        self._index: Index = {}
        self._journal: list[Change] | None = None

    # -- reading -------------------------------------------------------------------------

    def row(self, of: str, identifier: str) -> Row:
        """Return one record; `KeyError` if there is none."""
        changed = self._rows[of].get(identifier)
        return changed if changed is not None else self._base_rows[of][identifier]

    def has(self, of: str, identifier: str) -> bool:
        """Whether there is such a record."""
        return identifier in self._base_rows[of] or identifier in self._rows[of]

    def ids(self, of: str) -> list[str]:
        """Return every id of a class, oldest first."""
        return [*self.base.order[of], *self._new.get(of, ())]

    def by(self, of: str, name: str, value: Any) -> tuple[str, ...]:
        """Return the ids of the records whose indexed field has this value, oldest change last."""
        key = (of, name)
        changed = self._index.get(key)
        if changed is not None and value in changed:
            return changed[value]
        return self.base.index.get(key, {}).get(value, ())

    def in_states(self, of: str, ids: Iterable[str], states: Collection[str]) -> list[str]:
        """Return those of the records that are in one of the states."""
        changed, base = self._rows[of], self._base_rows[of]
        return [i for i in ids if (changed.get(i) or base[i])["state"] in states]

    # -- writing -------------------------------------------------------------------------

    def write(self, of: str, identifier: str, name: str, value: Any) -> None:
        """Change one field, inside a transaction."""
        assert self._journal is not None, "a write needs a transaction"
        before = self.row(of, identifier)
        old = before[name]
        if old == value:
            return
        after = {**before, name: value}
        self._journal.append(Change(of, identifier, before, after))
        self._rows[of][identifier] = after
        if name in self._indexed[of]:  # the only field that has changed
            self._reindex(of, name, identifier, old, value)

    def insert(self, of: str, row: Row) -> str:
        """Add a record, inside a transaction; return its id."""
        assert self._journal is not None, "a write needs a transaction"
        identifier = self._fresh_id(of)
        self._journal.append(Change(of, identifier, None, row))
        self._apply(of, identifier, None, row)
        return identifier

    def _apply(self, of: str, identifier: str, before: Row | None, after: Row | None) -> None:
        """Put `after` in the place of `before`; `None` means that there is no such record."""
        if after is None:
            del self._rows[of][identifier]
            self._new[of].remove(identifier)
        else:
            self._rows[of][identifier] = after
            if before is None:
                self._new.setdefault(of, []).append(identifier)
        for name in self._indexed[of]:
            old = before[name] if before is not None else _MISSING
            new = after[name] if after is not None else _MISSING
            if old != new or type(old) is not type(new):
                self._reindex(of, name, identifier, old, new)

    def _reindex(self, of: str, name: str, identifier: str, old: Any, new: Any) -> None:
        index = self._index.setdefault((of, name), {})
        if old is not _MISSING:
            ids = self.by(of, name, old)
            place = ids.index(identifier)
            index[old] = ids[:place] + ids[place + 1 :]
        if new is not _MISSING:
            index[new] = (*self.by(of, name, new), identifier)

    def _fresh_id(self, of: str) -> str:
        """Spread over all numbers of so many digits, so that the next cannot be told from the last.

        A class that has used them up goes on with one digit more.
        """
        number = len(self.base.order[of]) + len(self._new.get(of, ()))
        first = 10 ** (self.base.id_digits - 1)
        while number >= 9 * first:
            number, first = number - 9 * first, 10 * first
        salt = int.from_bytes(hashlib.blake2b(of.encode(), digest_size=4).digest(), "big")
        return f"{self._prefixes[of]}{first + (number * _STEP + salt) % (9 * first)}"

    # -- transactions --------------------------------------------------------------------

    def begin(self) -> None:
        """Start a transaction."""
        assert self._journal is None, "one transaction at a time"
        self._journal = []

    def commit(self) -> list[Change]:
        """End a transaction; return what it changed, in order."""
        journal, self._journal = self._journal, None
        assert journal is not None
        return journal

    @property
    def journal(self) -> list[Change]:
        """What the transaction under way has changed so far."""
        return self._journal or []

    def rollback(self) -> None:
        """Undo the transaction under way."""
        for change in reversed(self.commit()):
            self._apply(change.of, change.id, change.after, change.before)

    def undo(self, changes: list[Change]) -> None:
        """Undo the last transaction committed."""
        for change in reversed(changes):
            self._apply(change.of, change.id, change.after, change.before)

    def freeze(self) -> Base:
        """Return the present state as a base."""
        order = {of: tuple(self.ids(of)) for of in self.spec.classes}
        rows = {of: {i: dict(self.row(of, i)) for i in ids} for of, ids in order.items()}
        index: Index = {}
        for of, names in self._indexed.items():
            for name in names:
                found: dict[Any, list[str]] = {}
                for identifier in order[of]:
                    found.setdefault(rows[of][identifier][name], []).append(identifier)
                index[of, name] = {value: tuple(ids) for value, ids in found.items()}
        return Base(self.today, rows, order, index, self.base.id_digits)

    def difference(self) -> dict[tuple[str, str], tuple[Row | None, Row]]:
        """Return the rows that differ from the base: before (`None` if new) and after."""
        found: dict[tuple[str, str], tuple[Row | None, Row]] = {}
        for of, rows in self._rows.items():
            base = self.base.rows[of]
            for identifier, after in rows.items():
                before = base.get(identifier)
                if before != after:
                    found[of, identifier] = (before, after)
        return found


_MISSING: Any = object()
