"""A run folder: the recipe, one artefact per stage, and which stages are done."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from .errors import UsageError
from .recipe import Recipe
from .recipe_file import recipe_from_dict, recipe_to_dict

FORMAT = 2
"""Raised when an older folder could no longer be continued."""


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path, self.recipe = path, recipe

    @classmethod
    def create(cls, path: Path, recipe: Recipe) -> RunFolder:
        """Begin a run in a folder that must not hold one."""
        check_new(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--out must be a folder that can be made: {error}") from error
        folder = cls(path, recipe)
        folder.save()
        return folder

    def save(self) -> None:
        """Write the recipe, and leave when the run was begun as it is."""
        file = self.path / "run.json"
        created = read_json(file)["created"] if file.exists() else time.time()
        recipe = recipe_to_dict(self.recipe)
        write_json(file, {"format": FORMAT, "created": created, "recipe": recipe})

    def note_session(self) -> None:
        """Write down on what machine, and with which versions, the run goes on from here."""
        from .machine import describe
        from .version import versions

        session = {"at": time.time(), "machine": describe(), "versions": list(versions())}
        write_json(self.path / "sessions.json", [*self.sessions(), session])

    def sessions(self) -> list[dict[str, Any]]:
        """Every start of the run: when, on what machine, with which versions."""
        file = self.path / "sessions.json"
        return read_json(file) if file.is_file() else []

    @property
    def created(self) -> float:
        """When the run was begun, in seconds since 1970."""
        return float(read_json(self.path / "run.json")["created"])

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Read a run folder."""
        file = path / "run.json"
        if not file.is_file():
            raise UsageError(f"a run folder must hold run.json, none in {path}")
        record = read_json(file)
        if not isinstance(record, dict):
            raise UsageError(f"{file} must be what longcat wrote, it holds {str(record)[:40]!r}")
        if record.get("format") != FORMAT:
            raise UsageError(
                f"{path} must be of run format {FORMAT}, is of {record.get('format')}: it was "
                f"written by another version of longcat"
            )
        for key, kind in (("recipe", dict), ("created", int | float)):
            if not isinstance(record.get(key), kind):
                raise UsageError(f"{file} must be what longcat wrote, its {key!r} is damaged")
        try:
            return cls(path, recipe_from_dict(record["recipe"]))
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from error

    def tasks(self, domain: str, split: str) -> Path:
        """Tasks of a domain: `train` or `eval`."""
        return self.path / "environments" / f"{Path(domain).stem}.{split}.jsonl"

    @property
    def cold_start(self) -> Path:
        """The model after cold start."""
        return self.path / "cold_start"

    def expert(self, group: str) -> Path:
        """An expert's run; its model is in `model`."""
        return self.path / "experts" / group

    @property
    def merged(self) -> Path:
        """The experts' weights merged, before anything more is learned."""
        return self.path / "merged"

    @property
    def distil(self) -> Path:
        """The run in which the merged model is distilled from the experts, if that is its road."""
        return self.path / "distil"

    @property
    def fused(self) -> Path:
        """The fused model."""
        return self.path / "fused"

    @property
    def cells(self) -> Path:
        """What the evaluation has found so far."""
        return self.path / "evaluation.part.json"

    @property
    def is_trained(self) -> bool:
        """Whether there is a fused model to talk to."""
        return (self.fused / "config.json").is_file()

    def is_done(self, stage: str) -> bool:
        """Whether a stage has left its mark."""
        return (self.path / "stages" / f"{stage}.json").is_file()

    def mark_done(self, stage: str, facts: dict[str, Any]) -> None:
        """Leave the mark of a stage."""
        write_json(self.path / "stages" / f"{stage}.json", facts)

    def facts(self, stage: str) -> dict[str, Any]:
        """What a stage noted when it was done."""
        file = self.path / "stages" / f"{stage}.json"
        facts = read_json(file) if file.is_file() else {}
        if not isinstance(facts, dict):
            raise UsageError(f"{file} must be what longcat wrote; without it, the stage runs again")
        return facts

    def spent_s(self, stages: Iterable[str]) -> float:
        """Seconds in which any of these stages went on; those beside each other count once."""
        spans: list[tuple[float, float]] = []
        spent = 0.0
        for facts in map(self.facts, stages):
            if "began" in facts:
                spans.append((facts["began"], facts["began"] + facts["seconds"]))
            else:
                spent += facts.get("seconds", 0.0)
        until = 0.0
        for began, ended in sorted(spans):
            spent += max(0.0, ended - max(began, until))
            until = max(until, ended)
        return spent


def newest_run(root: Path = Path("runs")) -> RunFolder:
    """The run that was begun last among those with a trained model.

    Raises:
        UsageError: There is none.
    """
    found: list[RunFolder] = []
    for path in sorted(root.glob("*/run.json")):
        try:
            found.append(RunFolder.open(path.parent))
        except UsageError:  # another version's, or damaged: not one to talk to
            continue
    trained = [folder for folder in found if folder.is_trained]
    if not trained:
        raise UsageError(f"a trained model must be in {root}/, none was found; run: longcat train")
    return max(trained, key=lambda folder: folder.created)


def chosen_run(path: Path | None) -> RunFolder:
    """The run that was named, or the newest, and then say which one that is.

    Raises:
        UsageError: There is no such run, or none.
    """
    if path is not None:
        return RunFolder.open(path)
    found = newest_run()
    typer.echo(f"newest run: {found.path}", err=True)
    return found


def check_new(path: Path) -> None:
    """Refuse a folder in which no run can begin; nothing is written.

    Raises:
        UsageError: It holds something, is none, or cannot be made.
    """
    try:
        if (path / "run.json").exists():
            raise UsageError(f"{path} holds a run already; continue it with --resume {path}")
        if path.is_dir() and any(path.iterdir()):
            raise UsageError(f"--out must be a new or an empty folder, {path.resolve()} is neither")
        place = path.absolute()
        while not (place.exists() or place.is_symlink()):
            place = place.parent
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise UsageError(f"--out must be a folder that can be made: {error}") from error
    if not place.is_dir():
        raise UsageError(f"--out must be a folder that can be made: {place} is none")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"--out must be a folder that can be made: {place} is not writable")


def read_json(path: Path) -> Any:
    """Read a JSON file that a person may have written.

    Raises:
        UsageError: It is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8
        raise UsageError(f"{path} must be JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
