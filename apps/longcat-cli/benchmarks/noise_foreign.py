"""tau2-bench and BFCL in noise: every task certified or refused, and counted.

usage: python noise_foreign.py [--levels 0.3 1.0] [--beyond 6] [--sets tau2:airline bfcl:base ...]
                               [--texts OUT.jsonl]

Needs `pip install inspect-evals mpmath` and `pip install --no-deps bfcl-eval`. The worlds are those
of `longcat_envs.loaders`; every kind of noise of `longcat-noise` is on. A task may take as many
turns as its golden calls do, and `--beyond` more. tau2's tools have contracts, record by record,
written below; BFCL's have none, so that they get what is safe for any tool. `--texts` writes what
users say first, with the literals of the golden calls, for `against_peers.py` of longcat-noise.
"""

import argparse
import importlib.metadata
import json
import re
import statistics
from collections import Counter
from pathlib import Path

from longcat_envs.loaders import NAMES, ForeignEnvironment, load_foreign
from longcat_noise import TOOL_KINDS, USER_KINDS, Book, NoiseConfig, NoiseTask, certify

READS = {
    "get_user_details": "users", "find_user_id_by_email": "users",
    "find_user_id_by_name_zip": "users", "get_reservation_details": "reservations",
    "search_direct_flight": "flights", "search_onestop_flight": "flights",
    "get_flight_status": "flights", "list_all_airports": "airports",
    "get_order_details": "orders", "get_product_details": "products",
    "get_item_details": "products", "list_all_product_types": "products", "calculate": "nothing",
    "think": "nothing",
}  # fmt: skip
WRITES = {
    "book_reservation": ("reservations", "users", "flights"),
    "cancel_reservation": ("reservations", "flights"), "send_certificate": ("users",),
    "update_reservation_baggages": ("reservations", "users"),
    "update_reservation_flights": ("reservations", "users", "flights"),
    "update_reservation_passengers": ("reservations",),
    "cancel_pending_order": ("orders", "users"), "exchange_delivered_order_items": ("orders",),
    "modify_pending_order_address": ("orders",), "modify_pending_order_items": ("orders", "users"),
    "modify_pending_order_payment": ("orders", "users"), "modify_user_address": ("users",),
    "return_delivered_order_items": ("orders",),
}  # fmt: skip
DONE = "All of that is done now."


def book_of(source):
    if not source.name.startswith("tau2"):
        return Book()
    return Book.of(
        {"name": schema["function"]["name"], "parameters": schema["function"]["parameters"],
         "reads": [f"{READS[name]}.record"] if (name := schema["function"]["name"]) in READS else [],
         "writes": [f"{table}.record" for table in WRITES.get(name, ())]}
        for schema in source.tasks[0].tools if schema["function"]["name"] in {**READS, **WRITES}
    )  # fmt: skip


def known(source, task):
    """A foreign task as certificates know it; golden reads that find nothing are left out."""
    chain, environment = [], ForeignEnvironment(source, task)
    environment.start()
    for place, steps in enumerate(task.golden):
        for step in steps:
            call = {"function": {"name": step.tool, "arguments": step.arguments}}
            found_nothing = environment.call_now(call).is_error and step.tool in READS
            if not found_nothing:
                chain.append({"tool": step.tool, "arguments": step.arguments})
        environment.hear(DONE)
        is_last = place + 1 == len(task.golden)
        chain.append({"say": " ".join([DONE, *(task.told if is_last else ())])})
    return {"id": f"{task.domain}:{task.id}", "opening": task.turns[0], "chain": chain,
            "protected": literals_of(task)}  # fmt: skip


def literals_of(task):
    """What golden calls hold, word by word where it is more than one."""
    found, waiting = [], [step.arguments for steps in task.golden for step in steps]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list | tuple):
            waiting += value.values() if isinstance(value, dict) else value
        elif value is not None and not isinstance(value, bool):
            found += [str(value), *re.findall(r"\w+", str(value))]
    return list(dict.fromkeys(found))


def tried(source, task, book, level, beyond):
    """A certificate or a refusal, and the turns of the golden calls alone."""
    raw = known(source, task)
    try:
        one = NoiseTask.read(raw)
    except ValueError as error:
        return None, str(error)
    config = NoiseConfig(level=level, tool_kinds=TOOL_KINDS, user_kinds=USER_KINDS)
    found = certify(
        one, config, episode="one", book=book, world=lambda _: ForeignEnvironment(source, task),
        max_turns=len(raw["chain"]) + beyond,
    )  # fmt: skip
    return (found, "") if found.is_certified else (None, found.reason)


CAUSES = {
    "must have a call": "no golden call",
    "must have a golden chain": "no golden call",
    "refuses the golden call": "a golden call is refused without noise",
    "does not reach the goal": "the golden calls fail without noise",
    "the world failed": "the world fails",
}


def cause_of(reason):
    """Why a task was refused, in few words; what only noise brings about is told as it is."""
    if ": " in reason and reason.split(":")[0] in ("retry", "re-read", "re-route"):
        return f"noise: {reason[:80]}"
    return next((cause for words, cause in CAUSES.items() if words in reason), reason[:80])


def line(source, level, beyond):
    book, certificates, refused = book_of(source), [], Counter()
    for task in source.tasks:
        found, reason = tried(source, task, book, level, beyond)
        if found is None:
            refused[cause_of(reason)] += 1
        else:
            certificates.append(found)
    assert source.intact()

    def mean(values):
        return round(statistics.fmean(values), 2) if certificates else "-"

    return [
        source.name, level, len(source.tasks), len(certificates), refused.total(),
        "; ".join(f"{num} {cause}" for cause, num in refused.most_common()) or "-",
        mean(c.clean_turns for c in certificates), mean(c.turns for c in certificates),
        mean(len(c.disturbed) for c in certificates),
        sum(c.allowance is not None for c in certificates),
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", type=float, nargs="+", default=[0.3, 1.0])
    parser.add_argument("--beyond", type=int, default=6, help="turns beyond the golden calls' own")
    parser.add_argument("--sets", nargs="+", default=NAMES)
    parser.add_argument("--texts", type=Path, help="write openings and literals, run nothing")
    options = parser.parse_args()
    sources = [load_foreign(name) for name in options.sets]
    if options.texts:
        lines = [json.dumps({"opening": task.turns[0], "literals": literals_of(task)})
                 for source in sources for task in source.tasks if any(task.golden)]  # fmt: skip
        options.texts.write_text("\n".join(lines) + "\n", "utf-8")
        print(len(lines), "texts")
        return
    rows = []
    for source in sources:
        for level in options.levels:
            rows.append(line(source, level, options.beyond))
            print(*rows[-1], sep=" | ", flush=True)
    num = {name: sum(row[place] for row in rows) for place, name in ((2, "all"), (3, "certified"))}
    in_noise = sum(int(part.split()[0]) for row in rows for part in row[5].split("; ")
                   if " noise: " in part)  # fmt: skip
    print(json.dumps({
        "title": "tau2-bench and BFCL in noise, every task certified or refused",
        "claim": f"{num['certified']:,} of {num['all']:,} draws are certified, within "
                 f"{options.beyond} turns beyond the golden calls' own; {in_noise} are refused for "
                 "what noise does, all others since their golden calls do not stand without noise.",
        "columns": ["set", "level", "tasks", "certified", "refused", "why",
                    "turns without noise", "turns at the worst", "disturbances a task",
                    "thinned to fit the turns"],
        "rows": rows, "spread": "one draw of each task; the same in every run", "seeds": [0],
        "versions": {n: importlib.metadata.version(n) for n in ("inspect-evals", "bfcl-eval")},
        "notes": ["All kinds of noise are on. Three reference agents replay every task.",
                  "Golden reads of tau2 that find nothing in a perfect world are left out.",
                  "tau2's tools have contracts by record; BFCL's get what is safe for any tool."],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
