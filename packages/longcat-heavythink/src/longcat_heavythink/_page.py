"""A journal as one HTML page: who said what, who was right, what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ._budget import Price
from ._journal import read_journal, recorded_usage
from ._normalise import normalise
from ._replies import FailureKind, Reply, Usage, plain_text, reply_from_json
from .schedule import group_replies

_STYLE = """
:root{color-scheme:light dark;--line:#8884}
body{font:15px/1.5 system-ui,sans-serif;max-width:1200px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2.5rem;border-top:1px solid var(--line);
padding-top:1rem}h3{font-size:1rem;margin:1rem 0 .3rem}.grid{display:grid;gap:.7rem;
grid-template-columns:repeat(auto-fill,minmax(260px,1fr))}
.card{border:1px solid var(--line);border-left:6px solid var(--of,#888);border-radius:6px;
padding:.5rem .7rem;overflow:auto;max-height:22rem}.card.bad{opacity:.7;border-style:dashed}
.card.final{max-height:none}.meta{font-size:.8rem;opacity:.75}.say{white-space:pre-wrap;
overflow-wrap:anywhere}.right::before{content:'\\2713 ';color:#2a2;font-weight:bold}
.wrong::before{content:'\\2717 ';color:#c33;font-weight:bold}summary{cursor:pointer;
font-size:.8rem;opacity:.75}table{border-collapse:collapse}td,th{padding:.1rem .8rem .1rem 0;
text-align:right}td:first-child,th:first-child{text-align:left}
"""
_COLOURS = ("#3b7dd8", "#d8803b", "#3ba86b", "#a85bd8", "#c9b02b", "#d84b76", "#45b5c4", "#8a6d4b")


def journal_page(
    path: str | Path, *, price: Price | None = None, normaliser: Callable[[str], str] = normalise
) -> str:
    """Return the page of a journal, self-contained.

    Args:
        path: Of the journal.
        price: Shows the cost of each run.
        normaliser: What makes answers equal; equal ones have the same colour.
    """
    runs: dict[str, dict[str, Any]] = {}
    for entry in read_journal(path):
        run = entry.get("run")
        if entry["kind"] == "run":
            runs.setdefault(str(run), {"calls": {}})["run"] = entry
        elif entry["kind"] == "call" and run in runs:
            runs[str(run)]["calls"][entry["stage"], entry["index"]] = entry
        elif entry["kind"] in ("end", "truth") and run in runs:
            runs[str(run)][entry["kind"]] = entry
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>{escape(Path(path).name)}</title><style>{_STYLE}</style>",
        f"<h1>{escape(Path(path).name)}: {len(runs)} run{'s' * (len(runs) != 1)}</h1>",
    ]
    for data in runs.values():
        parts.append(_run(data, price, normaliser))
    return "\n".join(parts) + "\n"


def _run(data: Mapping[str, Any], price: Price | None, normaliser: Callable[[str], str]) -> str:
    run, end = data["run"], data.get("end", {})
    truth = data["truth"]["answer"] if "truth" in data else None
    key = normaliser(str(truth)) if truth is not None else None
    calls: list[Mapping[str, Any]] = [entry for _, entry in sorted(data["calls"].items())]
    replies = {place: reply_from_json(entry["reply"]) for place, entry in enumerate(calls)}
    good = {place: reply for place, reply in replies.items() if reply.good}
    colours: dict[int, str] = {}
    for rank, group in enumerate(group_replies(good, normaliser)):
        for place in group.members:
            is_shared = len(group.members) > 1 or rank == 0
            colours[place] = _COLOURS[rank % len(_COLOURS)] if is_shared else "#888"
    question = plain_text(run["messages"][-1].get("content")) or "(see the history)"
    parts = [f"<h2 class=say>{escape(question[:2000])}</h2>", _totals(run, calls, end, price)]
    if truth is not None:
        parts.append(f"<p class=meta>true answer: <b>{escape(str(truth))}</b></p>")
    stages: list[int] = sorted({int(entry["stage"]) for entry in calls})
    for stage in stages:
        places = [place for place, entry in enumerate(calls) if entry["stage"] == stage]
        name: str = str(run["schedule"]).split(">")[stage]
        parts.append(f"<h3>{escape(name)}</h3><div class=grid>")
        for place in places:
            parts.append(_card(calls[place], replies[place], colours.get(place), key, normaliser))
        parts.append("</div>")
    parts.append(_end(end, key, normaliser))
    return "\n".join(parts)


def _totals(
    run: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], end: Mapping[str, Any],
    price: Price | None,
) -> str:  # fmt: skip
    used = sum((recorded_usage(entry) for entry in calls), Usage())
    words = [
        str(run["schedule"]), str(run["settings"].get("model", "")), f"{len(calls)} calls",
        f"{used.prompt_tokens} + {used.completion_tokens} tokens",
    ]  # fmt: skip
    if used.estimated:
        words[-1] += " (partly estimated)"
    if price is not None:
        words.append(f"cost {price.of(used):.4f}")
    if end.get("decided_by"):
        words.append(f"decided by {end['decided_by']}")
    return f"<p class=meta>{escape(' · '.join(words))}</p>"


def _card(
    entry: Mapping[str, Any], reply: Reply, colour: str | None, key: str | None,
    normaliser: Callable[[str], str],
) -> str:  # fmt: skip
    used = recorded_usage(entry)
    meta = f"#{entry['index'] + 1} · {used.completion_tokens} tokens · {entry['total_s']:.1f} s"
    if reply.timing is not None and reply.timing.tries > 1:
        meta += f" · {reply.timing.tries} tries"
    if entry.get("members"):
        meta += " · saw " + ", ".join(f"#{m + 1}" for m in entry["members"])
    verdict = _verdict(reply, key, normaliser)
    says = escape(reply.text)
    if reply.failure is not None:
        is_cancelled = reply.failure.kind is FailureKind.CANCELLED
        words = reply.failure.message if is_cancelled else f"failed: {reply.failure.message}"
        says = f"<i>{escape(words)}</i>" + (f"\n{says}" if says else "")
    for call in reply.tool_calls:
        says += f"\n<code>{escape(call.name)}({escape(call.arguments)})</code>"
    thoughts = ""
    if reply.thoughts:
        inside = f"<div class=say>{escape(reply.thoughts)}</div>"
        thoughts = f"<details><summary>thoughts</summary>{inside}</details>"
    bad = "" if reply.good else " bad"
    return (
        f"<div class='card{bad}' style='--of:{colour or '#888'}'><div class='meta {verdict}'>"
        f"{meta}</div><div class=say>{says}</div>{thoughts}</div>"
    )


def _verdict(reply: Reply, key: str | None, normaliser: Callable[[str], str]) -> str:
    if key is None or not reply.good:
        return ""
    return "right" if normaliser(reply.text) == key else "wrong"


def _end(end: Mapping[str, Any], key: str | None, normaliser: Callable[[str], str]) -> str:
    if "reply" not in end:
        words = end.get("error", "the run did not end")
        return f"<h3>no answer</h3><p><i>{escape(str(words))}</i></p>"
    reply = reply_from_json(end["reply"])
    note = f"<p><i>{escape(end['fell_back'])}</i></p>" if end.get("fell_back") else ""
    verdict = _verdict(reply, key, normaliser)
    says = escape(reply.text) + "".join(
        f"\n<code>{escape(c.name)}({escape(c.arguments)})</code>" for c in reply.tool_calls
    )
    return (
        f"<h3 class='{verdict}'>answer ({escape(end['decided_by'])})</h3>{note}"
        f"<div class='card final'><div class=say>{says}</div></div>"
    )
