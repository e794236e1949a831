"""Growth decides which tools an environment has; switched off, figures move."""

import json
import math
from collections import Counter
from random import Random

import pytest
from longcat_envs import Grower, GrowthConfig, World
from longcat_envs._grow import growth_value
from longcat_envs.commands import main
from longcat_envs.figures import growth_figures
from longcat_envs.graph import THRESHOLD, Graph
from longcat_envs.history import load_setting
from longcat_envs.tasks import REFUSE, TaskMaker
from longcat_envs.world import Tool

NUM = 150


def holds(found):
    """What is asked of growth, by its figures alone."""
    grown, off, _ = found["rows"]
    return (
        grown["toolsets"] >= 0.9 * grown["environments"]
        and grown["tools_min"] >= 20
        and grown["satisfied"] == 1
        and grown["within_1_edges"] >= off["within_1_edges"] + 0.03
        and grown["density"] >= 1.2 * off["density"]
    )


@pytest.fixture(scope="module")
def setting():
    return load_setting("bank")


@pytest.fixture(scope="module")
def found(setting):
    return growth_figures(setting, num_environments=NUM, num_goals=6)


def test_growth_moves_its_figures(found):
    assert holds(found), found["rows"]


def test_with_the_growth_value_at_nothing_environments_are_smaller(found):
    grown, _, alone = found["rows"]
    assert alone["way"] == "growth value 0"
    assert alone["tools_mean"] + 0.5 < grown["tools_mean"]
    assert grown["tools_min"] <= grown["tools_mean"] <= grown["tools_max"]


def whole(self, goal, rng):
    return tuple(self.tools)


def needed(self, goal, rng):
    return tuple(self.support(goal))


def drawn(self, goal, rng):
    used = set(self.support(goal))
    others = [name for name in self.tools if name not in used]
    return tuple(used | set(rng.sample(others, 20)))


@pytest.mark.parametrize("way", [whole, needed, drawn])
def test_with_growth_switched_off_the_figures_say_so(setting, monkeypatch, way):
    monkeypatch.setattr(Graph, "grow", way)
    assert not holds(growth_figures(setting, num_environments=NUM, num_goals=6))


def test_tasks_hold_a_part_of_their_domain_that_is_enough(setting):
    maker = TaskMaker(setting, seed=1)
    tasks = [next(maker) for _ in range(4)]
    toolsets = [[name for name in task.tools if name != REFUSE] for task in tasks]
    assert len({tuple(tools) for tools in toolsets}) == 4
    for task, tools in zip(tasks, toolsets, strict=True):
        assert len(tools) < 0.7 * len(setting.machine.tools)
        assert all(maker.graph.is_satisfied(name, tools) for name in tools)
        assert {step.tool for step in task.golden} <= set(task.tools)


def test_the_command_prints_all_ways(capsys):
    assert main(["growth", "hr", "--environments", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["way"] for row in found["rows"]] == ["grown", "growth off", "growth value 0"]
    assert found["rows"][0]["environments"] == 20


def test_shares_and_density_are_what_one_counts_by_hand(setting):
    graph = Graph(setting.machine.tools)
    start = sorted(graph.tools)[0]
    ring = set(graph.neighbours[start]) - {start}
    far = sorted(set(graph.tools) - ring - {start})
    some = [start, *sorted(ring)[:2], *far[:5]]
    assert graph.share_near([start], some, 0) == 1 / 8
    assert graph.share_near([start], some, 1) == 3 / 8
    assert graph.share_near([start, "no tool of this domain"], some, 1) == 3 / 8
    assert graph.share_near([start], graph.tools, 99) > 0.9
    assert graph.share_near([start], [], 1) == 0
    edges = sum(other in graph.successors[one] for one in some for other in some)
    assert graph.density(some) == edges / 56
    assert graph.density([start]) == graph.density([]) == 0


def test_a_chain_of_four_tools_is_walked_edge_by_edge():
    def tool(of, needs):
        none = frozenset()
        return Tool(f"get_{of}", "get", of, "", "", (), frozenset(needs), frozenset(of), none)

    graph = Graph({one.name: one for one in map(tool, "abcd", ("", "a", "b", "c"))})
    assert graph.num_edges == 3
    assert [graph.share_near(["get_a"], graph.tools, n) for n in range(4)] == [0.25, 0.5, 0.75, 1]
    assert graph.share_near(["get_a"], graph.tools) == 0.75  # two edges unless it is said
    assert graph.density(graph.tools) == 3 / 12
    assert graph.is_satisfied("get_b", ["get_a"])  # all that is needed, and no more
    assert not graph.is_satisfied("get_c", ["get_a"])


def test_a_growth_value_by_hand():
    assert growth_value(num_used=6, num_unused=2, density=0, num_attempts=1) == 0.25
    halved = growth_value(num_used=6, num_unused=2, density=math.log(2), num_attempts=3)
    assert halved == pytest.approx(0.25 / 2 / 3)
    assert growth_value(num_used=9, num_unused=0, density=0.1, num_attempts=1) == 0


def test_the_growth_value_decides_how_large_an_environment_of_the_first_form_becomes():
    world = World.load("library")

    def mean_size(threshold):
        config = GrowthConfig(min_tools=6, threshold=threshold)
        grower = Grower(world.domain, seed=0, config=config)
        return sum(len(grower._grow().tools) for _ in range(60)) / 60

    least, some, most = (mean_size(threshold) for threshold in (1, 0.3, 0.05))
    assert least + 2 < some < most


def test_the_growth_value_decides_how_large_an_environment_becomes(setting):
    goal = ["search_customer", "search_account"]

    def mean_size(threshold):
        graph, rng = Graph(setting.machine.tools, threshold=threshold), Random(0)
        return sum(len(graph.grow(goal, rng)) for _ in range(100)) / 100

    never, some, often = (mean_size(threshold) for threshold in (1, THRESHOLD, 0.1))
    assert never + 1 < some < often - 1


@pytest.mark.parametrize("threshold", [0.1, 0.35])
def test_what_a_solver_had_to_draw_decides_on_another_chain(setting, threshold):
    """Against the draws taken one by one from a generator in the same state."""
    graph, found = Graph(setting.machine.tools, threshold=threshold), Counter()
    for seed in range(300):
        size = 5 + seed % 60
        used = set(Random(seed).sample(sorted(graph.tools), size))
        rng = Random(seed)
        draws = [rng.choice(sorted(set(graph.tools) - used)) for _ in range(8)]
        needs = [{f"search_{of}" for of in graph.tools[draw].needs} | {draw} for draw in draws]
        first = next((n for n, chain in enumerate(needs, 1) if not chain & used), None)
        share = 1 - size / len(graph.tools)
        is_worth = first and share * math.exp(-graph.density(used)) / first > threshold
        chain = graph._another_chain(used, Random(seed))
        assert set(chain) == (needs[first - 1] if first and is_worth else set())
        found[first is None, bool(chain)] += 1
    assert found[False, True]
    assert found[False, False]


def test_an_environment_of_all_tools_grows_no_further(setting):
    graph = Graph(setting.machine.tools)
    assert graph._another_chain(set(graph.tools), Random(0)) == []
