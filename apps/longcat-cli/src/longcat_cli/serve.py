"""`longcat serve`: one of our models behind OpenAI's chat API."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import typer

from .errors import UsageError
from .folder import chosen_run

_LONGEST = 8192
"""Tokens of a conversation where the caller sets none: the cache is laid out for all slots."""

_LEAST = {"max_waiting": 0, "max_length": 0}
"""Of options that may be 0; others must be at least 1."""


def serve_model(
    model: Path | None,
    *,
    host: str,
    port: int,
    name: str,
    slots: int,
    max_waiting: int,
    max_length: int,
    max_tokens: int,
    speculate: bool,
    takes_weights: bool,
    api_key_env: str | None = None,
    max_per_key: int | None = None,
) -> None:
    """Load, then serve until interrupted."""
    check_numbers(
        port=port, slots=slots, max_waiting=max_waiting, max_length=max_length,
        max_tokens=max_tokens, max_per_key=max_per_key,
    )  # fmt: skip
    if max_per_key is not None and api_key_env is None:
        raise UsageError("--max-per-key goes with --api-key-env")
    keys = dict.fromkeys(_keys(api_key_env), max_per_key)
    folder = model if model is not None else chosen_run(None).fused
    _check_free(host, port)
    from longcat_moe import Engine, LongcatForCausalLM, load_chat_format
    from longcat_moe.server import create_app, serve

    chat = load_chat_format(folder)
    network = LongcatForCausalLM.from_pretrained(folder)
    engine = Engine(
        network.config, num_slots=slots, max_waiting=max_waiting, speculate=speculate,
        threaded=True,
        max_length=max_length or min(network.config.max_position_embeddings, _LONGEST),
        decode=lambda ids: chat.tokenizer.decode(ids, skip_special_tokens=False),
    )  # fmt: skip
    engine.add_model(0, network)
    name = name or folder.resolve().name
    typer.echo(f"{name} at http://{host}:{port}/v1 (Ctrl-C ends)")
    app = create_app(
        engine, chat, model=name, max_tokens=max_tokens, takes_weights=takes_weights, api_keys=keys
    )
    serve(app, host=host, port=port)


def check_numbers(**numbers: int | None) -> None:
    """Refuse an option that is out of range, by its name; those that are absent are right.

    Raises:
        UsageError: Of the first such option.
    """
    for name, number in numbers.items():
        option = f"--{name.replace('_', '-')}"
        if number is None:
            continue
        if name == "port" and not 0 < number < 65536:
            raise UsageError(f"{option} must be in 1 to 65535, got {number}")
        least = _LEAST.get(name, 1)
        if number < least:
            raise UsageError(f"{option} must be at least {least}, got {number}")


def _keys(variable: str | None) -> list[str]:
    """Keys of clients, from a variable: on the command line, anybody here could read them."""
    if variable is None:
        return []
    keys = [key for key in os.environ.get(variable, "").replace(",", " ").split() if key]
    if not keys:
        raise UsageError(f"--api-key-env {variable}: the variable must hold a key, it is empty")
    return keys


def _check_free(host: str, port: int) -> None:
    """Say that a port is taken before a model is loaded for nothing."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, ValueError) as error:  # a name that is none, too
        number, told = getattr(error, "errno", None), getattr(error, "strerror", None)
        why = "is taken" if number == errno.EADDRINUSE else f"cannot be had: {told or error}"
        raise UsageError(f"--host {host} --port {port} {why}") from error
