"""Which versions are installed here."""

from __future__ import annotations

import platform
from collections.abc import Iterator

PACKAGES = (
    "longcat-cli", "longcat-moe", "longcat-dora", "longcat-gspo", "longcat-envs", "longcat-noise",
    "longcat-heavythink", "longcat-fusion", "torch",
)  # fmt: skip


def versions() -> Iterator[str]:
    """A line for each of our packages, torch and Python."""
    import importlib.metadata  # slow, and --help needs it not

    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name}: not installed"
    yield f"python {platform.python_version()}"
