"""`longcat config`: what a recipe may say, and whether it is right."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated

import typer

config_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Recipes: what they may say, and whether one is right.",
)


@config_app.command("show", epilog="Example: longcat config show mini")
def config_show(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a TOML file.")] = "mini",
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print every key with its value, range and meaning, as TOML.

    To be edited and trained: `longcat train --recipe FILE`.
    """
    from longcat_cli.recipe_file import as_toml, keys, load_recipe, recipe_to_dict

    wanted = load_recipe(recipe)
    if as_json:
        typer.echo(json.dumps(recipe_to_dict(wanted), indent=2))
        return
    section = ""
    for key in sorted(keys(wanted), key=lambda key: key.name.count(".")):
        where, _, name = key.name.rpartition(".")
        if where != section:
            section = where
            typer.echo(f"\n[{section}]")
        rule = f" ({key.rule})" if key.rule else ""
        for line in textwrap.wrap(" ".join(key.meaning.split()) + rule, 96):
            typer.echo(f"# {line}")
        typer.echo(f"{name} = {as_toml(key.value)}")


@config_app.command("check", epilog="Example: longcat config check my.toml")
def config_check(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name or a TOML file.")],
) -> None:
    """Say every rule that a recipe breaks; exit code 2 if there is one."""
    from longcat_cli.checks import broken_rules
    from longcat_cli.recipe_file import load_recipe, mistakes

    lines = mistakes(recipe) or list(broken_rules(load_recipe(recipe)))
    for line in lines:
        typer.echo(f"longcat: {line}", err=True)
    if lines:
        raise SystemExit(2)
    typer.echo(f"{recipe} is right")
