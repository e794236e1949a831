"""Figures of domains and of grown tasks: what the commands print."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from importlib import resources
from random import Random
from statistics import mean, median
from typing import Any

from .graph import Graph
from .history import LEAST, Setting, languages, load_setting, value_keys
from .tasks import REFUSE, Difficulty, TaskMaker, WorldTask, linked, skeletons
from .world import Machine, Store, builtin_worlds, export, violations_by_sql

NUM_GOAL_PASTS = 4
"""Worlds from which the goals come that environments are grown around."""
MOST_ALIKE = 0.6
"""Share of writers beyond which two domains are the same thing in other words."""


def held_out() -> frozenset[str]:
    """Return the shipped domains that are never trained on."""
    file = resources.files("longcat_envs") / "domains" / "held_out.txt"
    return frozenset(file.read_text("utf-8").split()) if file.is_file() else frozenset()


def list_rows() -> list[dict[str, Any]]:
    """Return one row for each shipped domain."""
    rows: list[dict[str, Any]] = []
    apart = held_out()
    for name in builtin_worlds():
        spec, tools = load_setting(name).spec, load_setting(name).machine.tools
        readers = sum(not tool.is_writer for tool in tools.values())
        rows.append({
            "domain": name, "split": "held_out" if name in apart else "train",
            "tools": len(tools), "readers": readers, "parts": len(spec.parts),
            "writes": len(tools) - readers, "events": _num_events(load_setting(name)),
            "lines": spec.lines, "skeletons": len(skeletons(load_setting(name))),
            "languages": list(languages(name)),
            "dependencies": Graph(tools).num_edges,
        })  # fmt: skip
    return rows


def compare_figures(machines: Sequence[Machine]) -> dict[str, Any]:
    """Compare domains pair by pair: the share of writers with a contract shape that both have.

    A shape is types, guards and effects with the names taken out. The share is of the writers of
    the first domain, weighted by tool.
    """
    shapes = {
        m.spec.name: [t.action.shape for t in m.tools.values() if t.action is not None]
        for m in machines
    }
    rows: list[dict[str, Any]] = []
    for one, own in shapes.items():
        for other, theirs in shapes.items():
            if one != other:
                alike = sum(shape in set(theirs) for shape in own)
                rows.append({"domain": one, "other": other, "alike": alike, "writers": len(own),
                             "share": round(alike / max(1, len(own)), 3)})  # fmt: skip
    shares = [row["share"] for row in rows]
    return {
        "summary": {
            "domains": len(shapes), "pairs": len(rows), "most": MOST_ALIKE,
            "share_max": max(shares, default=0.0), "above": sum(s > MOST_ALIKE for s in shares),
            "share_median": round(median(shares), 3) if shares else 0.0,
        },
        "rows": rows,
    }  # fmt: skip


def _num_events(setting: Setting) -> int:
    """Writing tools that leave an event: they make a record, leave a state or move money."""
    return sum(
        any(w.endswith((".state", ".balance")) for w in tool.writes) or bool(tool.yields)
        for tool in setting.machine.tools.values() if tool.is_writer
    )  # fmt: skip


def check_figures(setting: Setting) -> dict[str, Any]:
    """Return what is worth knowing about a domain before tasks are grown."""
    spec, tools = setting.spec, setting.machine.tools
    past = setting.past(0)
    store = Store(spec, past.base)
    readers = sum(not tool.is_writer for tool in tools.values())
    return {
        "domain": spec.name, "lines": spec.lines, "classes": len(spec.classes),
        "tools": len(tools), "reader_share": round(readers / len(tools), 3),
        "parts": list(spec.parts), "rules": len(spec.clauses), "invariants": len(spec.rules),
        "rows": past.base.num_rows, "dead_tools": list(past.dead), "least_successes": LEAST,
        "violations": len(setting.machine.violations(store)),
        "violations_by_sql": len(violations_by_sql(spec, export(store))),
        "tools_people_ask_for": len(setting.words.asks),
        "ways_of_asking": sum(map(len, setting.words.asks.values())),
        "skeletons": len(skeletons(setting)), "language": setting.words.language,
        "texts_without_words": texts_without_words(setting), "escapes": 0,
    }  # fmt: skip


def texts_without_words(setting: Setting) -> list[str]:
    """Return the texts that people ask for and no `value` line says: they come out as `EL-867`."""
    tools, values = setting.machine.tools, setting.words.values
    return [
        f"{name}.{one.name}" for name in setting.words.asks for one in tools[name].parameters
        if one.type.kind == "text"
        and values.keys().isdisjoint(value_keys(tools[name], one.name))
    ]  # fmt: skip


def grow_figures(
    setting: Setting, *, num_tasks: int, seed: int, difficulty: Difficulty
) -> tuple[list[WorldTask], dict[str, Any]]:
    """Make tasks and return them with what they are like."""
    maker = TaskMaker(setting, seed=seed, difficulty=difficulty)
    tasks = [next(maker) for _ in range(num_tasks)]
    if not tasks:
        return [], {"domain": setting.spec.name, "tasks": 0}
    graph, rng = maker.graph, Random(seed)
    sizes = [len(task.tools) - 1 for task in tasks]
    tags = Counter(tag for task in tasks for tag in task.tags)
    chains = [[s.tool for s in task.golden if s.tool != REFUSE] for task in tasks]
    filled = [_filled(graph, c, size, rng) for c, size in zip(chains, sizes, strict=True)]

    def near(toolsets: Sequence[Collection[str]], distance: int) -> float:
        pairs = zip(chains, toolsets, strict=True)
        return round(mean(graph.share_near(c, tools, distance) for c, tools in pairs), 3)

    toolsets = [[name for name in task.tools if name != REFUSE] for task in tasks]

    def share(tag: str) -> float:
        return round(tags[tag] / len(tasks), 3)

    return tasks, {
        "domain": setting.spec.name, "difficulty": difficulty, "tasks": len(tasks),
        "drafts_failed": maker.num_failed, "toolsets": len({task.tools for task in tasks}),
        "tools_min": min(sizes), "tools_median": median(sizes), "tools_max": max(sizes),
        "within_one_edge_grown": near(toolsets, 1), "within_one_edge_filled": near(filled, 1),
        "within_two_edges_grown": near(toolsets, 2), "within_two_edges_filled": near(filled, 2),
        "writes_median": median(len(task.writes) for task in tasks),
        "calls_median": median(len(task.golden) for task in tasks),
        "exchange_fails": share("exchange"), "computed": share("computed"),
        "refusal": share("refusal"), "question": share("question"), "withheld": share("withheld"),
        "change_of_mind": share("change"),
        "wishes_median": median(len(task.wishes) for task in tasks),
        "wishes_linked": _share(linked(setting, task) for task in tasks),
    }  # fmt: skip


def growth_figures(
    setting: Setting, *, num_environments: int, seed: int = 0, num_goals: int = 30
) -> dict[str, Any]:
    """Grow environments around the goals of deep tasks, and beside them with growth off.

    With growth off an environment has as many tools, but those that its goal does not need are
    drawn at random; with nothing but the goal's needs, it would be below the floor. With the growth
    value at 0 no further chain is ever taken.
    """
    maker = TaskMaker(setting, seed=seed, pasts=range(NUM_GOAL_PASTS))
    graph = Graph(setting.machine.tools)
    still = Graph(setting.machine.tools, threshold=math.inf)
    goals = [[s.tool for s in next(maker).golden if s.tool != REFUSE] for _ in range(num_goals)]
    rows: list[dict[str, Any]] = []
    chains = [goals[number % num_goals] for number in range(num_environments)]
    rng = Random(f"growth:{setting.spec.name}:{seed}")
    grown = [graph.grow(chain, rng) for chain in chains]
    filled = [_filled(graph, c, len(t), rng) for c, t in zip(chains, grown, strict=True)]
    rng = Random(f"growth value 0:{setting.spec.name}:{seed}")
    alone = [still.grow(chain, rng) for chain in chains]
    ways = (("grown", grown), ("growth off", filled), ("growth value 0", alone))
    for name, toolsets in ways:
        pairs = list(zip(chains, toolsets, strict=True))
        sizes = [len(tools) for tools in toolsets]
        rows.append({
            "way": name, "environments": len(sizes),
            "toolsets": len({tuple(sorted(tools)) for tools in toolsets}),
            "tools_min": min(sizes, default=0), "tools_max": max(sizes, default=0),
            "tools_mean": _mean(sizes),
            **{f"within_{distance}_edges": _mean(graph.share_near(c, t, distance) for c, t in pairs)
               for distance in (1, 2)},
            "satisfied": _mean(
                sum(graph.is_satisfied(name, t) for name in t) / len(t) for _, t in pairs
            ),
            "density": _mean(graph.density(t) for _, t in pairs),
        })  # fmt: skip
    return {
        "summary": {"domain": setting.spec.name, "tools": len(graph.tools), "goals": num_goals},
        "rows": rows,
    }


def _share(found: Iterable[tuple[int, int]]) -> float:
    """Return the share of the first numbers in the second ones."""
    some, whole = (sum(column) for column in zip(*found, strict=True))
    return round(some / whole, 3) if whole else 0.0


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return round(mean(found), 3) if found else 0.0


def _filled(graph: Graph, chain: list[str], size: int, rng: Random) -> set[str]:
    """Return as many tools with growth switched off: the chain, and others drawn at random."""
    used = set(graph.support(chain))
    others = sorted(set(graph.tools) - used)
    return used | set(rng.sample(others, max(0, min(len(others), size - len(used)))))
