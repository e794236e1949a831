"""Who waits for whom: written down by a running manager, read by `longcat-dora why`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from longcat_dora._types import LongcatDoraError

STATUS = "status.json"
_FRESH_S = 5.0


def why(run: Path) -> str:
    """Say in one line who waits for what in a run, and since when; also after it has ended or died.

    Args:
        run: The run's folder, or one that holds it as `dora`.

    Raises:
        LongcatDoraError: There is no status.
    """
    found = [run / STATUS, run / "dora" / STATUS]
    found += sorted(run.glob("experts/*/dora/" + STATUS), key=lambda p: -p.stat().st_mtime)
    path = next((path for path in found if path.is_file()), None)
    if path is None:
        raise LongcatDoraError(f"a run folder must hold {STATUS}, none in {run}")
    try:
        return _told(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LongcatDoraError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise LongcatDoraError(f"{path} is not what a run wrote: {error!r}") from error


def _told(status: dict[str, Any]) -> str:
    age = max(0.0, time.time() - status["at"])
    line = f"step {status['version']}: {status['why']}, for {status['for_s']:.0f} s"
    if status.get("is_over"):
        return f"ended {age:.0f} s ago at step {status['version']}"
    if age < _FRESH_S:
        return line
    state = "it does not answer" if _is_alive(status["pid"]) else "its process is gone"
    return f"last heard of {age:.0f} s ago, {state}; then, {line}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
