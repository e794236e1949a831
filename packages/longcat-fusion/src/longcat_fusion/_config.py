"""How experts become one: the method, its settings, and the rules for single tensors."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from ._kinds import KINDS, PROTECTED, kind_of
from ._methods import METHODS, Method, Recipe

ACTIONS = ("merge", "copy", "average")
_RECIPE_FIELDS = ("normalise", "drop", "erase")
OUTPUT_DTYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Gradient:
    """A setting that changes with depth: these values, evenly spaced from first to last layer."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or not all(isinstance(v, int | float) for v in self.values):
            raise ValueError(f"a gradient needs one number or more, got {self.values}")

    def at(self, depth: float) -> float:
        """Value at a depth in [0, 1], between the two nearest ones in proportion."""
        place = depth * (len(self.values) - 1)
        low = min(int(place), len(self.values) - 1)
        high = min(low + 1, len(self.values) - 1)
        return self.values[low] + (place - low) * (self.values[high] - self.values[low])


@dataclass(frozen=True, slots=True)
class ByName:
    """A setting that depends on the tensor's name: that of the first glob that fits."""

    cases: tuple[tuple[str, Any], ...]

    def of(self, name: str) -> Any:
        """The setting for `name`.

        Raises:
            ValueError: No glob fits.
        """
        for pattern, setting in self.cases:
            if fnmatchcase(name, pattern):
                return setting
        raise ValueError(f"{name}: no setting for it among {[case[0] for case in self.cases]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is different for some tensors. The first rule that fits and says something decides.

    Examples:
        >>> Rule(match="*.experts.*", parameters={"drop": 0.5})  # doctest: +ELLIPSIS
        Rule(match='*.experts.*', ...)
        >>> Rule(kind="router", action="copy").fits("model.layers.0.mlp.gate.weight")
        True
    """

    match: str = "*"
    """Glob on the tensor's name."""
    kind: str | None = None
    """One of `KINDS`, if only that kind is meant."""
    action: str | None = None
    """`merge`, `copy` (the base's bytes, whatever the experts hold), or `average` (linear)."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the method, `weights` and `scale`: a value, a `Gradient`, or a `ByName` of these;
    in a tuple, one for each expert."""

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.action is not None and self.action not in ACTIONS:
            raise ValueError(f"action must be one of {', '.join(ACTIONS)}, got {self.action!r}")

    def fits(self, name: str) -> bool:
        """Whether the rule is for the tensor `name`."""
        return fnmatchcase(name, self.match) and self.kind in (None, kind_of(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeConfig:
    """How experts become one. Without a `method` it is the recipe: normalise, drop, erase, merge.

    Examples:
        >>> MergeConfig(drop=0.2).chosen
        Recipe(normalise=True, drop=0.2, erase=True)
    """

    normalise: bool = True
    """Recipe: scale each task vector to the mean norm of its tensor."""
    drop: float = 0.1
    """Recipe: share of elements dropped from each task vector."""
    erase: bool = True
    """Recipe: keep of each element only the sign with the larger total."""
    scale: float = 1.0
    """What the merged task vector is multiplied with."""
    weights: tuple[float, ...] | None = None
    """One per expert. Absent: 1 each, so that an expert's own skill is kept in full; means: 1/n."""
    seed: int = 0
    method: Method | str | None = None
    """Another method than the recipe, or its name."""
    rules: tuple[Rule, ...] = ()
    protect: tuple[str, ...] = PROTECTED
    """Kinds of tensors of which no element is dropped, unless a rule sets the method's share."""
    dtype: str | None = None
    """Write all merged tensors as `BF16`, `F16` or `F32`; absent: as the base stores them."""
    rounding: str = "nearest"
    """`nearest`, or `stochastic` for BF16: right on average, where updates would be lost."""
    vocabulary: str = "refuse"
    """Tables longer or shorter than the base's: `refuse`, `base` (its rows), or `longest`."""
    head: str = "refuse"
    """An expert with a head of its own over a tied base: `refuse`, `untie`, or `drop`."""
    tokenizer: str | None = None
    """Folder whose tokenizer comes along; absent: the base's, or that of the longest table."""
    extra: str = "refuse"
    """Tensors that an expert has and the base has not: `refuse`, or `leave_out`."""
    budget_bytes: int = 512 * 2**20
    """Memory that merging may take, above that of the started process."""
    threads: int | None = None
    """Tensors merged at a time; absent: one per CPU. It changes nothing in the result."""
    digests: bool = True
    """Take SHA-256 of every input for the manifest. Dropping takes those it needs in any case."""

    def __post_init__(self) -> None:
        if isinstance(self.method, str):
            object.__setattr__(self, "method", method_of(self.method))
        self._check_types()
        set_of_recipe = [
            name
            for name, default in zip(_RECIPE_FIELDS, (True, 0.1, True), strict=True)
            if getattr(self, name) != default
        ]
        if self.method is not None and set_of_recipe:
            raise ValueError(f"{', '.join(set_of_recipe)} belongs to the recipe, not to a method")
        if self.method is None:
            Recipe(normalise=self.normalise, drop=self.drop, erase=self.erase)
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
        _check_finite(self.scale, *(self.weights or ()))
        if not self.chosen.scales and self.scale != 1:
            raise ValueError(f"{self.chosen.name} has no task vector to scale, got {self.scale}")
        self._check_choices()

    def _check_types(self) -> None:
        """What is of another type would be taken for a default, or fail later."""
        for name, kind, words in (
            ("method", Method | None, "a method or its name"),
            ("normalise", bool, "true or false"),
            ("erase", bool, "true or false"),
            ("digests", bool, "true or false"),
            ("weights", Sequence | None, "a list of numbers"),
            ("rules", Sequence, "a list of rules"),
            ("tokenizer", str | os.PathLike | None, "a folder"),
        ):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be {words}, got {getattr(self, name)!r}")
        for name in ("seed", "budget_bytes", "threads"):
            number = getattr(self, name)
            if type(number) is not int and (number is not None or name != "threads"):
                raise ValueError(f"{name} must be a whole number, got {number!r}")
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise ValueError(f"rules must be a list of rules, got {rule!r} among them")

    def _check_choices(self) -> None:
        for name, choices in (
            ("rounding", ("nearest", "stochastic")),
            ("vocabulary", ("refuse", "base", "longest")),
            ("head", ("refuse", "untie", "drop")),
            ("extra", ("refuse", "leave_out")),
            ("dtype", (None, *OUTPUT_DTYPES)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, choices))}, "
                    f"got {getattr(self, name)!r}"
                )
        for kind in self.protect:
            if kind not in KINDS:
                raise ValueError(f"protect must name kinds of {', '.join(KINDS)}, got {kind!r}")
        for name, least in (("budget_bytes", 1), ("threads", 1)):
            number = getattr(self, name)
            if number is not None and number < least:
                raise ValueError(f"{name} must be {least} or more, got {number}")

    @property
    def chosen(self) -> Method:
        """The method: the given one, or the recipe."""
        if isinstance(self.method, Method):
            return self.method
        return Recipe(normalise=self.normalise, drop=self.drop, erase=self.erase)

    @property
    def num_threads(self) -> int:
        """Threads that merge."""
        if self.threads:
            return self.threads
        cpus = getattr(os, "sched_getaffinity", None)  # Linux alone knows which it may use
        return len(cpus(0)) if cpus else os.cpu_count() or 1

    def for_tensor(self, name: str, num_experts: int, depth: float = 1.0) -> TensorSettings:
        """Settle what is done with the tensor `name` at a depth in [0, 1]."""
        fitting = [rule for rule in self.rules if rule.fits(name)]
        action = next((rule.action for rule in fitting if rule.action), "merge")
        found: dict[str, Any] = {}
        for rule in fitting:
            for key, setting in rule.parameters.items():
                found.setdefault(key, _at(setting, name, depth))
        method = self.chosen
        if action == "average":
            method, found = METHODS["linear"](), {}
        if kind_of(name) in self.protect:
            method = method.dense()
        weights = found.pop("weights", None)
        if weights is None:
            weights = self.weights
        scale = found.pop("scale", self.scale)
        if found:
            method = _with(method, found, name)
        default = 1 / num_experts if method.default_weight == "mean" else 1.0
        if weights is None or action == "average":
            weights = (default,) * num_experts
        elif isinstance(weights, int | float):
            weights = (float(weights),) * num_experts
        if len(weights) != num_experts:
            raise ValueError(f"need one weight per expert: {num_experts} experts, {len(weights)}")
        method.check_experts(num_experts)
        _check_finite(scale, *weights)
        return TensorSettings(action, method, tuple(map(float, weights)), float(scale))


@dataclass(frozen=True, slots=True)
class TensorSettings:
    """What is done with one tensor."""

    action: str
    method: Method
    weights: tuple[float, ...]
    scale: float


def _check_finite(*numbers: Any) -> None:
    for number in numbers:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not math.isfinite(number):
            raise ValueError(f"scale and weights must be finite numbers, got {number!r}")


def method_of(name: str, **settings: Any) -> Method:
    """Build a method by name: `method_of("ties", density=0.3)`."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    kind = METHODS[name]
    known = [found.name for found in fields(kind)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        has = ", ".join(known) or "none"
        raise ValueError(f"{name} has the settings {has}; unknown: {', '.join(unknown)}")
    return kind(**settings)


def _at(setting: Any, name: str, depth: float) -> Any:
    if isinstance(setting, ByName):
        return _at(setting.of(name), name, depth)
    if isinstance(setting, Gradient):
        return setting.at(depth)
    if isinstance(setting, tuple | list):
        return tuple(_at(part, name, depth) for part in setting)
    return setting


def _with(method: Method, settings: Mapping[str, Any], name: str) -> Method:
    known = [found.name for found in fields(method)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f"{method.name} has no setting {', '.join(unknown)}, which a rule for {name} sets"
        )
    return replace(method, **settings)


def describe(config: MergeConfig) -> dict[str, Any]:
    """Everything in the config that changes the merged bytes, as plain data."""
    method = config.chosen
    return {
        "method": method.name,
        "parameters": {f.name: _plain(getattr(method, f.name)) for f in fields(method)},
        "scale": config.scale,
        "weights": _plain(config.weights),
        "seed": config.seed,
        "rules": [
            {
                "match": rule.match, "kind": rule.kind, "action": rule.action,
                "parameters": {key: _plain(value) for key, value in rule.parameters.items()},
            }
            for rule in config.rules
        ],
        "protect": list(config.protect),
        "dtype": config.dtype,
        "rounding": config.rounding,
        "vocabulary": config.vocabulary,
        "head": config.head,
        "extra": config.extra,
    }  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, Gradient):
        return {"gradient": list(value.values)}
    if isinstance(value, ByName):
        return {"by_name": [[pattern, _plain(setting)] for pattern, setting in value.cases]}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value
