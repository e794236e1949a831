"""Merge checkpoint folders of any architecture, one tensor in memory at a time per expert."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ._merge import MergeConfig, merge_tensor


class _Folder:
    """The tensors of one checkpoint folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(
                f"a checkpoint folder must hold *.safetensors, none in {folder}"
            )
        self._files: dict[str, Any] = {}
        self.shard_of: dict[str, str] = {}
        for file in files:
            try:
                opened = safe_open(file, framework="pt")
            except SafetensorError as error:
                raise ValueError(f"{file} must be a whole safetensors file: {error}") from error
            self._files[file.name] = opened
            self.shard_of.update(dict.fromkeys(opened.keys(), file.name))

    def get(self, name: str) -> Tensor:
        """Read one tensor."""
        return self._files[self.shard_of[name]].get_tensor(name)


def merge_folders(
    base: Path, experts: Sequence[Path], out: Path, *, config: MergeConfig | None = None
) -> None:
    """Write to `out` the merge of `experts` over `base`, with the base's shards and other files.

    Raises:
        FileNotFoundError: A folder holds no checkpoint.
        ValueError: The checkpoints do not fit together; the message names the tensor.
    """
    config = config or MergeConfig()
    start, others = _Folder(base), [_Folder(folder) for folder in experts]
    for other in others:
        odd = sorted(set(start.shard_of) ^ set(other.shard_of))
        if odd:
            raise ValueError(
                f"{other.folder} must have the tensors of {base}, differs in {', '.join(odd[:3])}"
            )
    out.mkdir(parents=True, exist_ok=True)
    for shard in sorted(set(start.shard_of.values())):
        names = [name for name, home in start.shard_of.items() if home == shard]
        tensors = {
            name: merge_tensor(
                start.get(name), [other.get(name) for other in others], config=config, name=name
            ).contiguous()
            for name in names
        }
        part = out / f".{shard}.part"
        save_file(tensors, part, metadata={"format": "pt"})
        part.replace(out / shard)
    for file in base.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copyfile(file, out / file.name)
    about = {"experts": [str(path) for path in experts], "config": repr(config)}
    (out / "merge.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
