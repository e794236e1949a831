"""Rewrite every host in a uv lock to `index.invalid`: standard input to standard output.

A lock that names no host works with any mirror. uv sees that the lock's index is none of its own,
resolves again against the user's index, and keeps the locked versions and hashes.
"""

import re
import sys

HOST = re.compile(r'(?<=")https?://[^/"]+')


def normalise(text: str) -> str:
    """Replace the host of every quoted URL; everything else stays byte for byte."""
    return HOST.sub("https://index.invalid", text)


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8")
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    sys.stdout.write(normalise(sys.stdin.read()))
