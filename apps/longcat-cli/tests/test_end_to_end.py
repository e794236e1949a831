"""The end-to-end run cannot lie: each stage learned something, and a stage that does not is noticed."""

import shutil
from collections import Counter, defaultdict
from importlib.util import find_spec
from pathlib import Path

import pytest
from again import Case, run_again
from longcat_cli import lessons
from longcat_cli.audit import _evaluate
from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import changed
from longcat_cli.stages import experts
from longcat_dora import read_events, read_trajectories
from longcat_moe import LongcatForCausalLM


def test_every_stage_of_the_smoke_run_learned_something(trained):
    folder = RunFolder.open(trained)
    assert lessons.unlearned(folder) == []
    assert folder.facts("cold_start")["moved"] > 0.1
    staleness, levels = Counter(), Counter()
    for group in folder.recipe.groups:
        facts = folder.facts(f"expert-{group}")
        events = list(read_events(folder.expert(group) / "dora" / "log"))
        kinds = Counter(event["kind"] for event in events)
        assert kinds["committed"] >= facts["steps"] == folder.recipe.rl.steps
        assert {e["version"] for e in events if e["kind"] == "published"} >= {0, 1, 2, 3}
        assert facts["moved"] > 1e-3
        staleness.update({int(key): count for key, count in facts["staleness"].items()})
        levels.update(t.info["level"] for t in read_trajectories(folder.expert(group) / "dora/log"))
    assert sum(count for stale, count in staleness.items() if stale > 0) > 0
    assert sum(count for level, count in levels.items() if level > 0) > 0
    facts = folder.facts("fuse")
    assert facts["trajectories"] > 10
    assert facts["steps"] == folder.recipe.fuse.steps
    assert facts["moved"] > 1e-3


def test_each_start_of_the_run_is_written_down(trained):
    sessions = RunFolder.open(trained).sessions()
    times = [session["at"] for session in sessions]
    assert len(times) > 3  # it was killed in most of its stages
    assert times == sorted(times)
    assert all(session["machine"]["cores"] > 0 and session["versions"] for session in sessions)


@pytest.mark.parametrize("objective", ["gspo_token", "grpo", "dapo", "triplet"])
def test_another_objective_takes_other_steps(trained, objective):
    """From the same weights, on the same batch."""
    folder = RunFolder.open(trained)
    group = next(iter(folder.recipe.groups))
    groups = defaultdict(list)
    for trajectory in read_trajectories(folder.expert(group) / "dora" / "log"):
        groups[trajectory.group].append(trajectory)
    found = next(
        g for g in groups.values() if len({t.reward for t in g}) > 1
    )  # others teach nothing
    weights = {}
    for name in ("gspo", objective):
        recipe = changed(folder.recipe, [f"rl.objective={name}", "rl.epochs=2"])
        model = LongcatForCausalLM.from_pretrained(folder.cold_start).train()
        trainer = experts.make_trainer(model, recipe)
        assert trainer.config.objective == name
        trainer.train(found)
        weights[name] = model.lm_head.weight.detach()
    before = LongcatForCausalLM.from_pretrained(folder.cold_start).lm_head.weight
    assert not weights["gspo"].equal(before)
    assert not weights[objective].equal(before)
    # Where a sequence has one advantage, GSPO-token is GSPO (arXiv 2507.18071, section 4.3).
    assert objective == "gspo_token" or not weights[objective].equal(weights["gspo"])


LONG = pytest.mark.long
"""Of a lie that is noticed by the same check as another one of the list."""


def _lie(stage, target, replacement, *complaints, marks=(), **changes):
    """Of a stage that is changed as its section of the recipe is here."""
    section = {"cold_start": "cold_start", "expert-shop": "rl"}.get(stage, stage)
    changed = tuple((f"{section}.{key}", value) for key, value in changes.items())
    case = Case(stage, target, replacement, complaints, changed)
    return pytest.param(case, marks=marks, id=f"{stage}-{replacement}")


@pytest.mark.parametrize("case", [
    _lie("grow", "grow._grow", "held_out_is_trained_on", "is held out and among the trained"),
    _lie("cold_start", "cold_start.GspoTrainer.fit", "fit_does_nothing", "fresh weights",
         steps=150),
    _lie("cold_start", "cold_start._sample", "learns_what_it_was_told", "fresh weights",
         steps=150, marks=LONG),
    _lie("expert-shop", "experts.make_trainer", "trains_nothing", "other weights than were",
         steps=2, marks=LONG),
    _lie("expert-shop", "experts.make_trainer", "shuffles_rewards", "other weights than were",
         steps=2),
    _lie("expert-shop", "experts.make_trainer", "publishes_stale_weights",
         "other weights than were", steps=2, marks=LONG),
    _lie("expert-shop", "experts.make_trainer", "empties_masks", "other weights than were",
         steps=2, marks=LONG),
    # Two lies of one worker, each noticed by a check of its own: the rewards are derived from the
    # tokens, the log-probs from the weights. The third batch is of the second version at least.
    _lie("expert-shop", "experts.make_worker", "worker_that_lies_twice", "its tokens earn",
         "log-probs than", steps=3, soft_staleness=1, hard_staleness=1),
    _lie("expert-shop", "experts.make_worker", "worker_that_invents_rewards", "its tokens earn",
         steps=2, marks=LONG),
    _lie("expert-shop", "experts.make_worker", "worker_that_keeps_old_weights", "log-probs than",
         steps=3, soft_staleness=1, hard_staleness=1, marks=LONG),
    _lie("fuse", "fuse.learn", "learns_nothing", "other weights than the fused model",
         head_steps=0),
    _lie("fuse", "fuse.train_head", "head_learns_nothing", "another prediction head than",
         steps=4, head_steps=4),
    _lie("fuse", "fuse.samples_of", "masks_other_turns", "other weights than the fused model",
         head_steps=0),
    _lie("fuse", "fuse.samples_of", "takes_half_of_the_samples",
         "other weights than the fused", marks=LONG),
    _lie("fuse", "fuse.merge_experts", "merges_one_expert", "merge is not what their weights",
         steps=1, head_steps=0),
    _lie("evaluate", "evaluate.evaluate_cell", "asks_the_cold_start", "asked again,",
         tasks=6),
    _lie("evaluate", "evaluate.evaluate_cell", "passes_everybody", "the table says otherwise",
         tasks=6, marks=LONG),
    _lie("report", "report._table", "table_of_last_year", "table is not the evaluation's"),
])  # fmt: skip
def test_a_stage_that_does_nothing_or_something_else_is_noticed(told_of, case):
    lines = told_of(case).lines
    for complaint in case.complaints:
        assert any(complaint in line for line in lines), lines


@pytest.mark.parametrize("case", [
    _lie("cold_start", "cold_start._sample", "REAL_SAMPLE", steps=150, marks=LONG),
    _lie("expert-shop", "experts.make_worker", "REAL_WORKER", steps=2,
         marks=LONG if find_spec("ray") else ()),
])  # fmt: skip
def test_an_honest_stage_in_the_same_harness_stands(told_of, case):
    """The complaints above are of the lies, not of the harness; with Ray, see below."""
    assert told_of(case).lines == []


def test_controllers_find_the_run_from_any_working_directory(trained, monkeypatch):
    class Begun(Exception):
        pass

    def runtime(config, *, factory, **rest):
        raise Begun(*factory.args)

    monkeypatch.chdir(trained.parent)
    monkeypatch.setattr(experts, "runtime_of", lambda recipe: runtime)
    with pytest.raises(Begun) as begun:
        experts.run(RunFolder.open(Path(trained.name)), Display(["expert-shop"]), "shop")
    assert begun.value.args == (str(trained.resolve()), "shop")


def test_on_ray_an_expert_learns_as_well(trained, tmp_path):
    """An honest stage, and the audit finds nothing: its complaints above are of the lies."""
    pytest.importorskip("ray")
    case = Case("expert-shop", "experts.make_worker", "REAL_WORKER",
                changes=(("rl.steps", 1), ("rl.runtime", "ray")))  # fmt: skip
    told = run_again(trained, tmp_path / "run", case)
    assert told.lines == []
    assert told.facts["steps"] == 1


def test_a_run_that_learned_nothing_says_so(trained, tmp_path):
    """Where no step was taken, or none moved the weights, the stage is named."""
    shutil.copytree(trained / "stages", tmp_path / "stages")
    shutil.copy(trained / "run.json", tmp_path / "run.json")
    folder = RunFolder.open(tmp_path)
    assert lessons.unlearned(folder) == []
    for stage, facts in (("expert-shop", {"steps": 0, "ended": {"no_signal": 16}}),
                         ("fuse", {"steps": 20, "moved": 0.0}), ("cold_start", {"steps": 0})):  # fmt: skip
        folder.mark_done(stage, facts)
    assert [line.partition(":")[0] for line in lessons.unlearned(folder)] == [
        "cold_start learned nothing", "expert-shop learned nothing", "fuse learned nothing",
    ]  # fmt: skip
    assert any("no_signal" in line for line in lessons.unlearned(folder))


@pytest.mark.parametrize(("again", "said"), [
    ({}, []),
    ({3: (0.0, "a")}, []),  # one of twenty in other words
    ({3: (1.0, "w")}, ["1 tasks end otherwise"]),
    (dict.fromkeys(range(3), (0.0, "a")), ["3 of 20 tasks are answered otherwise"]),
])  # fmt: skip
def test_asked_again_rewards_are_the_same_and_nearly_all_words(again, said):
    kept = {"model": "m", "domain": "d", "noise": 0.0,
            "rewards": dict.fromkeys(range(20), 0.0),
            "answers": dict.fromkeys(range(20), "w")}  # fmt: skip
    same = dict.fromkeys(range(20), (0.0, "w"))
    lines = _evaluate._differences(kept, same | again)
    assert [line.partition("asked again, ")[2] for line in lines] == said
    del same[7]
    assert "asked again, 1 tasks end otherwise" in str(_evaluate._differences(kept, same))
