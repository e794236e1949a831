"""Generated tests of a domain's tools, against a second reading of its text."""

from ._cases import Case, Finder
from ._damage import Damage, damage_figures, damages, noticed
from ._reference import Expected, Reference
from ._tools import Tested, ToolReport, check_tools, fault, reader_faults, tool_figures, written

__all__ = [
    "Case", "Damage", "Expected", "Finder", "Reference", "Tested", "ToolReport", "check_tools",
    "damage_figures", "damages", "fault", "noticed", "reader_faults", "tool_figures", "written",
]  # fmt: skip
