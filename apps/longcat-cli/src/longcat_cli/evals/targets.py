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

from .domains import domains_of
from .names import asked_twice, ends_of, tell_apart
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
    names: tuple[str, ...]
    """What it may be called, short to long; the last ones are of no other model."""


def subjects(whats: Sequence[str], wish: Wish) -> tuple[list[Subject], RunFolder | None]:
    """The models that are meant, and the first run among them, whose tasks are used.

    Only what folders and names tell is looked at: no server is asked, and torch is not imported.

    Raises:
        UsageError: One is nothing that can be asked, or an option does not apply.
    """
    runs = [RunFolder.open(run) for what in whats if (run := run_of(what)) is not None]
    home = runs[0] if runs else None
    chosen = domains_of(wish.domains, home)
    found: list[Subject] = []
    for what in whats:
        if (Path(what) / "run.json").is_file():
            run = RunFolder.open(Path(what))
            found += _of_run(run, wish, chosen, is_alone=len(whats) == 1)
        else:
            recipe = home.recipe if home else Recipe()
            domains = chosen or domains_of(recipe.domains, home)
            found.append(_elsewhere(what, wish, domains))
    if wish.models and not any((Path(what) / "run.json").is_file() for what in whats):
        raise UsageError("--model names a model of a run, and none of these is a run folder")
    if wish.server_model and not any(s.target.kind == "server" for s in found):
        raise UsageError("--server-model goes with the URL of a server")
    longest = [subject.names[-1] for subject in found]
    for subject in found:
        if longest.count(subject.names[-1]) > 1:
            raise asked_twice(subject.names[0])
    for domain in dict.fromkeys(name for subject in found for name in subject.domains):
        held_out(domain, home, wish)
    return found, home


def named(found: Sequence[Subject], wish: Wish) -> list[Subject]:
    """The same models, servers asked for their model's name, all told apart.

    Raises:
        UsageError: A server does not answer, or a model cannot be fetched.
    """
    known = [_complete(subject, wish) for subject in found]
    shown = tell_apart([subject.names for subject in known])
    return [
        replace(subject, target=replace(subject.target, name=name))
        for subject, name in zip(known, shown, strict=True)
    ]


def run_of(what: str) -> Path | None:
    """The run folder that a path is, or lies in."""
    path = Path(what)
    if what.startswith(("http://", "https://")) or not path.is_dir():
        return None
    for folder in (path, *path.resolve().parents[:3]):
        if (folder / "run.json").is_file():
            return folder
    return None


def models_of(run: RunFolder) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """As `longcat_cli.stages.evaluate.models`, which imports torch."""
    groups, every = run.recipe.groups, tuple(run.recipe.domains)
    experts = {f"expert:{name}": (run.expert(name) / "model", tuple(domains))
               for name, domains in groups.items()}  # fmt: skip
    return {"cold_start": (run.cold_start, every), **experts,
            "merged": (run.merged, every), "fused": (run.fused, every)}  # fmt: skip


def _of_run(
    run: RunFolder, wish: Wish, chosen: tuple[str, ...], *, is_alone: bool
) -> list[Subject]:
    there = {name: place for name, place in models_of(run).items()
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
        names = [name] if is_alone else []
        names += [f"{end}/{name}" for end in ends_of(run.path)]
        names.append(f"{run.path.resolve()}:{name}")  # its folder may be asked beside it
        target = Target(names[0], "longcat", str(folder))
        found.append(Subject(target, chosen or domains_of(domains, run), tuple(names)))
    return found


def _elsewhere(what: str, wish: Wish, domains: tuple[str, ...]) -> Subject:
    """A server, a fetched model, or a folder."""
    if what.startswith(("http://", "https://")):
        return _on_server(what, wish.server_model or "", wish.api_key_env, domains)
    if what in SOURCES:
        target = Target(what, "transformers", str(models_root() / what))
        return Subject(target, domains, (what,))
    folder = Path(what)
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"a model must be a run folder, a checkpoint folder, a URL, or one of "
            f"{', '.join(SOURCES)}; {what!r} is none"
        )
    kind = str(read_json(folder / "config.json").get("model_type"))
    is_ours = kind.startswith("longcat_flash")
    given = what.rstrip("/")
    longer = (end for end in ends_of(folder) if len(end) > len(given))
    target = Target(given, "longcat" if is_ours else "transformers", what)
    return Subject(target, domains, (given, *longer, str(folder.resolve())))


def _on_server(url: str, model: str, api_key_env: str, domains: tuple[str, ...]) -> Subject:
    from urllib.parse import urlsplit

    from longcat_cli.server_talker import root_of

    root = urlsplit(root_of(url))
    whole = root._replace(netloc=root.netloc.lower()).geturl()
    names = (model, f"{root.netloc.lower()}/{model}", f"{whole}/{model}")
    return Subject(Target(model, "server", url, model, api_key_env), domains, names)


def _complete(subject: Subject, wish: Wish) -> Subject:
    """What takes a network: a server's model is asked for, one that is not here is fetched."""
    target = subject.target
    if target.kind == "server" and not target.server_model:
        model = ask_name(target.where, wish.api_key_env)
        return _on_server(target.where, model, wish.api_key_env, subject.domains)
    if target.name in SOURCES and not is_here(target.name) and target.kind == "transformers":
        return replace(subject, target=replace(target, where=str(get_model(target.name))))
    return subject


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


def held_out(domain: str, home: RunFolder | None, wish: Wish) -> list[str] | None:
    """What the run held out of a domain, as JSON, as much as is wished for; `None` if it has none.

    Raises:
        UsageError: More are wanted than were held out.
    """
    if home is None or domain not in home.recipe.domains:
        return None
    file = home.tasks(domain, "eval")
    if not file.is_file():
        return None
    lines = file.read_text("utf-8").splitlines()
    if wish.num_tasks is not None and wish.num_tasks > len(lines):
        raise UsageError(
            f"--tasks must be at most {len(lines)}, what {home.path} holds out of {domain}; "
            f"got {wish.num_tasks}"
        )
    return lines[: wish.num_tasks or home.recipe.evaluate.tasks]


def tasks_of(domain: str, home: RunFolder | None, wish: Wish) -> tuple[str, ...]:
    """Tasks of a domain, as JSON: those that the run held out, or as many grown anew.

    Raises:
        UsageError: More are wanted than were held out.
    """
    lines = held_out(domain, home, wish)
    if lines is not None:
        return tuple(lines)
    from longcat_cli.stages.grow import EVAL_SEED, grow_tasks

    recipe = home.recipe if home is not None else Recipe(grow=Grow())
    number = wish.num_tasks or NUM_GROWN
    grown = grow_tasks(domain, "eval", number, recipe.seed + EVAL_SEED, recipe)
    return tuple(task.to_json() for task in grown)
