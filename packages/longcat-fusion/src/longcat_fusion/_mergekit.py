"""Understand mergekit's YAML where the method is the same (extra `[yaml]`).

Its defaults are kept: nothing is protected from dropping, densities default to 1, DARE and DELLA
are rescaled to the absolute sum. What differs is said in the notes of the plan.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ._config import ByName, Gradient, MergeConfig, Rule, method_of
from ._hub import find_model
from ._planfile import MergeFile

try:
    import yaml
except ImportError as error:
    raise ImportError(
        "mergekit's YAML needs PyYAML. Install it with: pip install 'longcat-fusion[yaml]'"
    ) from error

_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
# Name there: name here, fixed settings, and the settings that are read, there to here.
_TASK = {"normalize": "average", "lambda": "scale", "weight": "weights"}
_METHODS: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "linear": ("linear", {}, {"normalize": "average", "weight": "weights"}),
    "slerp": ("slerp", {}, {"t": "t"}),
    "karcher": ("karcher", {"steps": 10}, {"max_iter": "steps"}),
    "task_arithmetic": ("task_arithmetic", {}, _TASK),
    "ties": ("ties", {"density": 1.0}, {**_TASK, "density": "density"}),
    "dare_linear": ("dare", {"density": 1.0, "rescale": "l1"}, {**_TASK, "density": "density"}),
    "dare_ties": (
        "dare", {"density": 1.0, "rescale": "l1", "erase": True}, {**_TASK, "density": "density"},
    ),
    "della": (
        "della", {"density": 1.0}, {**_TASK, "density": "density", "epsilon": "epsilon"},
    ),
    "della_linear": (
        "della", {"density": 1.0, "erase": False, "average": False},
        {**_TASK, "density": "density", "epsilon": "epsilon"},
    ),
    "breadcrumbs": (
        "breadcrumbs", {"density": 1.0}, {**_TASK, "density": "density", "gamma": "gamma"},
    ),
    "breadcrumbs_ties": (
        "breadcrumbs", {"density": 1.0, "erase": True},
        {**_TASK, "density": "density", "gamma": "gamma"},
    ),
    "sce": ("sce", {}, {"select_topk": "select"}),
    "ram": ("ram", {"threshold": 1e-5}, {"epsilon": "threshold"}),
    "ramplus_tl": (
        "ram", {"threshold": 1e-5, "boost": 0.1, "limit": 0.2},
        {"epsilon": "threshold", "r": "boost", "alpha": "limit"},
    ),
}  # fmt: skip
_DIFFERENCES = {
    "dare": "masks follow each expert's content, so other elements are dropped than in mergekit",
    "della": "masks follow each expert's content, so other elements are dropped than in mergekit",
    "ties": "elements as large as the smallest one kept are kept too",
    "breadcrumbs": "elements as large as the smallest one kept are kept too",
    "sce": "elements as varied as the smallest one kept are kept too",
    "slerp": "nearly parallel tensors go along the sphere; mergekit is linear above cosine 0.9995",
    "karcher": "the mean is found to rounding; max_iter bounds the steps, tol is not used",
}
_BALANCED = "where the experts' signs balance exactly the base's value stays; mergekit adds"


def read_yaml(path: Path) -> MergeFile:
    """Read a mergekit configuration.

    Raises:
        ValueError: It asks for what is not understood; the message says what.
    """
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be YAML: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(found).__name__}")
    try:
        return _read(found, path.parent)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read(found: dict[str, Any], folder: Path) -> MergeFile:
    known = {
        "models", "slices", "merge_method", "base_model", "dtype", "out_dtype", "parameters",
        "tokenizer_source", "name",
    }  # fmt: skip
    unknown = sorted(set(found) - known)
    if unknown:
        raise ValueError(f"understood are {', '.join(sorted(known))}; not {', '.join(unknown)}")
    theirs = found.get("merge_method")
    if theirs not in _METHODS:
        raise ValueError(f"merge_method must be one of {', '.join(_METHODS)}, got {theirs!r}")
    name, fixed, read = _METHODS[theirs]
    models = _models(found)
    shared = dict(found.get("parameters") or {})
    base = found.get("base_model")
    means = theirs in ("linear", "karcher")
    if base is None and not means:
        raise ValueError(f"{theirs} needs base_model")
    experts = models if means else [model for model in models if model["model"] != base]
    if not experts:
        raise ValueError("models must name an expert besides the base")
    rules, notes = _settings(theirs, shared, experts, read)
    dtype = found.get("out_dtype") or found.get("dtype")
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    first = find_model(base or experts[0]["model"], folder)
    config = MergeConfig(
        method=method_of(name, **fixed),
        rules=(Rule(parameters=rules),) if rules else (),
        protect=(),
        dtype=_DTYPES[dtype] if dtype else None,
        tokenizer=_tokenizer(found.get("tokenizer_source"), folder),
    )
    notes += [_DIFFERENCES[name]] if name in _DIFFERENCES else []
    notes += [_BALANCED] if name in ("ties", "sce", "della") or fixed.get("erase") else []
    paths = tuple(find_model(model["model"], folder) for model in experts)
    return MergeFile(first, paths, None, config, tuple(notes))


def _models(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The models, from `models` or from one slice that takes all layers of each."""
    if "models" in found:
        return list(found["models"])
    slices = found.get("slices") or []
    sources = slices[0].get("sources", []) if len(slices) == 1 else []
    ranges = {tuple(source.get("layer_range", ())) for source in sources}
    if len(ranges) != 1 or next(iter(ranges))[:1] != (0,):
        raise ValueError(
            "slices are understood where one slice takes the same layers of all, from 0"
        )
    if slices[0].get("parameters"):
        raise ValueError("parameters of a slice are not understood: put them at the top")
    return [{key: value for key, value in source.items() if key != "layer_range"}
            for source in sources]  # fmt: skip


def _settings(
    theirs: str, shared: dict[str, Any], experts: list[dict[str, Any]], read: dict[str, str]
) -> tuple[dict[str, Any], list[str]]:
    rules: dict[str, Any] = {}
    notes = []
    allowed = set(read) | ({"rescale"} if "density" in read else set()) | {"int8_mask"}
    for source in (shared, *(model.get("parameters") or {} for model in experts)):
        unknown = sorted(set(source) - allowed)
        if unknown:
            raise ValueError(f"{theirs} reads {', '.join(sorted(allowed))}, not {unknown[0]}")
    rescale = shared.pop("rescale", None)
    if rescale is not None and theirs.startswith(("dare", "della")):
        rules["rescale"] = "l1" if rescale else "none"
    elif rescale:
        raise ValueError(f"{theirs} with rescale is not understood")
    for key, ours in read.items():
        if key not in ("weight", "density", "gamma") and not (
            key == "epsilon" and theirs.startswith("della")
        ):
            if key in shared:
                rules[ours] = _convert(shared[key])
            continue
        values = [(model.get("parameters") or {}).get(key, shared.get(key)) for model in experts]
        missing = [m["model"] for m, v in zip(experts, values, strict=True) if v is None]
        if len(missing) < len(values):
            if missing:
                raise ValueError(f"{key} must be given for all models or none, not {missing[0]}")
            rules[ours] = tuple(_convert(value) for value in values)
        elif key == "weight":
            raise ValueError(f"{theirs} needs a weight for each model")
    if shared.get("int8_mask"):
        notes.append("int8_mask saves memory in mergekit; here it changes nothing")
    return rules, notes


def _convert(value: Any) -> Any:
    """A number, a gradient over the layers, or cases by a part of the name."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        if all(isinstance(part, dict) for part in value):
            cases = []
            for part in value:
                part_of = part.get("filter")
                glob = "*" if part_of in (None, "*") else f"*{_escape(part_of)}*"
                cases.append((glob, _convert(part["value"])))
            return ByName(tuple(cases))
        return Gradient(tuple(_number(part) for part in value))
    return value if isinstance(value, bool) else _number(value)


def _escape(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _number(value: Any) -> float:
    number = float(value)  # YAML reads 1e-5 as text
    return int(number) if isinstance(value, int) else number


def _tokenizer(source: Any, folder: Path) -> str | None:
    if source in (None, "base"):
        return None
    if source == "union":
        raise ValueError(
            "tokenizer_source: union is not understood; name the model to take it from"
        )
    return str(find_model(source, folder))
