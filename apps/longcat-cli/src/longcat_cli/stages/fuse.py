"""fuse: the experts into one model, over the cold start they share."""

from __future__ import annotations

from typing import Any

from longcat_fusion import MergeConfig, merge_folders

from longcat_cli.display import Display
from longcat_cli.folder import RunFolder


def run(folder: RunFolder, display: Display) -> dict[str, Any]:
    """Merge; return the facts."""
    fuse = folder.recipe.fuse
    experts = [folder.expert(group) / "model" for group in folder.recipe.groups]
    config = MergeConfig(
        normalise=fuse.normalise,
        drop=fuse.drop,
        erase=fuse.erase,
        scale=fuse.scale,
        # The average: what experts learned alike stays whole, what is noise of one run shrinks.
        weights=(1 / len(experts),) * len(experts),
        seed=folder.recipe.seed,
    )
    merge_folders(folder.cold_start, experts, folder.fused, config=config)
    display.update(done=1.0, experts=len(experts))
    return {"experts": list(folder.recipe.groups), "drop": fuse.drop, "scale": fuse.scale}
