"""Models by name: local folders, and hub ids where the extra `[hub]` is installed."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_PATTERNS = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py", "LICENSE*"]


def find_model(name: str, folder: Path) -> Path:
    """Find a model: a folder counted from `folder`, else a hub id `owner/name` or `owner/name@rev`.

    Raises:
        FileNotFoundError: It is neither, or the extra for hub ids is not installed.
    """
    if not isinstance(name, str):
        raise ValueError(f"a model must be a path or a hub id, got {name!r}")
    local = folder / Path(name).expanduser()
    if local.exists() or not _ID.fullmatch(name):
        if not local.is_dir():
            raise FileNotFoundError(f"a model must be a folder or a hub id, none at {local}")
        return local
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise FileNotFoundError(
            f"no folder at {local}; to fetch {name} from the hub install 'longcat-fusion[hub]'"
        ) from error
    repository, _, revision = name.partition("@")
    return Path(
        hub.snapshot_download(repository, revision=revision or None, allow_patterns=_PATTERNS)
    )
