"""Everything that can be known before a byte is written: what fits, what it takes, what comes out.

What always holds for a plan: its inputs fit together tensor by tensor, the output is none of the
inputs, and disk and memory suffice. It is made from headers, configs and file sizes alone, with
one exception: a head that a tied base has not is compared with its embedding.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._adapters import Adapter, is_adapter, read_adapter
from ._checkpoint import Checkpoint
from ._config import MergeConfig, describe
from ._engine import TILE, TensorTask, merge_task
from ._files import choose_files, refuse_same_folder
from ._headers import Entry, Header, header_bytes
from ._kinds import depth_of, kind_of, layer_of
from ._match import Expert, Input, Match, Matcher, label_of, same_bytes
from ._numbers import FLOATS
from ._view import UNIT

FORMAT = 4
"""Of plan, journal and manifest. Raise it when the merged bytes or the records change."""
_RATE_BYTES_S = 1e9  # what a disk is taken to read, where nothing is known


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the result."""

    name: str
    head: bytes
    file_bytes: int
    tasks: tuple[TensorTask, ...]
    begins: dict[str, int]
    """Where each stored tensor begins, by name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A merge that can begin."""

    base: Path
    experts: tuple[Path, ...]
    out: Path
    config: MergeConfig
    shards: tuple[Shard, ...]
    has_index: bool
    copied: tuple[Path, ...]
    """Files beside the weights that come along."""
    left_out: tuple[str, ...]
    """Files of the base that do not."""
    notes: tuple[str, ...]
    config_changes: dict[str, Any]
    """What is different in `config.json`; None takes a key out."""
    identity: dict[str, Any]
    """Settings, and names, sizes, times and header digests of all inputs."""
    threads: int
    tile_size: int
    memory_bytes: int
    """Most memory that merging takes at a time, all threads together."""
    bytes_read: int
    bytes_written: int
    expected_s: float
    """Predicted time, from a merge of random numbers and a disk of 1 GB/s."""

    @property
    def digest(self) -> str:
        """SHA-256 of `identity`: what a run must share to be the same run."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    @property
    def num_tensors(self) -> int:
        """Tensors of the result, scales not counted."""
        return sum(len(shard.tasks) for shard in self.shards)


def plan_merge(
    base: str | Path,
    experts: Sequence[str | Path],
    out: str | Path,
    *,
    config: MergeConfig | None = None,
) -> Plan:
    """Check the inputs of a merge and say what it will take, without writing anything.

    Raises:
        FileNotFoundError: A folder holds no checkpoint.
        ValueError: The checkpoints do not fit together, the output is an input, or the budget
            does not suffice; the message says which.
        OSError: The disk has not the room.
    """
    config = config or MergeConfig()
    if isinstance(experts, str | Path):
        raise ValueError(f"experts must be a list of folders, got the one path {experts}")
    base, out, paths = Path(base), Path(out), [Path(path) for path in experts]
    if not paths:
        raise ValueError("need at least one expert, got none")
    refuse_same_folder(out, [base, *paths])
    start, others, labels = read_inputs(base, paths)
    tasks, matcher = tasks_of(start, others, labels, config)
    shards = _shards(start, tasks)
    threads, tile_size, memory = fit_memory(tasks, config)
    tokenizer = _tokenizer_of(matcher, paths, others)
    copied, left_out = choose_files(base, tokenizer)
    read = sum(_read_bytes(task) for task in tasks)
    written = sum(shard.file_bytes for shard in shards)
    plan = Plan(
        base=base, experts=tuple(paths), out=out, config=config, shards=tuple(shards),
        has_index=start.has_index, copied=tuple(copied),
        left_out=(*left_out, *start.left_out),
        notes=(*matcher.all_notes(), *_idle_rules(config, tasks)),
        config_changes=_config_changes(start, tasks, config),
        identity=_identity(start, others, config, tokenizer), threads=threads,
        tile_size=tile_size, memory_bytes=memory, bytes_read=read, bytes_written=written,
        expected_s=_expect(tasks, config, threads, read + written),
    )  # fmt: skip
    _refuse_full_disk(plan)
    return plan


def read_inputs(base: Path, experts: Sequence[Path]) -> tuple[Checkpoint, list[Expert], list[str]]:
    """Read the headers of all inputs; return base, experts, and what messages call these.

    Raises:
        FileNotFoundError: A folder holds no checkpoint.
        ValueError: A file is not whole, or an index does not agree with its shards.
    """
    if is_adapter(base):
        raise ValueError(f"the base must be a whole checkpoint, {base} is an adapter")
    start = Checkpoint.read(base)
    others: list[Expert] = [
        read_adapter(path, start) if is_adapter(path) else Checkpoint.read(path) for path in experts
    ]
    return start, others, [label_of(path, number) for number, path in enumerate(experts)]


def tasks_of(
    base: Checkpoint, experts: Sequence[Expert], labels: Sequence[str], config: MergeConfig
) -> tuple[list[TensorTask], Matcher]:
    """Settle every tensor of the result.

    Raises:
        ValueError: The checkpoints do not fit together; the message names the tensor.
    """
    if config.weights is not None and len(config.weights) != len(experts):
        raise ValueError(
            f"need one weight per expert: {len(experts)} experts, {len(config.weights)}"
        )
    matcher = Matcher(base, experts, labels, config)
    layers = [layer for layer in map(layer_of, base.weights) if layer is not None]
    num_layers = max(layers, default=0) + 1

    def settings(name: str):
        return config.for_tensor(name, len(experts), depth_of(name, num_layers))

    matcher.check_names(lambda name: settings(name).action == "copy")
    tasks = []
    for name, start in matcher.targets().items():
        table = base.embedding_for(start) if kind_of(name) == "head" and base.is_tied else None
        found = settings(table.name if table else name)
        match = matcher.match(name, start, copied=found.action == "copy")
        dtype, scales = start.dtype, None
        if start.dtype in FLOATS and config.dtype:
            dtype = config.dtype
        elif start.scales is not None:
            scales = (start.scales.dtype, start.scales.shape)
        mask_name = table.name if table else ""
        tasks.append(TensorTask(match, found, dtype, scales, mask_name))
    return tasks, matcher


def refuse_unequal(tasks: Sequence[TensorTask], labels: Sequence[str]) -> None:
    """Refuse tensors of whole numbers that are not the same in every checkpoint.

    Raises:
        ValueError: An expert's tensor differs; the message names it.
    """
    for task in tasks:
        if task.match.base.dtype in FLOATS or task.settings.action == "copy":
            continue
        for label, part in zip(labels, task.match.experts, strict=True):
            if part.stored is None or not same_bytes(task.match.base, part.stored):
                raise ValueError(
                    f"{task.name}: {task.match.base.dtype} tensors must be equal in all experts, "
                    f"{label} differs"
                )


def _idle_rules(config: MergeConfig, tasks: Sequence[TensorTask]) -> list[str]:
    """Say which rules are for no tensor: most likely their names are wrong."""
    return [
        f"the rule for match={rule.match!r}, kind={rule.kind!r} fits no tensor"
        for rule in config.rules
        if not any(rule.fits(task.name) for task in tasks)
    ]


def _shards(base: Checkpoint, tasks: Sequence[TensorTask]) -> list[Shard]:
    """The result's files: the base's, with a new head in the file of its embedding."""
    homes: dict[Path, list[TensorTask]] = {header.file: [] for header in base.headers}
    metadata = {header.file: header.metadata or {"format": "pt"} for header in base.headers}
    for task in tasks:
        homes[task.match.base.values.file].append(task)
    shards = []
    for file, found in homes.items():
        stored: list[tuple[str, str, tuple[int, ...]]] = []
        for task in found:
            stored.append((task.name, task.dtype, task.match.shape))
            if task.scales and task.match.base.scales:
                stored.append((task.match.base.scales.name, *task.scales))
        head, begins = header_bytes(stored, metadata[file])
        by_name = {part[0]: begin for part, begin in zip(stored, begins, strict=True)}
        end = len(head) + sum(Entry(*part, file, 0).num_bytes for part in stored)
        shards.append(Shard(file.name, head, end, tuple(found), by_name))
    return shards


def fit_memory(tasks: Sequence[TensorTask], config: MergeConfig) -> tuple[int, int, int]:
    """Choose threads and tile size, and say the memory: within the budget, as large as pays.

    Raises:
        ValueError: A tensor needs more than the budget by itself.
    """
    worst = max(tasks, key=TensorTask.memory_bytes)
    least = worst.memory_bytes()
    if least > config.budget_bytes:
        raise ValueError(
            f"{worst.name} needs {_mib(least)} MiB for {worst.settings.method.name}, "
            f"budget_bytes allows {_mib(config.budget_bytes)}"
        )
    threads = min(config.num_threads, max(1, config.budget_bytes // least))
    tile = TILE
    while tile > UNIT and threads * _worst(tasks, tile) > config.budget_bytes:
        tile //= 2
    return threads, tile, threads * _worst(tasks, tile)


def _worst(tasks: Sequence[TensorTask], tile: int) -> int:
    return max(task.memory_bytes(tile) for task in tasks)


def _mib(count: int) -> int:
    return -(-count // 2**20)


def _read_bytes(task: TensorTask) -> int:
    once = task.match.base.num_bytes + sum(part.num_bytes for part in task.match.experts)
    return once * (1 if task.is_copied else task.settings.method.passes)


def _tokenizer_of(matcher: Matcher, paths: Sequence[Path], experts: Sequence[Expert]) -> Path:
    """Whose tokenizer comes along: the base's, or that of the longest table.

    Raises:
        ValueError: Several experts have longer tables, and their tokenizers differ.
    """
    if matcher.config.tokenizer is not None:
        folder = Path(matcher.config.tokenizer)
        if not folder.is_dir():
            raise FileNotFoundError(f"tokenizer must be a folder, none at {folder}")
        return folder
    if matcher.longest is None:
        return matcher.base.folder
    rows = {
        path: [
            weight.shape[0] for weight in _weights(expert).values() if _is_longer(matcher, weight)
        ]
        for path, expert in zip(paths, experts, strict=True)
    }
    longer = [path for path, found in rows.items() if found]
    contents = {
        file.read_bytes() for file in (path / "tokenizer.json" for path in longer) if file.is_file()
    }
    if len(contents) > 1:
        raise ValueError(
            "experts with added rows must have the same tokenizer, these differ: "
            + ", ".join(str(path) for path in longer)
        )
    return matcher.longest.folder


def _weights(expert: Expert):
    return expert.whole if isinstance(expert, Adapter) else expert.weights


def _is_longer(matcher: Matcher, weight) -> bool:
    own = matcher.base.weights.get(weight.name)
    return (
        own is not None
        and kind_of(weight.name) in ("embedding", "head")
        and weight.shape[:1] > own.shape[:1]
    )


def _config_changes(
    base: Checkpoint, tasks: Sequence[TensorTask], config: MergeConfig
) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for task in tasks:
        if kind_of(task.name) == "embedding" and task.match.shape != task.match.base.shape:
            changes["vocab_size"] = task.match.shape[0]
        if task.name not in base.weights:
            changes["tie_word_embeddings"] = False
    if config.dtype and base.config:
        names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
        key = "dtype" if "dtype" in base.config else "torch_dtype"
        changes[key] = names[config.dtype]
        if "quantization_config" in base.config:
            changes["quantization_config"] = None
    return changes


def _identity(
    base: Checkpoint, experts: Sequence[Expert], config: MergeConfig, tokenizer: Path
) -> dict[str, Any]:
    def of(found: Sequence[Header]) -> list[list[Any]]:
        return [[h.file.name, h.file_bytes, h.file.stat().st_mtime_ns, h.digest] for h in found]

    return {
        "format": FORMAT,
        "settings": describe(config),
        "base": of(base.headers),
        "experts": [of(expert.headers) for expert in experts],
        "tokenizer": str(tokenizer.resolve()),
    }


def _expect(
    tasks: Sequence[TensorTask], config: MergeConfig, threads: int, num_bytes: int
) -> float:
    """Time the method on random numbers, and scale it up."""
    size = 1 << 16
    samples: dict[tuple[str, int], float] = {}
    total = 0.0
    for task in tasks:
        if task.is_copied or not task.match.experts:
            continue
        key = (task.settings.method.name, len(task.match.experts))
        if key not in samples:
            samples[key] = _sample_s(task, config, size) / size
        total += samples[key] * float(np.prod(task.match.shape))
    return total / threads + num_bytes / _RATE_BYTES_S


def _sample_s(task: TensorTask, config: MergeConfig, size: int) -> float:
    rng = np.random.default_rng(0)
    shape = (size // 256, 256)

    def entry(name: str) -> Entry:
        raw = rng.standard_normal(size).astype(np.float32).view(np.uint8)
        return Entry("sample.weight", "F32", shape, Path(name), 0, memory=raw)

    base = Checkpoint.in_memory("base", {"sample.weight": entry("base")}).weights["sample.weight"]
    inputs = []
    for number in range(len(task.match.experts)):
        weight = type(base)(entry(str(number)))
        inputs.append(Input(weight.open, shape, "F32", 4 * size))
    match = Match("sample.weight", base, base.open, tuple(inputs), shape)
    sample = TensorTask(match, task.settings, "BF16", None)
    began = time.thread_time()
    merge_task(sample, config, TILE, lambda *_: None)
    return time.thread_time() - began


def _refuse_full_disk(plan: Plan) -> None:
    folder = plan.out
    while not folder.exists():
        folder = folder.parent
    present = sum(
        path.stat().st_size
        for shard in plan.shards
        for path in (plan.out / shard.name, plan.out / f".{shard.name}.part")
        if path.is_file()
    )
    needed = max(0, plan.bytes_written - present) + (16 << 20)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(
            f"cannot write {plan.out}: it needs {_mib(needed)} MiB more, {_mib(free)} are free"
        )
    if not os.access(folder, os.W_OK):
        raise OSError(f"cannot write {plan.out}: {folder} is read-only")
