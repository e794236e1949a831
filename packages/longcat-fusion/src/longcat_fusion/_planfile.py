"""A merge written down: a TOML file, checked whole.

    base = "models/base"
    experts = ["models/maths", "models/code"]     # or [[experts]] with path and weight
    out = "models/merged"
    method = "ties"

    [parameters]
    density = 0.3

    [[rules]]
    match = "*.experts.*"
    parameters = { density = { gradient = [0.2, 0.5] } }

Paths count from the file's folder. Every other key is a setting of `MergeConfig`.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ._config import ByName, Gradient, MergeConfig, Rule, method_of
from ._hub import find_model

_OWN = ("base", "experts", "out", "method", "parameters", "rules", "budget")
_SETTINGS = [
    found.name
    for found in fields(MergeConfig)
    if found.name not in ("method", "rules", "weights", "normalise", "drop", "erase")
]
_SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True)
class MergeFile:
    """What a plan file says."""

    base: Path
    experts: tuple[Path, ...]
    out: Path | None
    config: MergeConfig
    notes: tuple[str, ...] = ()


def read_merge_file(path: str | Path) -> MergeFile:
    """Read a plan: TOML, or mergekit's YAML if the name ends so (extra `[yaml]`).

    Raises:
        FileNotFoundError: There is no such file, or a model is not there.
        ValueError: The file says something that is not understood; the message says what.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"a plan must be a file, none at {path}")
    if path.suffix in (".yml", ".yaml"):
        from ._mergekit import read_yaml  # noqa: PLC0415 (PyYAML is an extra)

        return read_yaml(path)
    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be TOML: {error}") from error
    try:
        return _read(found, path.parent)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read(found: dict[str, Any], folder: Path) -> MergeFile:
    unknown = sorted(set(found) - set(_OWN) - set(_SETTINGS))
    if unknown:
        raise ValueError(f"known are {', '.join((*_OWN, *_SETTINGS))}; unknown: {unknown[0]}")
    for key in ("base", "experts"):
        if not found.get(key):
            raise ValueError(f"{key} must be given")
    paths, weights = _experts(found["experts"])
    settings = {key: found[key] for key in _SETTINGS if key in found}
    if "budget" in found:
        settings["budget_bytes"] = read_size(found["budget"])
    if "protect" in settings:
        settings["protect"] = tuple(settings["protect"])
    parameters = {key: _setting(value) for key, value in found.get("parameters", {}).items()}
    config = MergeConfig(
        method=method_of(found.get("method", "recipe"), **parameters),
        weights=weights,
        rules=tuple(_rule(rule) for rule in found.get("rules", [])),
        **settings,
    )
    out = found.get("out")
    return MergeFile(
        find_model(found["base"], folder),
        tuple(find_model(path, folder) for path in paths),
        folder / out if out else None,
        config,
    )


def _experts(found: Any) -> tuple[list[str], tuple[float, ...] | None]:
    if not isinstance(found, list):
        raise ValueError("experts must be a list of paths, or [[experts]] tables")
    if all(isinstance(expert, str) for expert in found):
        return found, None
    weights = []
    for expert in found:
        unknown = set(expert) - {"path", "weight"} if isinstance(expert, dict) else {"text"}
        if unknown or "path" not in expert:
            raise ValueError(f"an expert has path and weight, got {expert}")
        weights.append(expert.get("weight"))
    if any(w is None for w in weights) and any(w is not None for w in weights):
        raise ValueError("all experts need a weight, or none")
    return [expert["path"] for expert in found], None if None in weights else tuple(weights)


def _rule(found: dict[str, Any]) -> Rule:
    unknown = sorted(set(found) - {"match", "kind", "action", "parameters"})
    if unknown:
        raise ValueError(f"a rule has match, kind, action and parameters; unknown: {unknown[0]}")
    parameters = {key: _setting(value) for key, value in found.get("parameters", {}).items()}
    return Rule(**{**found, "parameters": parameters})


def _setting(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_setting(part) for part in value)
    if isinstance(value, dict):
        if set(value) == {"gradient"}:
            return Gradient(tuple(value["gradient"]))
        if set(value) == {"by_name"}:
            return ByName(tuple((glob, _setting(part)) for glob, part in value["by_name"]))
        raise ValueError(f"a setting is a value, {{gradient}} or {{by_name}}, got {value}")
    return value


def read_size(text: str | int) -> int:
    """Bytes of a size such as `512MB`, `2 GiB`, or a plain number."""
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)i?B?\s*", text, re.IGNORECASE)
    if not found:
        raise ValueError(f"a size must be like 512MB or 2GB, got {text!r}")
    return int(float(found[1]) * _SIZES[found[2].upper()])
