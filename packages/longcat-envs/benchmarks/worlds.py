"""Domains, what is grown in them, what the audit finds, and which agents pass.

The audit looks at the first `--audited` tasks of a domain; agents try those that it admits, and all
others as they were made. Also calls of either kind: legal ones in a fresh world every thousand,
hostile ones in one world; after them every rule is looked at on every record. With `--keep FILE`
each domain is written down when it is done, and the same command goes on there.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random

from longcat_envs.attacks import CAREFUL, CARELESS, audit_task, run_agents
from longcat_envs.figures import compare_figures, grow_figures, held_out, list_rows
from longcat_envs.history import Caller, load_setting
from longcat_envs.tasks import skeletons
from longcat_envs.world import (
    CallRefused,
    LiveWorld,
    argument_names,
    builtin_worlds,
    export,
    violations_by_sql,
)

COLUMNS = [
    "domain", "split", "language", "skeletons", "tools", "reader share", "parts",
    "shapes shared", "dead tools",
    "tasks", "audited", "toolsets", "tools min", "tools max",
    "one edge, grown", "one edge, filled", "two edges, grown", "two edges, filled",
    "writes median", "exchange fails", "computed", "refusal",
    "audit rejects", "wrong chains", "verifier mutants", "mutants admitted",
    "careless tried", "careless passed", "careful tried", "careful passed",
    "legal calls", "hostile calls", "no refusal but an exception", "rules broken",
]  # fmt: skip
EACH = 1000
"""Legal calls in one world."""
HOSTILE = [
    None, True, -1, 10**30, 1.5, float("nan"), float("inf"), "", " ", "x", "-1", "1e9", "\ud800",
    "\0", "a" * 10_000, "'; DROP TABLE x; --", [], {}, [[]], {"a": 1}, "2026-02-30", "9999-12-31",
    "12.345", "1_000", "AC00000", b"x", object(),
]  # fmt: skip


def row(listed, language, given, shared):
    setting = load_setting(listed["domain"], language)
    tasks, grown = grow_figures(setting, num_tasks=given.tasks, seed=0, difficulty="deep")
    audited = tasks[: given.audited]
    found = [audit_task(setting, task) for task in audited]
    admitted = [t for t, f in zip(audited, found, strict=True) if not f.faults]
    tried = admitted + tasks[given.audited :]
    runs = {
        kind: [p.passed for t in tried for _, p in run_agents(setting, t, agents, seed=1)]
        for kind, agents in (("careless", CARELESS), ("careful", CAREFUL))
    }
    return [
        listed["domain"], listed["split"], language, len(skeletons(setting)), listed["tools"],
        round(listed["readers"] / listed["tools"], 3), listed["parts"], shared,
        len(setting.past(0).dead), len(tasks), len(audited),
        grown["toolsets"], grown["tools_min"], grown["tools_max"],
        grown["within_one_edge_grown"], grown["within_one_edge_filled"],
        grown["within_two_edges_grown"], grown["within_two_edges_filled"],
        grown["writes_median"],
        grown["exchange_fails"], grown["computed"], grown["refusal"],
        len(audited) - len(admitted), sum(f.num_chains for f in found),
        sum(f.num_mutants for f in found), sum(len(f.unnoticed) for f in found),
        len(runs["careless"]), sum(runs["careless"]), len(runs["careful"]), sum(runs["careful"]),
        *call_figures(setting, given.calls),
    ]  # fmt: skip


def call_figures(setting, number):
    """Make legal and hostile calls; return how many, what raised, and the rules they broke."""
    rng = Random(0)
    worlds = [LiveWorld(setting.machine, setting.past(0).base) for _ in range(-(-number // EACH))]
    done = sum(legal_calls(setting, world, min(EACH, number), rng) for world in worlds)
    hostile, raised = LiveWorld(setting.machine, setting.past(0).base), 0
    tools = list(setting.machine.tools.values())
    for _ in range(number):
        tool = rng.choice(tools)
        arguments = {name: odd(hostile, rng) for name in argument_names(tool) if rng.random() < 0.9}
        try:
            json.dumps(hostile.call(tool.name, arguments))
        except CallRefused:
            pass
        except Exception as error:
            print(tool.name, arguments, repr(error), file=sys.stderr)
            raised += 1
    broken = sum(
        len(setting.machine.violations(world.store))
        + len(violations_by_sql(setting.spec, export(world.store)))
        for world in (*worlds, hostile)
    )
    return done, number, raised, broken


def legal_calls(setting, world, number, rng):
    """Make so many calls that succeed; return how many were found."""
    writers = [tool for tool in setting.machine.tools.values() if tool.is_writer]
    caller, people, done = (
        Caller(world, setting.words, rng),
        world.store.ids(setting.spec.person),
        0,
    )
    for _ in range(20 * number):
        if done == number:
            break
        tool = rng.choice(writers)
        arguments = caller.draw(tool, rng.choice(people) if rng.random() < 0.7 else None)
        if arguments is not None:
            try:
                world.call(tool.name, arguments)
                done += 1
            except CallRefused:
                pass
    return done


def odd(world, rng):
    """A value that no tool expects, or the id of some record."""
    if rng.random() < 0.6:
        return rng.choice(HOSTILE)
    return rng.choice(world.store.ids(rng.choice(list(world.machine.spec.classes))) or ["x"])


def all_rows(given):
    path = given.keep
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    done = {(one[0], one[2]) for one in rows}
    pairs = compare_figures([load_setting(name).machine for name in builtin_worlds()])["rows"]
    for one in list_rows():
        shared = max(pair["share"] for pair in pairs if pair["domain"] == one["domain"])
        for language in one["languages"]:
            if (one["domain"], language) in done:
                continue
            start = time.monotonic()
            rows.append(row(one, language, given, shared))
            if path.name:
                with path.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
            seconds = time.monotonic() - start
            print(f"{one['domain']} {language}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return rows


def total(rows, name):
    return sum(one[COLUMNS.index(name)] for one in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=56)
    parser.add_argument("--audited", type=int, default=16)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--keep", type=Path, default=Path(), metavar="FILE.jsonl")
    given = parser.parse_args()
    rows = all_rows(given)
    assert {one[0] for one in rows} == set(builtin_worlds())
    for name, *values in zip(COLUMNS, *rows, strict=True):
        print(f"{name:>28}", *(f"{value!s:>10}" for value in values))
    more = total(rows, "tasks") - total(rows, "audited")
    print(json.dumps({
        "title": "Deep tasks of every domain and language",
        "claim": f"Of {total(rows, 'audited')} deep tasks of {len(builtin_worlds())} domains "
        f"({len(held_out())} held out) as made, the audit rejects {total(rows, 'audit rejects')}, "
        f"and admits {total(rows, 'mutants admitted')} of {total(rows, 'verifier mutants'):,} "
        f"mutants of their verifiers; of those it admits and {more:,} "
        f"more as made, careless agents pass "
        f"{total(rows, 'careless passed')} of {total(rows, 'careless tried'):,} runs, careful ones "
        f"{total(rows, 'careful passed'):,} of {total(rows, 'careful tried'):,}. "
        f"{total(rows, 'legal calls'):,} legal and {total(rows, 'hostile calls'):,} hostile calls "
        f"break {total(rows, 'rules broken')} rules.",
        "columns": COLUMNS, "rows": rows,
        "spread": "one run; the figures have no noise but the seed",
        "seeds": [0],
        "notes": [
            "shapes shared: the largest share of writers whose contract shape another domain has too",
            "one edge, two edges: share of tools so near to the goal's chain, grown and with growth off",
            "exchange fails: tasks in which two writes cannot be exchanged",
            "rules broken: invariants on every record after the calls, by closures and by SQL",
        ],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
