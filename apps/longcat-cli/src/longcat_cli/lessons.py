"""Whether each stage of a run learned what it is there to learn, from the facts that it left.

A run can end with every artefact and have learned nothing: no group had both passes and failures,
no attempt passed that a fused model could learn from. That is said, and has an exit code of its
own.
"""

from __future__ import annotations

from pathlib import Path

from .folder import RunFolder

EXIT_CODE = 3
"""Of `longcat train` when a stage learned nothing."""


def unlearned(folder: RunFolder) -> list[str]:
    """Name each stage that is done and learned nothing, with the reason, a line for each."""
    recipe = folder.recipe
    wanted = {"cold_start": recipe.cold_start.steps}
    wanted |= {f"expert-{group}": recipe.rl.steps for group in recipe.groups}
    is_distilled = recipe.fuse.road == "distil"
    wanted["fuse"] = recipe.fuse.distil_steps if is_distilled else recipe.fuse.steps
    lines: list[str] = []
    for stage, steps in wanted.items():
        facts = folder.facts(stage)
        if facts and steps:
            lines += [f"{stage} learned nothing: {why}" for why in _why_nothing(facts, steps)]
    return lines


def _why_nothing(facts: dict[str, object], wanted: int) -> list[str]:
    steps, moved = facts.get("steps", 0), facts.get("moved", 0.0)
    if not steps:
        ended = facts.get("ended")
        about = f"; attempts ended as {ended}" if ended else ""
        return [f"it took 0 of {wanted} steps, since it found nothing to learn from{about}"]
    if not moved:
        return [f"{steps} steps left its weights as they were"]
    return []


def relative_change(before: Path, after: Path) -> float:
    """How far the weights of one checkpoint folder are from another's: |after - before| / |before|.

    What only `after` holds counts from zero: rows that are all zero may be written, or not.
    """
    from safetensors import safe_open

    change = norm = 0.0
    for file in sorted(after.glob("*.safetensors")):
        with safe_open(before / file.name, "pt") as old, safe_open(file, "pt") as new:
            begun_with = set(old.keys())
            for name in new.keys():  # noqa: SIM118 (not a dictionary)
                weight = new.get_tensor(name).double()
                base = old.get_tensor(name).double() if name in begun_with else weight * 0
                change += float((weight - base).square().sum())
                norm += float(base.square().sum())
    return (change / norm) ** 0.5 if norm else 0.0
