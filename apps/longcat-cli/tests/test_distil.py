"""The other road to one model: what the experts judge of the merged model's own samples."""

import dataclasses
import shutil
from types import SimpleNamespace

import pytest
import torch
from longcat_cli.audit import _fuse
from longcat_cli.checks import estimate
from longcat_cli.display import Display
from longcat_cli.folder import RunFolder
from longcat_cli.lessons import unlearned
from longcat_cli.recipe_file import load_recipe
from longcat_cli.stages import distil, fuse
from longcat_moe import LongcatForCausalLM

SIZES = {"road": "distil", "distil_steps": 2, "distil_attempts": 4, "head_steps": 0}


SHOWN = []


class _Watched(Display):
    def update(self, **values):
        SHOWN.append(values)
        super().update(**values)


@pytest.fixture(scope="module")
def distilled(trained, tmp_path_factory):
    """A smoke run whose merged model was distilled from its experts, and the facts."""
    path = tmp_path_factory.mktemp("distilled") / "run"
    shutil.copytree(trained, path)
    shutil.rmtree(path / "fused")
    recipe = RunFolder.open(path).recipe
    recipe = dataclasses.replace(recipe, fuse=dataclasses.replace(recipe.fuse, **SIZES))
    folder = RunFolder(path, recipe)
    folder.save()
    SHOWN.clear()
    with _Watched(["fuse"]) as display:
        facts = fuse.run(folder, display)
    folder.mark_done("fuse", facts)
    return folder, facts


def test_every_domain_is_sampled_and_the_audit_takes_the_steps_again(distilled):
    folder, facts = distilled
    assert facts["steps"] == 2
    assert facts["trajectories"] == 8
    assert facts["moved"] > 0
    assert "C1 C2 C3 hold" in facts["contract"]
    assert not _fuse.complaints(folder, 2)
    assert not unlearned(folder)


def test_each_step_is_shown_while_it_goes_on(distilled):
    steps = [values for values in SHOWN if "step" in values]
    assert [(values["step"], values["done"]) for values in steps] == [(n, n / 2) for n in (1, 2)]
    assert all(values["teacher_kl"] and values["pass_rate"] >= 0 for values in steps)
    folder, _ = distilled
    student = LongcatForCausalLM.from_pretrained(folder.merged).train()
    longer = dataclasses.replace(folder.recipe.fuse, distil_steps=40)
    other = RunFolder(folder.path, dataclasses.replace(folder.recipe, fuse=longer))
    assert distil.make_trainer(student, other).config.warmup_steps == 2  # a twentieth


def test_the_audit_notices_other_teachers(distilled, monkeypatch):
    folder, _ = distilled
    real = distil.make_trainer

    def one_teacher_for_all(student, folder):
        trainer = real(student, folder)
        trainer._teacher_of = lambda attempt: next(iter(trainer._teachers))
        return trainer

    monkeypatch.setattr(distil, "make_trainer", one_teacher_for_all)
    assert any("other weights than were" in line for line in _fuse.complaints(folder, 1))


def test_each_domain_is_judged_by_its_own_expert(distilled):
    folder, _ = distilled
    student = LongcatForCausalLM.from_pretrained(folder.merged).train()
    trainer = distil.make_trainer(student, folder)
    for group, domains in folder.recipe.groups.items():
        for domain in domains:
            assert trainer._teacher_of(SimpleNamespace(domain=domain)) == group
    ids = torch.arange(12)[None]
    rows = SimpleNamespace(
        ids_BL=ids, real_BL=torch.ones_like(ids), wanted_BL=ids < 11, target_U=ids[0, 1:],
        spread=lambda value_U: value_U,
    )  # fmt: skip
    for group, predict in trainer._teachers.items():
        model = LongcatForCausalLM.from_pretrained(folder.expert(group) / "model").eval()
        with torch.no_grad():
            expected = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            found, _ = predict(rows)
        assert torch.allclose(found, expected, atol=1e-5)


def test_tasks_come_evenly_from_the_domains_and_noise_as_the_recipe_has_it(distilled):
    folder, _ = distilled
    recipe = folder.recipe
    noise = dataclasses.replace(recipe.noise, levels=[0.1, 0.2], share_clean=0.5)
    fuse_ = dataclasses.replace(recipe.fuse, distil_steps=50)
    other = RunFolder(folder.path, dataclasses.replace(recipe, noise=noise, fuse=fuse_))
    drawn = list(distil.jobs(other))
    assert len(drawn) == 50 * 4 * distil.TRIED_PER_ATTEMPT
    domains = [job.domain for job in drawn]
    assert {domains.count(domain) for domain in recipe.domains} == {len(drawn) / 2}
    levels = [job.payload["level"] for job in drawn]
    assert 0.4 < levels.count(0.0) / len(levels) < 0.6
    assert 0.2 < levels.count(0.2) / len(levels) < 0.3
    assert [job.payload for job in distil.jobs(other)] == [job.payload for job in drawn]


def test_no_steps_leave_the_merge_and_say_so(distilled):
    folder, _ = distilled
    recipe = folder.recipe
    none = dataclasses.replace(recipe, fuse=dataclasses.replace(recipe.fuse, distil_steps=0))
    model, facts = fuse.imitate(RunFolder(folder.path, none), [], Display(["fuse"]))
    kept = LongcatForCausalLM.from_pretrained(folder.merged).state_dict()
    assert all(torch.equal(t, kept[name]) for name, t in model.state_dict().items())
    assert facts["steps"] == 0


def test_a_distillation_that_took_no_step_is_named(tmp_path):
    recipe = load_recipe("smoke", ["fuse.road=distil"])
    folder = RunFolder.create(tmp_path / "run", recipe)
    folder.mark_done("fuse", {"steps": 0, "moved": 0.0})
    assert any("0 of 24 steps" in line for line in unlearned(folder))


def test_the_estimate_counts_what_the_road_takes(monkeypatch):
    from longcat_cli.stages import cold_start

    monkeypatch.setattr(cold_start, "seconds_per_token", lambda recipe: (1000, 1e-3))
    imitate = estimate(load_recipe("smoke", ["fuse.steps=0"])).seconds
    few, many = (
        estimate(load_recipe("smoke", ["fuse.road=distil", f"fuse.distil_steps={n}"])).seconds
        for n in (10, 20)
    )
    assert few - imitate == pytest.approx(many - few)
    assert many > few
