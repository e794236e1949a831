"""A function of one's own, given as the file that defines it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from longcat_dora import LongcatDoraError


def score_file(where: str) -> Callable[..., Any]:
    """Load a function from `FILE.py:NAME`.

    Raises:
        LongcatDoraError: There is no such file or function, or the file cannot be run.
    """
    path, _, name = where.rpartition(":")
    file = Path(path)
    if not name or file.suffix != ".py" or not file.is_file():
        raise LongcatDoraError(f"a function must be given as FILE.py:NAME, got {where!r}")
    module_name = f"longcat_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # for what the file pickles
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise LongcatDoraError(f"{path} cannot be run: {error!r}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise LongcatDoraError(f"{path} must define a function {name!r}, it does not")
    return cast("Callable[..., Any]", found)
