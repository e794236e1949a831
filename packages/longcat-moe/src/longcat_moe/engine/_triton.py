"""Whether Triton's kernels can be used, and where they are."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from longcat_moe._config import LongcatConfig


def has_triton() -> bool:
    """Whether kernels can be compiled here."""
    return importlib.util.find_spec("triton") is not None


def can_fuse(config: LongcatConfig) -> bool:
    """Whether such a model has a fused step here: Triton, and the released wiring."""
    return (
        has_triton()
        and config.norm == "pre"
        and config.sparse_attention is None
        and not config.has_ngrams
    )


def kernels(part: str = "") -> Any:
    """Return a module of kernels; Triton is asked for when this is called."""
    return importlib.import_module(f"longcat_moe.engine._kernels{part}")
