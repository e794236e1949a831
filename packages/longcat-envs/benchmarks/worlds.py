"""Domains, what is grown in them, what the audit finds, and which agents pass."""

import argparse
import json

from longcat_envs.attacks import CAREFUL, CARELESS, audit_task, run_agents
from longcat_envs.figures import grow_figures, list_rows
from longcat_envs.history import load_setting
from longcat_envs.tasks import skeletons
from longcat_envs.world import builtin_worlds

COLUMNS = [
    "domain", "language", "skeletons", "tools", "reader share", "parts", "tasks", "toolsets", "tools min", "tools max",
    "one edge, grown", "one edge, filled", "two edges, grown", "two edges, filled",
    "writes median", "exchange fails", "computed", "refusal",
    "audit rejects", "wrong chains", "verifier mutants", "mutants admitted",
    "careless tried", "careless passed", "careful tried", "careful passed",
]  # fmt: skip


def row(listed, language, number):
    setting = load_setting(listed["domain"], language)
    tasks, grown = grow_figures(setting, num_tasks=number, seed=0, difficulty="deep")
    found = [audit_task(setting, task) for task in tasks]
    admitted = [t for t, f in zip(tasks, found, strict=True) if not f.faults]
    runs = {
        kind: [p.passed for t in admitted for _, p in run_agents(setting, t, agents, seed=1)]
        for kind, agents in (("careless", CARELESS), ("careful", CAREFUL))
    }
    return [
        listed["domain"], language, len(skeletons(setting)), listed["tools"], round(listed["readers"] / listed["tools"], 3),
        listed["parts"], number, grown["toolsets"], grown["tools_min"], grown["tools_max"],
        grown["within_one_edge_grown"], grown["within_one_edge_filled"],
        grown["within_two_edges_grown"], grown["within_two_edges_filled"],
        grown["writes_median"],
        grown["exchange_fails"], grown["computed"], grown["refusal"],
        number - len(admitted), sum(f.num_chains for f in found),
        sum(f.num_mutants for f in found), sum(len(f.unnoticed) for f in found),
        len(runs["careless"]), sum(runs["careless"]), len(runs["careful"]), sum(runs["careful"]),
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=40)
    number = parser.parse_args().tasks
    rows = [row(one, language, number) for one in list_rows() for language in one["languages"]]
    assert {one[0] for one in rows} == set(builtin_worlds())
    for name, *values in zip(COLUMNS, *rows, strict=True):
        print(f"{name:>18}", *(f"{value!s:>10}" for value in values))
    rejected, passed = (
        sum(r[COLUMNS.index(name)] for r in rows) for name in ("audit rejects", "careless passed")
    )
    print(json.dumps({
        "title": "Deep tasks of every domain and language",
        "claim": f"Of {number * len(rows)} deep tasks as made, the audit rejects {rejected}; "
        f"of the admitted ones {passed} are passed by a careless agent.",
        "columns": COLUMNS, "rows": rows,
        "spread": "one run; the figures have no noise but the seed",
        "seeds": [0],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
