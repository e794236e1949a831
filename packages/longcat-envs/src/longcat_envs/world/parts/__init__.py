"""Parts: what makes domains differ in kind. Each is text in the domain's own language.

A new part is one file with one function, listed here, and one test.
"""

from longcat_envs.lang import PartText

from .approval import approval
from .calendar import calendar
from .hierarchy import hierarchy
from .ledger import ledger
from .lines import lines

PARTS: dict[str, PartText] = {
    "approval": approval, "calendar": calendar, "hierarchy": hierarchy, "ledger": ledger,
    "lines": lines,
}  # fmt: skip
"""Parts that are written in a class; record and lifecycle are the language itself."""

__all__ = ["PARTS"]
