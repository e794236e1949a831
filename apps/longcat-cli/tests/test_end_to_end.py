"""The end-to-end run cannot lie: each stage learned something, and a stage that does not is noticed."""

import functools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import sabotage
from longcat_cli import lessons
from longcat_cli.audit import audit, checks_of
from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from longcat_cli.recipe_file import changed
from longcat_cli.stages import cold_start, evaluate, experts, fuse, grow, report
from longcat_cli.train import stages_of
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


def test_what_the_smoke_run_left_stands_when_it_is_derived_again(trained):
    found = dict(audit(RunFolder.open(trained)))
    assert list(found) == list(stages_of(RunFolder.open(trained).recipe))
    assert {stage: lines for stage, lines in found.items() if lines} == {}


@pytest.mark.parametrize("objective", ["gspo_token", "grpo", "dapo", "triplet"])
def test_another_objective_takes_other_steps(trained, objective):
    """From the same weights, on the same batch."""
    folder = RunFolder.open(trained)
    group = next(iter(folder.recipe.groups))
    found = list(read_trajectories(folder.expert(group) / "dora" / "log"))[:8]
    weights = {}
    for name in ("gspo", objective):
        recipe = changed(folder.recipe, [f"rl.objective={name}", "rl.epochs=2"])
        model = LongcatForCausalLM.from_pretrained(folder.cold_start).train()
        experts.make_trainer(model, recipe).train(found)
        weights[name] = model.lm_head.weight.detach()
    before = LongcatForCausalLM.from_pretrained(folder.cold_start).lm_head.weight
    assert not weights["gspo"].equal(before)
    assert not weights[objective].equal(before)
    assert not weights[objective].equal(weights["gspo"])


@pytest.fixture
def again(trained, tmp_path, monkeypatch):
    """Run one stage anew in a copy of the trained folder; return what the audit says of it."""

    def run(stage, module, name, replacement, **changes):
        shutil.copytree(trained, tmp_path / "run")
        folder = RunFolder.open(tmp_path / "run")
        if stage in SHORT:
            section, shorter = SHORT[stage]
            record = json.loads((folder.path / "run.json").read_text())
            record["recipe"][section].update(changes or shorter)
            (folder.path / "run.json").write_text(json.dumps(record))
            folder = RunFolder.open(folder.path)
        _forget(folder, stage)
        with monkeypatch.context() as patched:
            patched.setattr(module, name, replacement)
            facts = stages_of(folder.recipe)[stage](folder, Display([stage]))
        folder.mark_done(stage, facts)
        return folder, checks_of(folder)[stage](folder, 24)

    return run


def _forget(folder, stage):
    """Take away what a stage left."""
    left = {
        "grow": [folder.path / "environments"],
        "cold_start": [folder.cold_start, folder.path / "cold_start.state"],
        "expert-shop": [folder.expert("shop")],
        "fuse": [folder.merged, folder.fused],
        "evaluate": [folder.path / "evaluation.part.json", folder.path / "evaluation.json"],
        "report": [folder.path / "report.html"],
    }
    (folder.path / "stages" / f"{stage}.json").unlink()
    for path in left[stage]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


LONG = functools.partial(pytest.param, marks=pytest.mark.long)
"""A lie that is noticed by the same check as another one of the list."""

SHORT = {
    "cold_start": ("cold_start", {"steps": 150}),
    "expert-shop": ("rl", {"steps": 2}),
    "evaluate": ("evaluate", {"tasks": 6}),
}


@pytest.mark.parametrize(
    ("stage", "module", "name", "lie", "complaint"),
    [
        ("grow", grow, "_grow", "held_out_is_trained_on", "is held out and among the trained"),
        ("cold_start", cold_start.GspoTrainer, "fit", "fit_does_nothing", "fresh weights"),
        LONG("cold_start", cold_start, "_sample", "learns_what_it_was_told", "fresh weights"),
        LONG("expert-shop", experts, "make_trainer", "trains_nothing", "other weights than were"),
        ("expert-shop", experts, "make_trainer", "shuffles_rewards", "other weights than were"),
        LONG("expert-shop", experts, "make_trainer", "publishes_stale_weights", "other weights than"),
        LONG("expert-shop", experts, "make_trainer", "empties_masks", "other weights than were"),
        ("expert-shop", experts, "make_worker", "worker_that_invents_rewards", "its tokens earn"),
        ("expert-shop", experts, "make_worker", "worker_that_keeps_old_weights", "log-probs than"),
        ("fuse", fuse, "learn", "learns_nothing", "other weights than the fused model"),
        ("fuse", fuse, "train_head", "head_learns_nothing", "another prediction head than"),
        ("fuse", fuse, "samples_of", "imitates_mistakes", "other weights than the fused model"),
        LONG("fuse", fuse, "samples_of", "takes_half_of_the_samples", "other weights than the fused"),
        ("fuse", fuse, "merge_experts", "merges_one_expert", "merge is not what their weights"),
        ("evaluate", evaluate, "evaluate_cell", "asks_the_cold_start", "tasks end otherwise"),
        LONG("evaluate", evaluate, "evaluate_cell", "passes_everybody", "the table says otherwise"),
        ("report", report, "_table", "table_of_last_year", "table is not the evaluation's"),
    ],
)  # fmt: skip
def test_a_stage_that_does_nothing_or_something_else_is_noticed(
    again, stage, module, name, lie, complaint
):
    more = {"steps": 3} if lie == "worker_that_keeps_old_weights" else {}
    _, lines = again(stage, module, name, getattr(sabotage, lie), **more)
    assert any(complaint in line for line in lines), lines


def test_an_honest_stage_in_the_same_harness_stands(again):
    """The complaints above are of the lies, not of the harness."""
    _, lines = again("expert-shop", experts, "make_worker", sabotage.REAL_WORKER)
    assert lines == []


@pytest.mark.long
def test_an_honest_cold_start_of_the_same_length_stands(again):
    _, lines = again("cold_start", cold_start, "_sample", sabotage.REAL_SAMPLE)
    assert lines == []


def test_controllers_find_the_run_from_any_working_directory(trained, monkeypatch):
    class Begun(Exception):
        pass

    def runtime(config, *, factory, **rest):
        raise Begun(*factory.args)

    monkeypatch.chdir(trained.parent)
    monkeypatch.setattr(experts, "_runtime_of", lambda recipe: runtime)
    with pytest.raises(Begun) as begun:
        experts.run(RunFolder.open(Path(trained.name)), Display(["expert-shop"]), "shop")
    assert begun.value.args == (str(trained.resolve()), "shop")


def test_on_ray_an_expert_learns_as_well(again):
    pytest.importorskip("ray")
    folder, lines = again(
        "expert-shop", experts, "make_worker", sabotage.REAL_WORKER, steps=2, runtime="ray"
    )
    assert lines == []
    assert folder.facts("expert-shop")["steps"] == 2


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
