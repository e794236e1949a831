"""Load checkpoints in the Hugging Face layout, ours or anyone's.

- What the files hold is compared with what the model needs, names, shapes and dtypes, from their
  headers alone: one error, before memory is taken. A weight that the model has no use for is one of
  them.
- Then one tensor at a time, shard after shard: peak memory is the model and one tensor.
- Weights in FP8 with a scale for each block of 128 x 128 (`weight_scale_inv`) are read as numbers.
- Nothing outside the folder is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ._checkpoint import is_stacked, split_experts
from ._config import LongcatConfig
from ._config_json import read_json

FP8_BLOCK = 128
Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all."""

_WEIGHTS = {"F64", "F32", "F16", "BF16"}
_FP8 = "F8_E4M3"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight$")
_NAME_BYTES = 255
"""Of a file's name, in the file systems there are."""
_NUM_NAMED = 5
"""Of what is wrong, in one message."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a file's header says of one tensor."""

    path: Path
    dtype: str
    shape: tuple[int, ...]


class Shards:
    """The tensors of a folder, read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: tuple[Path, Any] | None = None
        self._entries: dict[str, _Entry] = {}
        paths = _path_of_key(folder)
        for path in sorted(set(paths.values())):
            file = self._file(path)
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(key)
                if paths.setdefault(key, path) == path:
                    self._entries[key] = _Entry(path, part.get_dtype(), tuple(part.get_shape()))
        for key, path in paths.items():
            if key not in self._entries:
                raise ValueError(f"{path} must hold {key!r}, as the index says, and does not")

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    @property
    def num_layers(self) -> int:
        """Layers that the files hold, by the highest number."""
        found = [int(match[1]) for key in self._entries if (match := _LAYER.match(key))]
        return max(found, default=-1) + 1

    def order(self, key: str) -> str:
        """What to sort by, so that each shard is opened once."""
        return str(self._entries[key].path)

    def check(self, shapes: Mapping[str, tuple[int, ...]], config: LongcatConfig) -> None:
        """Compare what is there with what a model needs.

        Raises:
            ValueError: Weights are missing, of another shape or of no known dtype, or of no use.
        """
        wrong: list[str] = []
        used = set(shapes)
        for key, shape in shapes.items():
            entry = self._entries.get(key)
            if entry is None:
                wrong.append(f"the checkpoint must hold {key!r}, and does not")
            elif entry.shape != shape:
                wrong.append(
                    f"{key}: the config asks for shape {shape}, the checkpoint holds {entry.shape}"
                )
            elif entry.dtype == _FP8:
                used.add(f"{key}_scale_inv")
                wrong += self._wrong_scales(key, shape)
            elif entry.dtype not in _WEIGHTS:
                wrong.append(f"{key}: weights must be floating point, got {entry.dtype}")
        wrong += [
            f"{key}: the checkpoint holds it, the config has no use for it"
            for key in self._entries
            if key not in used and not self._is_harmless(key, config)
        ]
        if wrong:
            more = f"; and {len(wrong) - _NUM_NAMED} more" if len(wrong) > _NUM_NAMED else ""
            raise ValueError(f"{self.folder}: {'; '.join(wrong[:_NUM_NAMED])}{more}")

    def _wrong_scales(self, key: str, shape: tuple[int, ...]) -> Iterator[str]:
        scale = self._entries.get(f"{key}_scale_inv")
        wanted = tuple(-(-size // FP8_BLOCK) for size in shape)
        if scale is None:
            yield f"{key}: FP8 weights need {key}_scale_inv, and it is missing"
        elif scale.shape != wanted or scale.dtype not in _WEIGHTS:
            yield (
                f"FP8 scales of weights {shape} must have shape {wanted}, got {scale.shape} of "
                f"{scale.dtype}: {key}"
            )

    def _is_harmless(self, key: str, config: LongcatConfig) -> bool:
        """Whether a weight that nobody reads may be there.

        transformers keeps gates and ups of identity experts, which compute nothing, and no downs;
        older files keep rotary frequencies, which follow from the config.
        """
        if key.endswith("rotary_emb.inv_freq"):
            return True
        match = _EXPERT.match(key.removesuffix("_scale_inv"))
        if match is None:
            return False
        is_identity = config.n_routed_experts <= int(match[2]) < config.num_experts
        return is_identity and f"{match[1]}.{match[2]}.down_proj.weight" not in self

    def read(self, key: str) -> Tensor:
        """Return a tensor, FP8 blocks scaled.

        Raises:
            ValueError: Its shard is cut short.
        """
        tensor = self._raw(key)
        if tensor.dtype == torch.float8_e4m3fn:
            return from_fp8(tensor, self._raw(f"{key}_scale_inv"))
        return tensor

    def _raw(self, key: str) -> Tensor:
        path = self._entries[key].path
        try:
            return self._file(path).get_tensor(key)
        except SafetensorError as error:
            raise ValueError(f"{path} must hold {key!r}, as its header says: {error}") from error

    def _file(self, path: Path) -> Any:
        if self._open is None or self._open[0] != path:
            self._open = (path, _open(path))
        return self._open[1]


def from_fp8(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the numbers that FP8 weights (N, M) stand for, with one scale per 128 x 128 block.

    Raises:
        ValueError: The scales do not cover the weights.
    """
    wanted = tuple(-(-size // FP8_BLOCK) for size in weight.shape)
    if tuple(scale.shape) != wanted:
        raise ValueError(
            f"FP8 scales of weights {tuple(weight.shape)} must have shape {wanted}, got "
            f"{tuple(scale.shape)}"
        )
    full = scale.float()
    for axis, size in enumerate(weight.shape):
        full = full.repeat_interleave(FP8_BLOCK, dim=axis).narrow(axis, 0, size)
    return weight.float() * full


def check_layers(shards: Shards, config: LongcatConfig) -> None:
    """Compare the number of layers, before a model is laid out at all.

    Raises:
        ValueError: The files hold fewer or more.
    """
    if shards.num_layers < config.num_layers:
        raise ValueError(
            f"{shards.folder}: the checkpoint must hold 'model.layers.{shards.num_layers}', since "
            f"num_layers={config.num_layers}, and does not"
        )
    if shards.num_layers > config.num_layers:
        raise ValueError(
            f"{shards.folder}: the checkpoint holds {shards.num_layers} layers, the config has no "
            f"use for more than num_layers={config.num_layers}"
        )


def shapes_on_disk(
    state: Mapping[str, Tensor], config: LongcatConfig
) -> dict[str, tuple[int, ...]]:
    """Return the names on disk of a model's weights, and their shapes; meta tensors will do."""
    return {name: tuple(part.shape) for name, part in _parts(state.items(), config)}


def load_state(
    model: nn.Module, shards: Shards, config: LongcatConfig, *, progress: Progress | None = None
) -> None:
    """Fill `model` in place from shards that `Shards.check` found right."""
    parts = list(_parts(model.state_dict(keep_vars=True).items(), config))
    total, done = sum(part.nbytes for _, part in parts), 0
    with torch.no_grad():
        for name, part in sorted(parts, key=lambda pair: shards.order(pair[0])):
            part.copy_(shards.read(name))
            done += part.nbytes
            if progress is not None:
                progress(done, total)


def _parts(
    state: Iterable[tuple[str, Tensor]], config: LongcatConfig
) -> Iterator[tuple[str, Tensor]]:
    """Yield the on-disk names and where each goes; views of the targets."""
    for key, target in state:
        target = target.detach()
        if is_stacked(key):
            yield from split_experts({key: target[: config.n_routed_experts]})
        else:
            yield key, target


def _open(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"the index names the shard {path}, which is missing")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} must be a whole safetensors file: {error}") from error


def _path_of_key(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{index} must be JSON with a weight_map")
        return {key: folder / _inside(index, name) for key, name in weight_map.items()}
    single = folder / "model.safetensors"
    if not single.is_file():
        raise FileNotFoundError(
            f"a checkpoint folder must hold model.safetensors or its index, none in {folder}"
        )
    return dict.fromkeys(_open(single).keys(), single)


def _inside(index: Path, name: Any) -> str:
    """Return the name of a file in the folder itself."""
    is_name = isinstance(name, str) and name.isprintable() and Path(name).name == name
    is_name = is_name and len(name.encode()) <= _NAME_BYTES
    if not is_name or not name.endswith(".safetensors"):
        raise ValueError(f"{index} must name safetensors files beside it, got {name!r:.80}")
    return name
