"""Where domains come from: shipped ones by name, a stranger's by path."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from longcat_envs._fields import DomainError
from longcat_envs.lang import read_spec

from ._world import Machine
from .parts import PARTS

SUFFIX = ".world"


def builtin_worlds() -> tuple[str, ...]:
    """Names of the domains that ship with this package."""
    folder = resources.files("longcat_envs") / "domains"
    names = (entry.name for entry in folder.iterdir() if entry.name.endswith(SUFFIX))
    return tuple(sorted(name.removesuffix(SUFFIX) for name in names))


def load_source(name_or_path: str | Path, suffix: str = SUFFIX) -> tuple[str, str]:
    """Return the text of a domain file, or of its words, and where it lies.

    Raises:
        DomainError: There is no such domain.
    """
    path = Path(name_or_path)
    if str(name_or_path) in builtin_worlds():
        file = resources.files("longcat_envs") / "domains" / f"{name_or_path}{suffix}"
        return (file.read_text("utf-8") if file.is_file() else ""), file.name
    if path.is_file():
        file = path if suffix == SUFFIX else path.with_suffix(suffix)
        try:
            return (file.read_text("utf-8-sig") if file.is_file() else ""), str(file)
        except UnicodeDecodeError as error:
            raise DomainError(f"{file}:1:1: must be UTF-8: {error}") from None
    raise DomainError(
        f"a domain must be one of {', '.join(builtin_worlds())} or a file, "
        f"got {str(name_or_path)!r}"
    )


@cache
def _shipped(name: str) -> Machine:
    text, file = load_source(name)
    return Machine(read_spec(text, name=name, parts=PARTS, file=file))


def load_machine(name_or_path: str | Path) -> Machine:
    """Read and compile a domain.

    Raises:
        DomainError: There is no such domain, or its file breaks a rule.
    """
    if str(name_or_path) in builtin_worlds():
        return _shipped(str(name_or_path))
    text, file = load_source(name_or_path)
    return Machine(read_spec(text, name=Path(name_or_path).stem, parts=PARTS, file=file))
