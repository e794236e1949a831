"""Parts: what makes domains differ in kind. Each is text in the domain's own language.

A new part is one file with one function, listed here, and one test.
"""

from longcat_envs.lang import PartText

from .approval import approval
from .calendar import calendar
from .document import document
from .hierarchy import hierarchy
from .ledger import ledger
from .lines import lines
from .membership import membership
from .quota import quota
from .schedule import schedule
from .stock import stock
from .thread import thread

PARTS: dict[str, PartText] = {
    "approval": approval, "calendar": calendar, "document": document, "hierarchy": hierarchy,
    "ledger": ledger, "lines": lines, "membership": membership, "quota": quota,
    "schedule": schedule, "stock": stock, "thread": thread,
}  # fmt: skip
"""Parts that are written in a class; record and lifecycle are the language itself."""

__all__ = ["PARTS"]
