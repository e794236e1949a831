"""Audit other benchmarks' tasks: tau2-bench, as packaged and corrected upstream, BFCL's turns.

    pip install 'longcat-envs[tau2]' mpmath && pip install --no-deps bfcl-eval
    export TAU2_CHECKOUT=path/to/tau2-bench
    python packages/longcat-envs/benchmarks/others.py --commit a2c0247

Beside the audit: how many of the tasks whose golden writes were corrected upstream it had found,
and how often our judgement of BFCL's turns is that of BFCL's own checker.
"""

import argparse
import importlib.metadata
import json
import os

from longcat_envs.loaders import CATEGORIES, ForeignEnvironment, audit_foreign_set, load_foreign

COLUMNS = [
    "set",
    "version",
    "tasks",
    "pass with no call",
    "told without looking",
    "told and denied",
    "one side alone",
    "one write too many",
    "writes left out that pass",
    "reads left out that fail in the same state",
    "careful runs that fail",
    "golden calls faulty",
    "corrected upstream",
    "of these found",
]


def share(counts, *names):
    found = [counts[name] for name in names if name in counts]
    passed, tried = (sum(one[what] for one in found) for what in ("passed", "tried"))
    return f"{passed} of {tried}" if found else "-"


def line(source, corrected):
    found = audit_foreign_set(source)
    one, faulty = found["summary"], {row["task"] for row in found["rows"] if row["faults"]}
    careful = one["careful"].values()
    tried, passed = (sum(c[what] for c in careful) for what in ("tried", "passed"))
    writes, reads = one["writes_left_out"], one["reads_left_out"]
    print(source.name, source.version, json.dumps(one["gold"]))
    for row in found["rows"]:
        if row["faults"]:
            print("   ", row["task"], "; ".join(row["faults"])[:300])
    return [
        source.name,
        source.version,
        one["tasks"],
        share(one["careless"], "silent"),
        share(one["careless"], "dump"),
        share(one["careless"], "deny"),
        share(one["careless"], "agent_alone", "person_alone"),
        share(one["careless"], "one_too_many"),
        f"{writes['passed']} of {writes['tried']}",
        f"{reads['failed_in_the_same_state']} of {reads['tried']}",
        f"{tried - passed} of {tried}",
        len(faulty),
        "-" if corrected is None else len(corrected),
        "-" if corrected is None else len(corrected & faulty),
    ]


def golden_writes(source):
    """The golden calls of each task, those of tools that never change anything left out."""
    writers, calls = set(), {}
    for task in source.tasks:
        session, before = source.begin(task), {}
        for step in task.golden[0]:
            try:
                session.call(step.tool, step.arguments)
            except Exception:
                continue
            if session.state() != before:
                writers.add(step.tool)
            before = session.state()
    for task in source.tasks:
        calls[task.id] = [(s.tool, s.arguments) for s in task.golden[0] if s.tool in writers]
    return calls


def agreement(source):
    """Judge golden and mutilated calls of every task here and by BFCL's own checker."""
    from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker import multi_turn_checker

    same = number = 0
    for task in source.tasks:
        texts = [
            [f"{s.tool}({', '.join(f'{k}={v!r}' for k, v in s.arguments.items())})" for s in turn]
            for turn in task.golden
        ]
        places = [(t, p) for t, turn in enumerate(task.golden) for p in range(len(turn))]
        for left_out in [None, "all", *places]:
            kept = [
                [p for p in range(len(turn)) if left_out not in ("all", (t, p))]
                for t, turn in enumerate(task.golden)
            ]
            environment = ForeignEnvironment(source, task)
            environment.start()
            for turn, steps in enumerate(task.golden):
                for place in kept[turn]:
                    step = steps[place]
                    environment.call_now(
                        {"function": {"name": step.tool, "arguments": step.arguments}}
                    )
                environment.hear("Done.")
            theirs = multi_turn_checker(
                [[[texts[t][p]] for p in kept[t]] for t in range(len(texts))],
                texts,
                task.raw,
                "multi_turn_base",
                f"m{number}",
            )["valid"]
            same += theirs == (environment.score_now().total == 1)
            number += 1
    return same, number


def main():
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--commit", help="what TAU2_CHECKOUT holds")
    commit, checkout = given.parse_args().commit, os.environ.get("TAU2_CHECKOUT")
    rows, recall = [], []
    for domain in ("airline", "retail"):
        packaged = load_foreign(f"tau2:{domain}")
        if checkout is None:
            rows.append(line(packaged, None))
            continue
        upstream = load_foreign(f"tau2:{domain}", checkout)
        upstream.version = f"checkout {commit}"
        before, after = golden_writes(packaged), golden_writes(upstream)
        corrected = {name for name in before if before[name] != after.get(name)}
        rows += [line(packaged, corrected), line(upstream, None)]
        recall.append(f"{domain} {rows[-2][-1]} of {rows[-2][-2]}, {rows[-1][-3]} still faulty")
    rows += [line(load_foreign(f"tau2:{domain}"), None) for domain in ("telecom", "banking")]
    for category in CATEGORIES:
        rows.append(line(load_foreign(f"bfcl:{category}"), None))
    same, number = agreement(load_foreign("bfcl:base"))
    for row in (COLUMNS, *rows):
        print(*row, sep=" | ")
    print(
        json.dumps(
            {
                "title": "An audit of others: tau2-bench and BFCL",
                "columns": COLUMNS,
                "rows": rows,
                "claim": "Of the tau2 tasks whose golden writes were corrected upstream the audit had found: "
                f"{'; '.join(recall) or 'no checkout was given'}. Our judgement of BFCL's turns is that of its "
                f"own checker in {same:,} of {number:,} runs.",
                "spread": "one run; nothing is random",
                "versions": {
                    name: importlib.metadata.version(name)
                    for name in ("inspect-evals", "inspect-ai", "bfcl-eval")
                },
                "notes": [
                    "no call: the agent says only that all is done; some tasks ask for nothing but a refusal",
                    "told without looking, told and denied: tasks that want a value to be told",
                    "one side alone: the agent asks the person for nothing, or makes no call itself",
                    "one write too many: a write of another task after the golden calls",
                    "telecom is judged by assertions, banking by its records or by calls",
                    "telecom and banking: their persons do by rules what is asked, and no more",
                    "faulty: a write refused or without effect, a rule broken, a value from nowhere",
                    "numbers and longer texts in golden calls are not judged",
                    "the rules were written by somebody who had seen which tasks were corrected",
                    "in the agent's favour: insurance covers the reason, and a wish is meant",
                    "the checkout's data runs on the wheel's port of the tools, which lacks get_item_details",
                    "the reward of retail's checkout also has assertions that a model judges: left out here",
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
