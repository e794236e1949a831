"""The command that lets a model write a domain."""

from __future__ import annotations

import argparse
from pathlib import Path

from longcat_envs._fields import DomainError
from longcat_envs.running import ModelError
from longcat_envs.writing import Bar, write_domain

from ._common import Commands, command, count, say, show
from ._models import endpoint_arguments, endpoint_of


def register(commands: Commands) -> None:
    """Add the command of this room."""
    write = command(commands, "write", _write, "let a model write a domain; check and mend it")
    write.add_argument("domain", metavar="NAME", help="its name, in small letters")
    write.add_argument("--description", required=True, help="what the domain is about")
    write.add_argument("--rounds", type=count, default=6, metavar="N", help="answers at most")
    write.add_argument("--min-tools", type=count, default=60, metavar="N")
    write.add_argument("--out", type=Path, default=Path(), metavar="FOLDER")
    endpoint_arguments(write)


def _write(given: argparse.Namespace) -> int:
    name: str = given.domain
    if not name.isidentifier() or name != name.lower():
        raise DomainError(f"a domain has a name in small letters, got {name!r}")
    files = [given.out / f"{name}{suffix}" for suffix in (".world", ".words.en")]
    for path in files:
        if path.exists():
            raise DomainError(f"{path} exists already")
    bar = Bar(min_tools=given.min_tools)
    try:
        found = write_domain(endpoint_of(given).ask, name, given.description, bar=bar,
                             max_rounds=max(1, given.rounds))  # fmt: skip
    except ModelError as error:
        raise DomainError(str(error)) from None
    if found.is_accepted:
        for path, text in zip(files, (found.text, found.words), strict=True):
            path.write_text(text, encoding="utf-8")
            say(f"wrote {path}", is_error=given.json)
    show(given, {
        "summary": {"domain": name, "accepted": found.is_accepted, "rounds": found.rounds},
        "rows": [{"problem": problem} for problem in found.problems],
    })  # fmt: skip
    return 0 if found.is_accepted else 1
