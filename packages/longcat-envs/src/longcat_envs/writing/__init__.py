"""Domains written by a model: the loop of writing, checking and repairing, and its checks."""

from ._loop import Ask, Written, repair_domain, repair_figures, write_domain
from ._problems import Bar, problems

__all__ = [
    "Ask", "Bar", "Written", "problems", "repair_domain", "repair_figures", "write_domain",
]  # fmt: skip
