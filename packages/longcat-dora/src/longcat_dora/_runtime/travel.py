"""How a user's function gets into another process, wherever it was written.

What lies in a module that both can import travels by name. What lies in the script that runs
travels by name too, and the other process executes the script up to where it starts the run: a
missing `__main__` guard does no harm. Anything else (a lambda, a closure, what was typed into a
REPL or a notebook) travels by value.
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle  # pyright: ignore[reportMissingTypeStubs]

from longcat_dora._rollout.controller import Factory
from longcat_dora._rollout.messages import Order, StartRollout
from longcat_dora._types import LongcatDoraError


class Script(NamedTuple):
    """The script that runs here."""

    path: str
    package: str | None
    argv: list[str]


@dataclass(frozen=True, slots=True)
class Luggage:
    """What a controller process needs to build its worker.

    Raises:
        LongcatDoraError: The factory cannot be sent.
    """

    factory: bytes
    script: Script | None

    def __init__(self, factory: Factory) -> None:
        object.__setattr__(self, "script", _script())
        object.__setattr__(self, "factory", self._pack(factory))

    def _pack(self, factory: Factory) -> bytes:
        try:
            data = pickle.dumps(factory)
            if self.script is not None or b"__main__" not in data:
                return data
        except Exception:  # what pickle refuses in its many ways, cloudpickle may take
            pass
        try:
            return cloudpickle.dumps(factory)  # pyright: ignore[reportUnknownMemberType]
        except Exception as error:
            raise LongcatDoraError(
                f"the factory cannot be sent to another process: {error}. Build what it needs"
                " inside of it, or make"
                " it a function of a module"
            ) from error

    def pack_order(self, order: Order) -> bytes:
        """Return an order as bytes, for `pickle.loads`.

        Raises:
            LongcatDoraError: A task's payload cannot be sent.
        """
        try:
            data = pickle.dumps(order, protocol=pickle.HIGHEST_PROTOCOL)
            if self.script is not None or b"__main__" not in data:
                return data
        except Exception:
            if not isinstance(order, StartRollout):
                raise
        try:
            return cloudpickle.dumps(order)  # pyright: ignore[reportUnknownMemberType]
        except Exception as error:
            assert isinstance(order, StartRollout)
            raise LongcatDoraError(
                f"the payload of task {order.task!r} cannot be sent to another process: {error}"
            ) from error


def _script() -> Script | None:
    """The script; none in a REPL, a notebook, or a module that is importable by its name."""
    main: Any = sys.modules["__main__"]
    path = getattr(main, "__file__", None)
    if path is None or not Path(path).is_file():
        return None
    spec = getattr(main, "__spec__", None)
    return Script(
        str(Path(path).resolve()), spec.parent if spec is not None else None, list(sys.argv)
    )
