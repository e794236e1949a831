"""What `longcat eval` asks, and on which tasks.

A run's model is asked about the tasks that the run held out; elsewhere tasks are grown anew, the
same ones for every model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder, read_json
from longcat_cli.models import SOURCES, get_model, is_here, models_root
from longcat_cli.recipe import Grow, Recipe

from .trials import Limits, Target

NUM_GROWN = 60
"""Tasks of a domain where no run has held any out."""
MODELS = "cold_start, expert:NAME, merged, fused or all"


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked for; `None` and empty leave the choice to the model."""

    models: tuple[str, ...] = ()
    """Of runs: see `MODELS`."""
    domains: tuple[str, ...] = ()
    num_tasks: int | None = None
    max_tokens: int | None = None
    max_turns: int | None = None
    max_length: int | None = None
    temperature: float | None = None
    server_model: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    num_running: int = 32
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """A model with the domains it is asked about."""

    target: Target
    domains: tuple[str, ...]


def subjects(whats: Sequence[str], wish: Wish) -> tuple[list[Subject], RunFolder | None]:
    """The models that are meant, and the first run among them, whose tasks are used.

    Raises:
        UsageError: One is nothing that can be asked, or an option does not apply.
    """
    runs = [RunFolder.open(run) for what in whats if (run := run_of(what)) is not None]
    home = runs[0] if runs else None
    found: list[Subject] = []
    for what in whats:
        if (Path(what) / "run.json").is_file():
            found += _of_run(RunFolder.open(Path(what)), wish, is_alone=len(whats) == 1)
        else:
            domains = wish.domains or tuple((home.recipe if home else Recipe()).domains)
            found.append(Subject(_target(what, wish), domains))
    if wish.models and not any((Path(what) / "run.json").is_file() for what in whats):
        raise UsageError("--model names a model of a run, and none of these is a run folder")
    if wish.server_model and not any(s.target.kind == "server" for s in found):
        raise UsageError("--server-model goes with the URL of a server")
    names = [subject.target.name for subject in found]
    if len(set(names)) < len(names):
        raise UsageError(f"each model can be asked once, got {', '.join(names)}")
    return found, home


def run_of(what: str) -> Path | None:
    """The run folder that a path is, or lies in."""
    path = Path(what)
    if what.startswith(("http://", "https://")) or not path.is_dir():
        return None
    for folder in (path, *path.resolve().parents[:3]):
        if (folder / "run.json").is_file():
            return folder
    return None


def _of_run(run: RunFolder, wish: Wish, *, is_alone: bool) -> list[Subject]:
    from longcat_cli.stages.evaluate import models

    there = {name: place for name, place in models(run).items()
             if (place[0] / "config.json").is_file()}  # fmt: skip
    wanted = wish.models or ("fused",)
    if "all" in wanted:
        wanted = tuple(there)
    found: list[Subject] = []
    for name in wanted:
        if name not in there:
            known = ", ".join(there) or "none yet"
            raise UsageError(f"--model must be {MODELS}; {run.path} has {known}, and not {name!r}")
        folder, domains = there[name]
        shown = name if is_alone else f"{run.path.name}/{name}"
        chosen = wish.domains or tuple(domains)
        found.append(Subject(Target(shown, "longcat", str(folder)), chosen))
    return found


def _target(what: str, wish: Wish) -> Target:
    if what.startswith(("http://", "https://")):
        model = wish.server_model or ask_name(what, wish.api_key_env)
        return Target(model, "server", what, model, wish.api_key_env)
    if what in SOURCES:
        folder = models_root() / what if is_here(what) else get_model(what)
        return Target(what, "transformers", str(folder))
    folder = Path(what)
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"a model must be a run folder, a checkpoint folder, a URL, or one of "
            f"{', '.join(SOURCES)}; {what!r} is none"
        )
    kind = str(read_json(folder / "config.json").get("model_type"))
    is_ours = kind.startswith("longcat_flash")
    return Target(what.rstrip("/"), "longcat" if is_ours else "transformers", what)


def ask_name(url: str, api_key_env: str) -> str:
    """What a server calls its model.

    Raises:
        UsageError: It cannot be reached, or wants a key.
    """
    import asyncio
    import os

    import httpx

    from longcat_cli.server_talker import first_model, root_of

    key = os.environ.get(api_key_env, "")

    async def ask() -> str:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(timeout=10, headers=headers) as client:
            return await first_model(client, root_of(url))

    try:
        return asyncio.run(ask())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise UsageError(f"{root_of(url)} must answer, but: {why}") from error


def limits_for(home: RunFolder | None, wish: Wish, target: Target) -> Limits:
    """The run's own limits for our models, room for wordier ones; what was wished for first."""
    rl = (home.recipe if home else Recipe()).rl
    is_ours = target.kind == "longcat"
    limits = Limits(
        max_length=rl.max_length if is_ours else 4096,
        max_tokens=rl.max_tokens if is_ours or (home and target.kind == "server") else 256,
        max_turns=rl.max_turns,
        temperature=rl.temperature,
        num_running=wish.num_running,
        seed=wish.seed,
    )
    names = ("max_tokens", "max_turns", "max_length", "temperature")
    wished = {name: value for name in names if (value := getattr(wish, name)) is not None}
    return replace(limits, **wished)


def tasks_of(domain: str, home: RunFolder | None, wish: Wish) -> tuple[str, ...]:
    """Tasks of a domain, as JSON: those that the run held out, or as many grown anew.

    Raises:
        UsageError: More are wanted than were held out.
    """
    file = home.tasks(domain, "eval") if home is not None else None
    if file is not None and home is not None and domain in home.recipe.domains and file.is_file():
        lines = file.read_text("utf-8").splitlines()
        if wish.num_tasks is not None and wish.num_tasks > len(lines):
            raise UsageError(
                f"--tasks must be at most {len(lines)}, what {home.path} holds out of {domain}; "
                f"got {wish.num_tasks}"
            )
        return tuple(lines[: wish.num_tasks or home.recipe.evaluate.tasks])
    from longcat_cli.stages.grow import EVAL_SEED, grow_tasks

    recipe = home.recipe if home is not None else Recipe(grow=Grow())
    number = wish.num_tasks or NUM_GROWN
    grown = grow_tasks(domain, "eval", number, recipe.seed + EVAL_SEED, recipe)
    return tuple(task.to_json() for task in grown)
