"""`longcat-heavythink think | serve | report | evaluate`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ._budget import Budget
from ._checks import check_whole
from ._journal import Journal
from ._page import journal_page
from ._panel import Panel
from ._prompts import PROMPTS
from ._scorers import Judge
from ._think import HeavyAnswer, HeavyConfig, think
from .evaluate import Problem, Row, SimulatedSolver, evaluate, read_problems
from .proxy import ProxyConfig, serve
from .schedule import HeavyThinkError, heavy, parse_schedule
from .transport import Endpoint, EndpointConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except (ValueError, OSError, HeavyThinkError) as error:
        print(f"longcat-heavythink: {error}", file=sys.stderr)
        # What the caller can mend by calling it otherwise is told from what went wrong meanwhile.
        return 2 if isinstance(error, ValueError | FileNotFoundError) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longcat-heavythink", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ask = commands.add_parser("think", help="think K times about a question, then once more")
    ask.add_argument("question", help="the question, or - for standard input")
    _endpoint_options(ask)
    ask.add_argument("--k", type=int, default=4, help="thinkers (default 4)")
    ask.add_argument("--schedule", help="another schedule, such as vote:16 or rsa:8,3,4")
    ask.add_argument("--system", default="", help="system message")
    ask.add_argument("--temperature", type=float, default=1.0, help="of the thinkers")
    ask.add_argument("--language", choices=sorted(PROMPTS), default="en", help="of the prompts")
    ask.add_argument("--seed", type=int, default=0, help="of permutations")
    ask.add_argument("--budget-tokens", type=int, help="the most tokens of all calls together")
    ask.add_argument("--budget-time", type=float, help="the most seconds")
    ask.add_argument("--journal", help="record every call here; resumes what it holds")
    ask.add_argument("--json", action="store_true", help="print the answer and its calls as JSON")
    ask.set_defaults(run=_think)
    server = commands.add_parser("serve", help="heavy thinking for any OpenAI client")
    server.add_argument("--upstream", required=True, help="base address of the model's server")
    _endpoint_options(server, has_url=False)
    server.add_argument("--host", default="127.0.0.1", help="address to bind")
    server.add_argument("--port", type=int, default=8080, help="port to bind; 0 takes a free one")
    server.add_argument("--schedule", default="heavy:8", help="for model names that say none")
    server.add_argument("--max-calls", type=int, default=128, help="of one request")
    server.add_argument("--max-in-flight", type=int, default=8, help="requests of one client")
    server.add_argument("--per-minute", type=int, default=0, help="requests of one client")
    server.add_argument("--journal", help="record every call here")
    server.set_defaults(run=_serve)
    report = commands.add_parser("report", help="a journal as one HTML page")
    report.add_argument("journal")
    report.add_argument("--out", help="file to write; standard output when absent")
    report.set_defaults(run=_report)
    measure = commands.add_parser("evaluate", help="metrics of a journal with marked answers")
    measure.add_argument("journal", nargs="?", help="absent: a simulated solver")
    measure.add_argument("--ks", default="1,2,4,8,16", help="numbers of attempts")
    measure.add_argument("--accuracy", type=float, default=0.6, help="of the simulated solver")
    measure.add_argument("--correlation", type=float, default=0.2, help="of its attempts")
    measure.add_argument("--insight", type=float, default=0.9, help="of its summaries")
    measure.add_argument("--problems", type=int, default=200, help="to simulate")
    measure.add_argument("--seed", type=int, default=0)
    measure.add_argument("--json", action="store_true", help="print the rows as JSON")
    measure.set_defaults(run=_evaluate)
    return parser


def _endpoint_options(parser: argparse.ArgumentParser, *, has_url: bool = True) -> None:
    if has_url:
        default = os.environ.get("OPENAI_BASE_URL", "http://localhost:8000/v1")
        parser.add_argument("--url", default=default, help="base address (or OPENAI_BASE_URL)")
    parser.add_argument("--model", default="", help="its name; absent: the server's only one")
    parser.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", help="environment variable with the key"
    )
    parser.add_argument("--max-tokens", type=int, default=4096, help="of one answer")
    parser.add_argument("--max-connections", type=int, default=64, help="to the server")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds without a byte")


def _endpoint(options: argparse.Namespace, url: str, key: str) -> EndpointConfig:
    return EndpointConfig(
        url=_base_of(url), model=options.model, api_key=key, max_tokens=options.max_tokens,
        timeout_s=options.timeout, max_connections=options.max_connections,
    )  # fmt: skip


def _base_of(url: str) -> str:
    """Of a server that is named without a path: its API lies under /v1."""
    is_bare = urlsplit(url).path in ("", "/")
    return f"{url.rstrip('/')}/v1" if is_bare else url


def _think(options: argparse.Namespace) -> int:
    question = sys.stdin.read() if options.question == "-" else options.question
    if not question.strip():
        raise ValueError("the question must not be empty")
    check_whole("--k", options.k)
    schedule = parse_schedule(options.schedule) if options.schedule else heavy(options.k)
    panel = Panel(sys.stderr, sys.stdout)
    stream = "all" if sys.stderr.isatty() else "last"
    config = HeavyConfig(
        schedule=schedule, temperature=options.temperature, seed=options.seed,
        prompts=PROMPTS[options.language], stream="none" if options.json else stream,
    )  # fmt: skip
    budget = None
    if options.budget_tokens is not None or options.budget_time is not None:
        budget = Budget(max_tokens=options.budget_tokens, max_time_s=options.budget_time)
    key = os.environ.get(options.api_key_env, "")
    endpoint = Endpoint(_endpoint(options, options.url, key))
    messages: list[dict[str, Any]] = []
    if options.system:
        messages.append({"role": "system", "content": options.system})
    messages.append({"role": "user", "content": question})
    with Journal(options.journal) if options.journal else contextlib.nullcontext() as journal:
        try:
            answer = asyncio.run(
                think(messages, endpoint, config=config, budget=budget, scorer=Judge(endpoint),
                      journal=journal, on_event=None if options.json else panel)
            )  # fmt: skip
        except HeavyThinkError:
            panel.clear()
            raise
    if options.json:
        print(json.dumps(_told(answer), ensure_ascii=False, indent=2))
        return 0
    is_streamed = panel.has_answered and not answer.fell_back
    if not is_streamed:
        print(answer.answer, end="")
    for call in answer.reply.tool_calls:
        print(f"\n[calls {call.name} with {call.arguments}]", end="")
    print(flush=True)
    _say_totals(answer)
    return 0


def _say_totals(answer: HeavyAnswer) -> None:
    about = "about " if answer.usage.estimated else ""
    used = f"{about}{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens"
    words = [f"decided by {answer.decided_by}", f"{len(answer.records)} calls", used,
             f"{answer.total_s:.1f} s"]  # fmt: skip
    if answer.fell_back:
        words.insert(0, answer.fell_back)
    print("  " + "; ".join([*words, *answer.warnings]), file=sys.stderr)


def _told(answer: HeavyAnswer) -> dict[str, Any]:
    calls = [
        {
            "stage": record.stage, "index": record.index, "text": record.reply.text,
            "failure": record.reply.failure.message if record.reply.failure else None,
            "prompt_tokens": record.usage.prompt_tokens,
            "completion_tokens": record.usage.completion_tokens,
            "seconds": round(record.total_s, 3),
        }
        for record in answer.records
    ]  # fmt: skip
    return {
        "answer": answer.answer, "decided_by": answer.decided_by, "fell_back": answer.fell_back,
        "tool_calls": [call.to_message() for call in answer.reply.tool_calls],
        "prompt_tokens": answer.usage.prompt_tokens,
        "completion_tokens": answer.usage.completion_tokens,
        "is_estimated": answer.usage.estimated, "seconds": round(answer.total_s, 3),
        "warnings": answer.warnings, "calls": calls,
    }  # fmt: skip


def _serve(options: argparse.Namespace) -> int:
    upstream = _endpoint(options, options.upstream, os.environ.get(options.api_key_env, ""))
    journals = Journal(options.journal, can_resume=False) if options.journal else None
    with journals or contextlib.nullcontext() as journal:
        config = ProxyConfig(
            upstream=upstream, schedule=options.schedule, max_calls=options.max_calls,
            max_in_flight=options.max_in_flight, per_minute=options.per_minute, journal=journal,
        )  # fmt: skip

        def ready(address: str) -> None:
            print(f"{address} thinks {options.schedule} over {options.upstream}", flush=True)

        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(config, host=options.host, port=options.port, on_ready=ready))
    return 0


def _report(options: argparse.Namespace) -> int:
    page = journal_page(options.journal)
    if options.out:
        Path(options.out).write_text(page, "utf-8")
        print(options.out)
    else:
        sys.stdout.write(page)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    try:
        ks = [int(k) for k in options.ks.split(",")]
    except ValueError:
        words = f"--ks must be whole numbers, such as 1,2,4, got {options.ks!r}"
        raise ValueError(words) from None
    if options.journal:
        problems = read_problems(options.journal)
        if not problems:
            raise ValueError(f"{options.journal} must hold runs that were marked with a truth")
        fewest = min(len(problem.attempts) for problem in problems)
        ks = [k for k in ks if k <= fewest] or [fewest]
    else:
        problems = asyncio.run(_simulated(options, ks))
    rows = evaluate(problems, ks, seed=options.seed)
    if options.json:
        print(json.dumps([_row(row) for row in rows], indent=2))
        return 0
    head = ("k", "mean@k", "vote@k", "pass@k", "heavy-mean@k", "heavy-pass@k", "tokens", "heavy's")
    print(f"{len(problems)} problems; 95% intervals over problems")
    print("  ".join(f"{name:>22}" if "@" in name else f"{name:>8}" for name in head))
    for row in rows:
        spent = f"{row.heavy_tokens:8.0f}" if row.heavy_tokens is not None else f"{'-':>8}"
        cells = [row.mean, row.vote, row.passed, row.heavy_mean or "-", row.heavy_pass or "-"]
        shown = "  ".join(f"{cell!s:>22}" for cell in cells)
        print(f"{row.k:>8}  {shown}  {row.tokens:8.0f}  {spent}")
    return 0


async def _simulated(options: argparse.Namespace, ks: Sequence[int]) -> list[Problem]:
    solver = SimulatedSolver(
        accuracy=options.accuracy, correlation=options.correlation, insight=options.insight,
        seed=options.seed,
    )  # fmt: skip
    problems: list[Problem] = []
    for number in range(options.problems):
        ask = [{"role": "user", "content": f"problem {number}"}]
        problem = Problem(solver.truth(number))
        for k in ks:
            answer = await think(ask, solver, config=HeavyConfig(width=k))
            if k == max(ks):
                first = [record for record in answer.records if record.stage == 0]
                problem.attempts = [r.reply.text.removeprefix("answer: ") for r in first]
                problem.tokens = [r.usage.total_tokens for r in first]
            problem.heavy[k] = [answer.answer.removeprefix("answer: ")]
            problem.heavy_tokens[k] = [answer.usage.total_tokens]
        problems.append(problem)
    return problems


def _row(row: Row) -> dict[str, Any]:
    names = {"mean": row.mean, "vote": row.vote, "pass": row.passed,
             "heavy_mean": row.heavy_mean, "heavy_pass": row.heavy_pass}  # fmt: skip
    told = {name: [e.value, e.low, e.high] if e else None for name, e in names.items()}
    return {"k": row.k, **told, "tokens": row.tokens, "heavy_tokens": row.heavy_tokens}


if __name__ == "__main__":
    sys.exit(main())
