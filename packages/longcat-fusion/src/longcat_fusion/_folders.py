"""Carry out a plan: write the merged checkpoint, shard by shard, so that it can be resumed.

    plan -> empty or own folder -> shards (part, sync, journal, rename) -> other files -> manifest

What always holds: a file under its final name is whole; `merge.json` is written last.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._card import model_card
from ._checkpoint import INDEX, read_json
from ._config import MergeConfig
from ._journal import JOURNAL, Journal, part_of, sync_folder
from ._manifest import MANIFEST, manifest_of
from ._match import label_of
from ._plan import Plan, Shard, plan_merge, refuse_unequal
from ._shards import write_shard


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a merge is."""

    done_bytes: int
    """Bytes of the result that are merged."""
    total_bytes: int
    elapsed_s: float
    shard: str
    resumed_bytes: int = 0
    """Of the bytes done, those that an earlier run had merged."""

    @property
    def rate_bytes_s(self) -> float:
        """Bytes merged a second, by this run."""
        return (self.done_bytes - self.resumed_bytes) / max(self.elapsed_s, 1e-9)

    @property
    def left_s(self) -> float:
        """Time left at this rate; infinity while there is no rate."""
        rate = self.rate_bytes_s
        return (self.total_bytes - self.done_bytes) / rate if rate > 0 else float("inf")


Report = Callable[[Progress], None]


def merge_folders(
    base: str | Path,
    experts: Sequence[str | Path],
    out: str | Path,
    *,
    config: MergeConfig | None = None,
    progress: Report | None = None,
    replace: bool = False,
) -> dict[str, Any]:
    """Write to `out` the merge of `experts` over `base`, with the base's shards and other files.

    A merge that was interrupted is resumed by the same call; one that was finished is left alone.
    An expert may be a checkpoint folder of any sharding or a LoRA adapter.

    Args:
        base: Folder of the checkpoint that the experts started from.
        experts: Their folders.
        out: Folder to write to: empty, or not there yet, or of the same merge.
        config: How to merge; absent: the recipe.
        progress: Told how far the merge is after each tensor.
        replace: Where `out` holds a merge of other inputs or settings, delete that merge's files
            first. Anything else in `out` is refused all the same.

    Returns:
        The manifest, which lies in `out/merge.json` too.

    Raises:
        FileNotFoundError: A folder holds no checkpoint.
        ValueError: The checkpoints do not fit together, a value is not finite, or `out` holds
            something else; the message names the tensor or the file.
        OSError: The disk has not the room.
    """
    plan = plan_merge(base, experts, out, config=config)
    return run_plan(plan, progress=progress, replace=replace)


def run_plan(
    plan: Plan, *, progress: Report | None = None, replace: bool = False
) -> dict[str, Any]:
    """Carry out a plan; see `merge_folders`."""
    if replace:
        _remove_other_merge(plan)
    done = read_json(plan.out / MANIFEST)
    if done and not (plan.out / JOURNAL).exists():
        if done.get("plan") != plan.digest:
            raise ValueError(
                f"the output must be empty, or a merge to be resumed: {plan.out} holds a finished "
                "merge of other inputs or settings"
            )
        return done
    tasks = [task for shard in plan.shards for task in shard.tasks]
    labels = [label_of(path, number) for number, path in enumerate(plan.experts)]
    refuse_unequal(tasks, labels)
    plan.out.mkdir(parents=True, exist_ok=True)
    with Journal.opened(plan.out, plan.digest) as journal:
        _write_shards(plan, journal, progress or (lambda _: None))
        manifest = manifest_of(plan, journal.finished)
        _write_others(plan, manifest)
        (plan.out / JOURNAL).unlink()
    return manifest


def _remove_other_merge(plan: Plan) -> None:
    """Delete the files of a merge that is not this one; nothing that a merge did not write."""
    done = read_json(plan.out / MANIFEST)
    journal = plan.out / JOURNAL
    if done.get("plan", plan.digest) == plan.digest and not journal.exists():
        return
    if journal.exists():
        first = journal.read_bytes().partition(b"\n")[0]
        if plan.digest.encode() in first:
            return
        for part in plan.out.glob(".*.part"):
            part.unlink()
        for record in journal.read_bytes().split(b"\n")[1:-1]:
            (plan.out / json.loads(record)["shard"]).unlink(missing_ok=True)
    names = [*done.get("outputs", {}), *done.get("copied", []), INDEX, "README.md"]
    for name in (*names, MANIFEST, JOURNAL):
        (plan.out / Path(name).name).unlink(missing_ok=True)


def _write_shards(plan: Plan, journal: Journal, progress: Report) -> None:
    began = time.monotonic()
    total = sum(shard.file_bytes for shard in plan.shards)
    todo = [shard for shard in plan.shards if not journal.is_whole(shard.name)]
    done = resumed = total - sum(shard.file_bytes for shard in todo)
    for shard in todo:

        def ready(count: int, shard: Shard = shard) -> None:
            nonlocal done
            done += count
            progress(Progress(done, total, time.monotonic() - began, shard.name, resumed))

        journal.add(write_shard(plan, shard, ready))
        part_of(plan.out, shard.name).replace(plan.out / shard.name)
        sync_folder(plan.out)
    if not todo:
        progress(Progress(total, total, time.monotonic() - began, "", resumed))


def _write_others(plan: Plan, manifest: dict[str, Any]) -> None:
    if plan.has_index:
        _write(plan.out / INDEX, _json(_index(plan)))
    for source in plan.copied:
        if source.name == "config.json" and plan.config_changes:
            settings = {**read_json(source), **plan.config_changes}
            settings = {key: value for key, value in settings.items() if value is not None}
            _write(plan.out / source.name, _json(settings))
        else:
            _write(plan.out / source.name, source.read_bytes())
    _write(plan.out / "README.md", model_card(plan, manifest).encode())
    sync_folder(plan.out)
    _write(plan.out / MANIFEST, _json(manifest))
    sync_folder(plan.out)


def _index(plan: Plan) -> dict[str, Any]:
    total = sum(task.out_bytes for shard in plan.shards for task in shard.tasks)
    homes = {name: shard.name for shard in plan.shards for name in shard.begins}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(homes.items()))}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    """Write a small file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with part.open("xb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
    part.replace(path)
    with contextlib.suppress(OSError):
        path.chmod(0o644)
