"""Which domains `longcat eval` is about, by the names that people give them.

Nothing here imports torch: a wrong name is said at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from longcat_envs import DomainError

from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.worlds import PAST, has_past, load_world, name_of


def domains_of(names: Iterable[str], home: RunFolder | None) -> tuple[str, ...]:
    """The domains that are meant, each once.

    Raises:
        UsageError: One is none, or two would be called the same in the table.
    """
    found = tuple(dict.fromkeys(domain_of(name, home) for name in names))
    shown: dict[str, str] = {}
    for domain in found:
        name = name_of(load_world(domain))
        if name in shown:
            raise UsageError(
                f"each domain must have a name of its own, {shown[name]} and {domain} are "
                f"both called {name}"
            )
        shown[name] = domain
    return found


def domain_of(name: str, home: RunFolder | None) -> str:
    """The domain that is meant: of the run, of tables, a shipped world, or a file.

    As in `longcat chat`, a short name is first one of the run's own. After those, the domains of
    tables come before the worlds with a past: `library` was one of them before there were others.

    Raises:
        UsageError: There is none of this name, or its file breaks a rule.
    """
    own = {Path(domain).stem: domain for domain in (home.recipe.domains if home else ())}
    meant = name if name in own.values() else own.get(name, name)
    for found in (meant,) if has_past(meant) else (meant, meant + PAST):
        try:
            load_world(found)
        except DomainError as error:
            if Path(found).is_file():
                raise UsageError(str(error)) from error
        else:
            return found
    from longcat_envs.world import builtin_worlds

    of_run = f"{', '.join(own)} (of the run), " if own else ""
    raise UsageError(
        f"--domain must be {of_run}one of the {len(builtin_worlds())} shipped worlds (longcat envs "
        f"list) or a file (NAME.toml, NAME.world), got {name!r}"
    )
