"""One folder, one run.

Whoever writes to a log's folder holds its lock, and a second one hears who that is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from pathlib import Path

from longcat_dora._types import LongcatDoraError

LOCK = "lock"
_SIZE = 300


class FolderLock:
    """Held from construction until `close`, or until the process ends, however it does.

    Raises:
        LongcatDoraError: Someone else holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(self._file, 1000, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise LongcatDoraError(
                f"one folder, one run: {folder} is in use by {owner or 'another process'}"
            ) from error
        command = " ".join(Path(part).name for part in sys.argv[:1]) or "python"
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {socket.gethostname()} ({command}, since {since})"
        with contextlib.suppress(OSError):  # the disk is full: the name is for people alone
            os.pwrite(self._file, text.encode().ljust(_SIZE)[:_SIZE], 0)  # over what was there

    def close(self) -> None:
        """Let go."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
