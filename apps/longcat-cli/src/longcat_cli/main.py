"""The `longcat` command. Commands parse, build a config and call; the rest is elsewhere."""

from __future__ import annotations

import sys


def _stop() -> NoReturn:
    """End at Ctrl-C where nothing was begun that could go on."""
    print("\nstopped", file=sys.stderr)
    raise SystemExit(130) from None


try:  # on a slow machine this takes a second, and Ctrl-C must not show where it was
    import atexit
    import errno
    import gc
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Any, NoReturn

    import typer
    from typer.core import TyperGroup

    from .audit_command import audit
    from .config_command import config_app
    from .doctor import doctor
    from .errors import UsageError
    from .eval_command import evaluate
    from .models_command import models_app
    from .rl import rl
    from .runs_command import runs_app
    from .sft import sft
    from .version import versions
except KeyboardInterrupt:
    _stop()

if TYPE_CHECKING:
    from .folder import RunFolder


class _Commands(TyperGroup):
    """Commands that say that they were stopped; Typer would end without a word."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the line."""
        try:
            return super().make_context(*args, **extra)
        except KeyboardInterrupt:
            _stop()

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the line."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _stop()


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes take a third of the time of --help, and a mistake five lines
    help="Train an agent from nothing, then talk to it. Start with: longcat train",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_app, name="models")
app.add_typer(config_app, name="config")
app.add_typer(runs_app, name="runs")
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""For commands that a package has itself: the rest of the line is its own, `--help` too."""


@app.callback(invoke_without_command=True)
def about(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show versions and exit.")] = False,
) -> None:
    """Train an agent from nothing, then talk to it. Start with: `longcat train`."""
    if version:
        for line in versions():
            typer.echo(line)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(epilog="Example: longcat train --set rl.steps=20 --out runs/short")
def train(
    recipe: Annotated[
        str | None, typer.Option(help="A shipped recipe's name or a TOML file; mini when absent.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, such as rl.steps=20. Repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; runs/DATE-TIME when absent.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Continue this run folder.")] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="local or ray: where rollouts are made; as --set rl.runtime=."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all, show the plan and what it takes, and end.")
    ] = False,
    show_list: Annotated[bool, typer.Option("--list", help="Show the shipped recipes.")] = False,
) -> None:
    """Grow worlds, train experts in them, fuse, evaluate, report.

    Exit code 3: everything ran, and a stage learned nothing; it is named.
    """
    from .recipe_file import shipped_recipes
    from .start import begin, plan, resumed

    if show_list:
        for name, about in shipped_recipes().items():
            typer.echo(f"{name:8} {about}")
        return
    if runtime is not None:
        changes = [*(changes or []), f"rl.runtime={runtime}"]
    if resume is not None:
        if out is not None or recipe is not None:
            raise UsageError(
                "--resume continues the recipe of its run: no --recipe or --out with it; "
                "--set changes what is still to come"
            )
        folder = resumed(resume, changes or [], echo=typer.echo, dry_run=dry_run)
    else:
        folder = begin(recipe or "mini", changes or [], out, dry_run=dry_run, echo=typer.echo)
    if dry_run:
        for line in plan(folder):
            typer.echo(line)
        return
    typer.echo(f"run folder: {folder.path}")
    try:
        averages = _run(folder)
    except KeyboardInterrupt:
        typer.echo(f"\nstopped; continue with: longcat train --resume {folder.path}", err=True)
        raise SystemExit(130) from None
    for key, rate in averages.items():
        if "@" in key:
            typer.echo(f"{key:18} {rate:.1%}")
    typer.echo(f"report: {folder.path / 'report.html'}")
    raise SystemExit(_lessons(folder))


def _run(folder: RunFolder) -> dict[str, Any]:
    """Say what this machine may lack; train all the same."""
    from .start import lacks
    from .train import train as run_train

    for line in lacks(folder):
        typer.echo(f"longcat: warning: {line}", err=True)
    return run_train(folder)


def _lessons(folder: RunFolder) -> int:
    """Say what learned nothing; return the exit code."""
    from .lessons import EXIT_CODE, unlearned

    lines = unlearned(folder)
    for line in lines:
        typer.echo(f"longcat: {line}", err=True)
    return EXIT_CODE if lines else 0


@app.command(epilog="Example: longcat chat --domain library --noise 0.2")
def chat(
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint folder, a fetched model's name, or a server's URL."),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="The world to act in: of the run, or one with a past (bank).")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="A task id of the run, such as shop-eval-00003.")
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Level of noise, 0 to 1.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="The run folder; the newest when absent.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt, with --model.")] = None,
    tools: Annotated[
        str | None,
        typer.Option(help="A JSON file of tools, with --model; `command` in one is its program."),
    ] = None,
    heavy: Annotated[
        int | None,
        typer.Option(help="Think this many times, then once about the answers; with --model."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Per answer, with --model; 256 when absent.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 is greedy; with --model, 0.7 when absent.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Variable that holds the server's key; OPENAI_API_KEY.")
    ] = None,
    server_model: Annotated[
        str | None, typer.Option(help="The model's name on the server; asked for when absent.")
    ] = None,
) -> None:
    """Talk to the newest trained model in its world, or to --model.

    In the conversation: /help, /reset, /save FILE, /quit; Ctrl-C stops an answer.
    """
    in_world = {"domain": domain, "task": task, "noise": noise, "run": run}
    plain = {
        "system": system, "tools": tools, "heavy": heavy, "max_tokens": max_tokens,
        "temperature": temperature, "api_key_env": api_key_env, "server_model": server_model,
    }  # fmt: skip
    if model is None:
        _refuse(plain, "--model: without it, the newest trained model acts in its world")
        if not 0 <= (noise or 0) <= 1:
            raise UsageError(f"--noise must be in [0, 1], got {noise}")
        from .world_chat import world_chat

        world_chat(run, domain=domain, task=task, noise=noise or 0.0)
        return
    _refuse(in_world, "a trained model in its world, without --model")
    least = {"heavy": 1, "max_tokens": 1, "temperature": 0}
    for name, value in plain.items():
        if name in least and value is not None and not float(str(value)) >= least[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} must be at least {least[name]}, got {value}"
            )
    from .chat import ChatOptions, plain_chat

    given: dict[str, Any] = {name: value for name, value in plain.items() if value is not None}
    plain_chat(model, ChatOptions(**given))


def _refuse(options: dict[str, Any], goes_with: str) -> None:
    """Options that would be ignored are refused."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')} goes with {goes_with}")


@app.command(epilog="Example: longcat serve runs/20261124-101500/fused --port 8000")
def serve(
    model: Annotated[
        Path | None,
        typer.Argument(help="A LongCat checkpoint folder; the newest run's when absent."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to bind.")] = 8000,
    name: Annotated[str, typer.Option(help="What clients call the model; its folder's name.")] = "",
    slots: Annotated[int, typer.Option(help="Answers written at once; further ones wait.")] = 16,
    max_waiting: Annotated[int, typer.Option(help="Answers that may wait; further get 429.")] = 256,
    max_length: Annotated[
        int, typer.Option(help="Tokens of prompt and answer; 0: as trained.")
    ] = 0,
    max_tokens: Annotated[int, typer.Option(help="Of an answer, if a client does not say.")] = 512,
    speculate: Annotated[
        bool, typer.Option(help="Guess ahead with the model's prediction head.")
    ] = False,
    takes_weights: Annotated[
        bool,
        typer.Option(help="Let clients replace the weights, as training over this server does."),
    ] = False,
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Variable with the keys that clients must show, separated by commas."),
    ] = None,
    max_per_key: Annotated[
        int | None, typer.Option(help="Requests of one key under way; further get 429.")
    ] = None,
) -> None:
    """Serve a model over OpenAI's chat API.

    With streaming, tools, forced calls and JSON schemas, to several clients at once.
    """
    from .serve import serve_model

    serve_model(
        model, host=host, port=port, name=name, slots=slots, max_waiting=max_waiting,
        max_length=max_length, max_tokens=max_tokens, speculate=speculate,
        takes_weights=takes_weights, api_key_env=api_key_env, max_per_key=max_per_key,
    )  # fmt: skip


app.command(epilog="Example: longcat audit runs/20261124-101500")(audit)
app.command("eval", epilog="Example: longcat eval runs/NAME --noise 0 --noise 0.3 -k 1 -k 4")(
    evaluate
)
app.command(epilog="Example: longcat doctor --json")(doctor)
app.command(epilog="Example: longcat rl --model smollm2-135m --tasks t.jsonl --reward my.py:score")(
    rl
)
app.command(epilog="Example: longcat sft --model smollm2-135m --data chat.jsonl")(sft)


@app.command(context_settings=PASSED_ON)
def fuse(context: typer.Context) -> None:
    """Merge checkpoints of your own: plan, merge, report."""
    from longcat_fusion.__main__ import main

    raise typer.Exit(main(context.args))


@app.command(context_settings=PASSED_ON)
def think(context: typer.Context) -> None:
    """Think several times, then once about the answers."""
    from longcat_heavythink.__main__ import main

    raise typer.Exit(main(["think", *context.args]))


@app.command(context_settings=PASSED_ON)
def envs(context: typer.Context) -> None:
    """Worlds: list, grow, audit and play them."""
    from longcat_envs.__main__ import main

    raise typer.Exit(main(context.args))


def run() -> None:
    """Entry point: a user's mistake is one message and exit code 2."""
    # Else the interpreter looks through all that a run holds as it ends, for seconds.
    atexit.register(gc.freeze)
    try:
        app()
    except KeyboardInterrupt:  # before there is a command
        _stop()
    except Exception as error:
        if _was_stopped(error):
            _stop()
        where = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
        if _is_disk_full(error):
            goes_on = sys.argv[1:2] in (["train"], ["rl"])
            then = "continue with --resume. Nothing done is lost" if goes_on else "run it again"
            _fail(f"{where}the disk is full; make room, then {then}")
        if isinstance(error, UsageError | FileNotFoundError | ValueError):
            _fail(f"{where}{error}")
        if isinstance(error, OSError) and error.filename is not None:  # no such, not allowed ...
            _fail(f"{where}{error}")
        # Known without importing the packages.
        if {kind.__name__ for kind in type(error).__mro__} & {
            "LongcatDoraError",
            "HeavyThinkError",
            "StageDied",
        }:
            _fail(f"{where}{error}")
        raise


def _was_stopped(error: BaseException | None) -> bool:
    """Whether Ctrl-C is at the root: a library that it left half loaded fails in its own way."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk is at the root; libraries wrap the system's error in their own."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error):
            return True
        if "PytorchStreamWriter failed" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fail(message: str) -> NoReturn:
    print(f"longcat: {message}", file=sys.stderr)
    raise SystemExit(2) from None


if __name__ == "__main__":
    run()
