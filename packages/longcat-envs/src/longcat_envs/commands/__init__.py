"""The `longcat-envs` command: look at domains, grow and audit tasks, run agents, begin a domain."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from longcat_envs._fields import DomainError

from . import _domains, _models, _tasks, _writing
from ._common import say


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    whole = argparse.ArgumentParser(prog="longcat-envs", description=__doc__)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for room in (_domains, _tasks, _models, _writing):
        room.register(commands)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    given = parser().parse_args(arguments)
    try:
        code = int(given.run(given) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output has gone, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (DomainError, OSError) as error:
        say(f"error: {error}", is_error=True)
        return 2
    except KeyboardInterrupt:
        return 130


__all__ = ["main", "parser"]
