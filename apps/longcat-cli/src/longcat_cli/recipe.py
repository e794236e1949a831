"""A recipe: every number of a training run, in one frozen object.

TOML files and `--set section.key=value` build the same object. An unknown key is an error that
names its neighbours.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Grow:
    """Environments and tasks."""

    train_tasks: int = 900
    """Per domain, for cold start and RL."""
    eval_tasks: int = 240
    """Per domain, held out."""
    id_digits: int = 2
    share_compound: float = 0.1
    share_clarify: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Model:
    """A LongCat-Flash architecture; names as in `config.json`."""

    vocab_size: int = 1152
    hidden_size: int = 128
    num_layers: int = 2
    num_attention_heads: int = 4
    q_lora_rank: int = 64
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    ffn_hidden_size: int = 128
    expert_ffn_hidden_size: int = 64
    n_routed_experts: int = 48
    zero_expert_num: int = 24
    moe_topk: int = 4
    routed_scaling_factor: float = 2.0
    rope_theta: float = 500.0
    max_position_embeddings: int = 1024
    initializer_range: float = 0.03
    induction: bool = True
    """Start with an induction circuit: see `longcat_moe.init_induction`."""


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Supervised steps on verified trajectories."""

    steps: int = 1500
    batch_tokens: int = 640
    learning_rate: float = 1.8e-3
    warmup_steps: int = 20
    share_alternative: float = 0.1
    """Trajectories with a detour or a mistake that is recovered from (and masked)."""
    balance_rate: float = 0.01
    """Step of the routers' selection bias."""


@dataclass(frozen=True, kw_only=True)
class Rl:
    """GSPO through DORA, per expert."""

    steps: int = 50
    groups_per_batch: int = 8
    max_groups_per_step: int = 48
    """Groups tried per step on average, at most: ends a run that finds nothing to learn."""
    group_size: int = 8
    soft_staleness: int = 2
    hard_staleness: int = 4
    learning_rate: float = 2e-4
    warmup_steps: int = 8
    """Optimiser steps, of which each batch takes `epochs`."""
    epochs: int = 4
    baseline: Literal["none", "mean", "mean_std", "leave_one_out"] = "none"
    """What rewards are compared with: see `longcat_gspo.group_advantages`."""
    clip_low: float = 0.05
    clip_high: float = 0.08
    at_bound: Literal["wait", "discard", "continue", "mask"] = "wait"
    """What happens at the hard bound: see `longcat_dora.AtBound`."""
    runtime: Literal["local", "ray"] = "local"
    """Where controllers run: processes of this machine, or actors of a Ray cluster."""
    ray_address: str = ""
    """Of the cluster; Ray is started on this machine when empty."""
    num_controllers: int = 1
    max_running: int = 128
    max_tokens: int = 48
    """Per assistant turn."""
    max_length: int = 704
    """Of a trajectory."""
    max_turns: int = 8
    temperature: float = 1.0
    save_every: int = 10


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Imperfect users and tools during RL."""

    levels: list[float] = field(default_factory=lambda: [0.0, 0.1, 0.2, 0.3])
    max_gap: float = 0.1
    min_pass_rate: float = 0.5
    share_clean: float = 0.8
    """Episodes without noise, by which the gap is measured."""


@dataclass(frozen=True, kw_only=True)
class Fuse:
    """Experts into one."""

    normalise: bool = True
    drop: float = 0.05
    erase: bool = True
    scale: float = 1.0
    """Times the average of the experts' task vectors."""
    steps: int = 300
    """Supervised steps after the merge, on the experts' successful trajectories; 0 for none."""
    batch_tokens: int = 640
    learning_rate: float = 4e-4
    per_task: int = 2
    """Trajectories of a task at most, the newest."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Held-out tasks."""

    tasks: int = 240
    """Per domain."""
    noise: list[float] = field(default_factory=lambda: [0.0, 0.3])
    processes: int = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run of `longcat train`."""

    name: str = "mini"
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    groups: dict[str, list[str]] = field(
        default_factory=lambda: {"clinic": ["clinic"], "library": ["library"], "shop": ["shop"]}
    )
    """Expert to the domains it is trained on; a domain is a shipped name or a TOML file."""
    grow: Grow = field(default_factory=Grow)
    model: Model = field(default_factory=Model)
    cold_start: ColdStart = field(default_factory=ColdStart)
    rl: Rl = field(default_factory=Rl)
    noise: Noise = field(default_factory=Noise)
    fuse: Fuse = field(default_factory=Fuse)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def domains(self) -> list[str]:
        """All domains, once each, in order."""
        return list(dict.fromkeys(domain for group in self.groups.values() for domain in group))


def shipped_recipes() -> dict[str, str]:
    """Name of each shipped recipe to the first comment of its file."""
    folder = resources.files("longcat_cli") / "recipes"
    found: dict[str, str] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            found[entry.name[:-5]] = entry.read_text("utf-8").splitlines()[0].lstrip("# ")
    return found


def load_recipe(name_or_path: str, changes: list[str]) -> Recipe:
    """Build a recipe from a shipped name or a TOML file and `key=value` changes.

    Raises:
        UsageError: No such recipe, not TOML, an unknown key, or a value of the wrong type.
    """
    if name_or_path in shipped_recipes():
        text = (resources.files("longcat_cli") / "recipes" / f"{name_or_path}.toml").read_text(
            "utf-8"
        )
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text("utf-8")
    else:
        raise UsageError(
            f"--recipe must be one of {', '.join(shipped_recipes())} or a TOML file, "
            f"got {name_or_path!r}"
        )
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name_or_path} must be TOML: {error}") from error
    for change in changes:
        _set(raw, change)
    return recipe_from_dict(raw)


def recipe_from_dict(raw: dict[str, Any]) -> Recipe:
    """Build a recipe from nested tables; see `load_recipe` for the errors."""
    recipe = _build(Recipe, raw, "")
    if not recipe.groups or not all(recipe.groups.values()):
        raise UsageError("groups must name at least one expert with at least one domain")
    return recipe


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return nested tables that `recipe_from_dict` reads."""
    return dataclasses.asdict(recipe)


def _set(raw: dict[str, Any], change: str) -> None:
    path, found, text = change.partition("=")
    if not found:
        raise UsageError(f"--set must be key=value, got {change!r}")
    *parents, key = path.strip().split(".")
    table = raw
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {path}: {parent!r} is a value, not a section")
    try:
        table[key] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        table[key] = {"true": True, "false": False}.get(text, text)


def _build(kind: type, raw: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(kind)
    values = {}
    for key, value in raw.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=3, cutoff=0.5) or sorted(hints)
            raise UsageError(f"unknown key {where + key!r}; near it: {', '.join(near)}")
        values[key] = _check(hints[key], value, where + key)
    return kind(**values)


def _check(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise UsageError(f"{where} must be a section, got {value!r}")
        return _build(kind, value, f"{where}.")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    origin = get_origin(kind)
    if origin is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{where} must be one of {', '.join(get_args(kind))}, got {value!r}")
        return value
    if origin is list and isinstance(value, list | tuple):
        return [_check(get_args(kind)[0], item, where) for item in value]
    if origin is dict and isinstance(value, dict):
        return {str(k): _check(get_args(kind)[1], v, f"{where}.{k}") for k, v in value.items()}
    if (
        origin is None
        and isinstance(kind, type)
        and isinstance(value, kind)
        and not (kind is int and value is True)
    ):
        if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
            raise UsageError(f"{where} must not be negative, got {value!r}")
        return value
    name = getattr(kind, "__name__", str(kind))
    raise UsageError(f"{where} must be {name}, got {value!r}")
