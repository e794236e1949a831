"""Tasks of other benchmarks behind the protocol of this package: tau2-bench and BFCL.

    load_foreign("tau2:airline")                          # from the wheel of inspect-evals
    load_foreign("tau2:retail", "path/to/tau2-bench")     # data of a checkout
    load_foreign("bfcl:base")                             # from the wheel of bfcl-eval

Nothing of theirs is needed until a set is loaded.
"""

from __future__ import annotations

from pathlib import Path

from longcat_envs._fields import DomainError

from ._audit import ForeignFinding, audit_foreign, audit_foreign_set, foreign_agents
from ._bfcl import CATEGORIES, Backends, BfclSet, load_bfcl
from ._environment import ForeignEnvironment
from ._hands import Hands, Handy, Way, request
from ._sides import Sides, SidesSet
from ._tau2 import DOMAINS, Tau2Set, load_tau2
from ._tau2_sides import TWO_SIDED
from ._types import ForeignSet, ForeignTask, Session, TwoSided

NAMES = (
    *(f"tau2:{name}" for name in (*DOMAINS, *TWO_SIDED)),
    *(f"bfcl:{name}" for name in CATEGORIES),
)
"""What can be loaded."""


def is_foreign(name: str) -> bool:
    """Whether a name is one of another benchmark's sets, known or not."""
    return name.partition(":")[0] in ("tau2", "bfcl") and ":" in name


def load_foreign(name: str, folder: str | Path | None = None) -> ForeignSet:
    """Load another benchmark's set.

    Args:
        name: One of `NAMES`.
        folder: A checkout of tau2-bench whose data is taken instead of the wheel's.

    Raises:
        DomainError: There is no such set, what it needs is not installed, or the folder is wrong.
    """
    kind, _, rest = name.partition(":")
    path = None if folder is None else Path(folder)
    if path is not None and not path.is_dir():
        raise DomainError(f"--from must be a folder, got {path}")
    if kind == "tau2":
        return load_tau2(rest, path)
    if kind != "bfcl":
        raise DomainError(f"a set is one of {', '.join(NAMES)}, got {name!r}")
    if path is not None:
        raise DomainError("bfcl is read from its wheel alone; --from is for tau2")
    return load_bfcl(rest)


__all__ = [
    "CATEGORIES", "DOMAINS", "NAMES", "TWO_SIDED", "Backends", "BfclSet", "ForeignEnvironment",
    "ForeignFinding", "ForeignSet", "ForeignTask", "Hands", "Handy", "Session", "Sides", "SidesSet",
    "Tau2Set", "TwoSided", "Way", "audit_foreign", "audit_foreign_set", "foreign_agents",
    "is_foreign", "load_bfcl", "load_foreign", "load_tau2", "request",
]  # fmt: skip
