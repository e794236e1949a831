"""Errors of domain files: where, which rule, what was found, and the nearest known name."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable

from longcat_envs._fields import DomainError


class LangError(DomainError):
    """A domain file breaks a rule of the language."""

    def __init__(self, rule: str, node: ast.AST | None = None, *, nearest: str = "") -> None:
        self.rule, self.nearest = rule, nearest
        self.file = ""
        self.line = getattr(node, "lineno", 1)
        self.column = getattr(node, "col_offset", 0) + 1
        super().__init__(rule)

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        return f"{self.file or 'domain'}:{self.line}:{self.column}: {self.rule}{hint}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name most like `name`; empty if none is."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), "")


def unknown(what: str, name: str, known: Iterable[str], node: ast.AST) -> LangError:
    """Return the error for a name that is not declared."""
    names = sorted(set(known))
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return LangError(f"{what} must be among {shown or 'none'}, got {name!r}", node,
                     nearest=nearest(name, names))  # fmt: skip
