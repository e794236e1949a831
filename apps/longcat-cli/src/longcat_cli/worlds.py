"""Worlds and tasks, read from files: no model is needed for these, and so no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from longcat_envs import Task, World


def read_tasks(path: Path) -> list[Task]:
    """Read a file of tasks."""
    return [Task.from_json(line) for line in path.read_text("utf-8").splitlines()]


def load_worlds(domains: Iterable[str]) -> dict[str, World]:
    """Load worlds by their domain's own name."""
    worlds = [World.load(domain) for domain in domains]
    return {world.domain.name: world for world in worlds}
