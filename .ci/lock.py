"""Rewrite every host in a uv lock to `index.invalid`, and drop sizes: standard input to output.

A lock that names no host works with any mirror. uv sees that the lock's index is none of its own,
resolves again against the user's index, and keeps the locked versions and hashes. Some indexes
tell the sizes of files and others do not; without them the lock is the same after either.
"""

import re
import sys

HOST = re.compile(r'(?<=")https?://[^/"]+')
SIZE = re.compile(r", size = \d+")


def normalise(text: str) -> str:
    """Replace the host of every quoted URL and drop sizes; everything else stays byte for byte."""
    return SIZE.sub("", HOST.sub("https://index.invalid", text))


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    sys.stdout.write(normalise(sys.stdin.read()))
