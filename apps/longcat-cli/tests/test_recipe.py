"""Recipes: what can be changed, what a mistake says, and that it is found before anything runs."""

from types import SimpleNamespace

import pytest
from longcat_cli.checks import BESIDE, broken_rules, check_recipe, estimate, room_for
from longcat_cli.errors import UsageError
from longcat_cli.folder import RunFolder
from longcat_cli.recipe import Recipe
from longcat_cli.recipe_file import (
    changed,
    keys,
    load_recipe,
    recipe_from_dict,
    recipe_to_dict,
    shipped_recipes,
)
from longcat_cli.stages import experts
from longcat_cli.start import begin, resumed, stages_that_stand_on
from longcat_cli.train import stages_of


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_right_and_survives_json(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe
    assert list(broken_rules(recipe)) == []


def test_set_changes_anything():
    recipe = load_recipe("mini", ["rl.steps=7", "noise.levels=[0, 0.5]", "model.induction=false",
                                  "name=mine", "rl.learning_rate=1"])  # fmt: skip
    assert (recipe.rl.steps, recipe.noise.levels, recipe.model.induction) == (7, [0.0, 0.5], False)
    assert (recipe.name, recipe.rl.learning_rate) == ("mine", 1.0)


WRONG = [
    ("rl.stepps=7", "unknown key 'rl.stepps'; near it: rl.steps"),
    ("rll.steps=7", "unknown key 'rll'; near it: rl"),
    ("steps=7", "unknown key 'steps'; near it: cold_start.steps, rl.steps, fuse.steps"),
    ("clip_hig=1", "unknown key 'clip_hig'; near it: rl.clip_high"),
    ("rl.temperature=nan", "rl.temperature must be finite, got nan"),
    ("noise.levels=[nan]", "noise.levels must be finite, got nan"),
    ("rl.steps=many", "rl.steps must be a whole number, got 'many'"),
    ("rl.steps=1.5", "rl.steps must be a whole number, got 1.5"),
    ("rl.steps=true", "rl.steps must be a whole number, got True"),
    ("rl.steps=-1", "rl.steps must be at least 0, got -1"),
    ("rl=3", "rl must be a section"),
    ("rl.steps.x=3", "rl.steps must be a whole number, got {'x': 3}"),
    ("rl.steps", "--set must be key=value"),
    ("device=tpu", "device must be one of cpu, cuda"),
    ("seed=-1", "seed must be at least 0"),
    ("seed=1.0", "seed must be a whole number"),
    ("noise.levels=[0.1,'x']", "noise.levels must be a number"),
    ("noise.levels=[2.0]", "noise.levels must be at least 0 and at most 1, got 2.0"),
    ("noise.levels=[0.3, 0.1]", "each above the one before, got [0.3, 0.1]"),
    ("noise.levels=[]", "noise.levels must be one or more levels"),
    ("noise.levels=0.1", "noise.levels must be a list of numbers"),
    ("noise.max_gap=2", "noise.max_gap must be above 0 and at most 0.7"),
    ("noise.min_pass_rate=-0.1", "noise.min_pass_rate must be at least 0"),
    ("noise.share_clean=1.01", "noise.share_clean must be at least 0 and at most 1"),
    ("groups={}", "groups must name at least one expert"),
    ("groups={'a': []}", "groups must name at least one expert"),
    ("groups={'a': 'shop'}", "groups.a must be a list of texts"),
    ("groups={'a': [1]}", "groups.a must be text"),
    ("groups={'a': ['bank_of_nowhere']}", "a domain must be one of"),
    ("groups={'../a': ['shop']}", "an expert's name must be letters"),
    ("groups={'a': ['shop'], 'b': ['x/shop.toml']}", "domains must have different names"),
    ("grow.train_tasks=0", "grow.train_tasks must be at least 1"),
    ("grow.eval_tasks=0", "grow.eval_tasks must be at least 1"),
    ("grow.id_digits=0", "grow.id_digits must be at least 1"),
    ("grow.id_digits=9", "grow.id_digits must be at least 1 and at most 6"),
    ("grow.id_digits=1", "grow: id_digits=1 must leave room for"),
    ("grow.share_compound=1.5", "grow.share_compound must be at least 0 and at most 1"),
    ("grow.share_compound=0.97", "must not exceed 1 together"),
    ("model.moe_topk=99", "model: moe_topk=99 must not exceed"),
    ("model.moe_topk=0", "model.moe_topk must be at least 1"),
    ("model.hidden_size=40", "model: induction needs hidden_size"),
    ("model.qk_rope_head_dim=15", "model: qk_rope_head_dim=15 must be even"),
    ("model.num_layers=100000", "num_layers must be at most"),
    ("model.vocab_size=10", "model.vocab_size must be at least 300"),
    ("model.initializer_range=0", "model.initializer_range must be above 0"),
    ("model.rope_theta=1e999", "model.rope_theta must be finite"),
    ("model.induction=1", "model.induction must be true or false"),
    ("cold_start.steps=0", "cold_start.steps must be at least 1"),
    ("cold_start.learning_rate=0", "cold_start.learning_rate must be above 0"),
    ("cold_start.learning_rate=-1e-3", "cold_start.learning_rate must be above 0"),
    ("cold_start.batch_tokens=0", "cold_start.batch_tokens must be at least 1"),
    ("cold_start.share_alternative=2", "cold_start.share_alternative must be"),
    ("rl.group_size=1", "rl.group_size must be at least 2"),
    ("rl.group_size=0", "rl.group_size must be at least 2"),
    ("rl.groups_per_batch=0", "rl.groups_per_batch must be at least 1"),
    ("rl.hard_staleness=1", "rl.hard_staleness must be at least rl.soft_staleness=2, got 1"),
    ("rl.learning_rate=1e999", "rl.learning_rate must be finite, got inf"),
    ("rl.epochs=0", "rl.epochs must be at least 1"),
    ("rl.objective=ppo", "rl.objective must be one of gspo, gspo_token"),
    ("rl.baseline=rloo", "rl.baseline must be one of"),
    ("rl.clip_low=0", "rl.clip_low must be above 0"),
    ("rl.at_bound=drop", "rl.at_bound must be one of"),
    ("rl.runtime=slurm", "rl.runtime must be one of local, ray"),
    ("rl.num_controllers=0", "rl.num_controllers must be at least 1"),
    ("rl.budget=greedy", "rl.budget must be one of even, knapsack, coba"),
    ("rl.budget_low=1", "rl.budget_low must be at least 2"),
    ("rl.max_running=4", "rl.max_running must be at least rl.group_size=8, got 4"),
    ("rl.max_tokens=704", "rl.max_tokens must be below rl.max_length=704"),
    ("rl.max_length=5000", "rl.max_length must be at most model.max_position_embeddings=1024"),
    ("rl.max_turns=0", "rl.max_turns must be at least 1"),
    ("rl.temperature=0", "rl.temperature must be above 0"),
    ("rl.save_every=0", "rl.save_every must be at least 1"),
    ("fuse.drop=1.5", "fuse.drop must be at least 0 and at most 1"),
    ("fuse.drop=1", "fuse: drop"),
    ("fuse.head_steps=-1", "fuse.head_steps must be at least 0"),
    ("fuse.per_task=0", "fuse.per_task must be at least 1"),
    ("fuse.scale='big'", "fuse.scale must be a number"),
    ("evaluate.tasks=0", "evaluate.tasks must be at least 1"),
    ("evaluate.tasks=181", "evaluate.tasks must be at most grow.eval_tasks=180, got 181"),
    ("evaluate.processes=0", "evaluate.processes must be at least 1"),
    ("evaluate.noise=[]", "evaluate.noise must hold different levels"),
    ("evaluate.noise=[0.1, 0.1]", "evaluate.noise must hold different levels"),
    ("evaluate.noise=[-0.1]", "evaluate.noise must be at least 0"),
]


@pytest.mark.parametrize(("change", "words"), WRONG)
def test_a_mistake_is_named_before_anything_runs(change, words):
    with pytest.raises(UsageError) as caught:
        check_recipe(load_recipe("mini", [change]))
    assert words in str(caught.value)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(UsageError, match="mini, smoke, worlds or a TOML file"):
        load_recipe("maxi")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"rl = [", b"rl = 'x'"])
def test_a_file_that_is_no_recipe_is_one_line(tmp_path, content):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="must be"):
        load_recipe(str(path))


def test_every_key_says_what_it_means():
    found = list(keys(load_recipe("mini")))
    assert len(found) > 60
    assert [key.name for key in found if not key.meaning] == []
    assert next(key for key in found if key.name == "rl.clip_low").rule == "above 0 and at most 1"


def test_what_is_shown_says_all_of_it(longcat):
    shown = longcat("config", "show", "smoke").stdout
    said = " ".join(shown.replace("\n# ", " ").split())
    assert [key.name for key in keys(load_recipe("smoke"))
            if " ".join(key.meaning.split()) not in said] == []  # fmt: skip
    assert max(map(len, shown.splitlines())) <= 100


def test_a_check_names_every_mistake(longcat, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        "sead = 1\n[rl]\nsteps = -1\nstepz = 4\n[fuse]\ndrop = 2.0\n[noise]\nlevels = []\n"
    )
    done = longcat("config", "check", str(path))
    assert done.returncode == 2
    assert [line.partition(",")[0] for line in done.stderr.splitlines()] == [
        "longcat: unknown key 'sead'; near it: seed", "longcat: rl.steps must be at least 0",
        "longcat: unknown key 'rl.stepz'; near it: rl.steps",
        "longcat: fuse.drop must be at least 0 and at most 1",
    ]  # fmt: skip
    path.write_text("[evaluate]\nnoise = []\n[rl]\nmax_running = 4\n")  # rules of several keys
    assert len(longcat("config", "check", str(path)).stderr.splitlines()) == 2


def test_what_is_shown_can_be_read_again(longcat, tmp_path):
    done = longcat("config", "show", "smoke")
    path = tmp_path / "mine.toml"
    path.write_text(done.stdout)
    assert load_recipe(str(path)) == load_recipe("smoke")


@pytest.fixture
def begun(tmp_path):
    """A run whose cold start is done."""
    folder = RunFolder.create(tmp_path / "run", load_recipe("mini"))
    for stage in ("grow", "cold_start"):
        folder.mark_done(stage, {"seconds": 1.0})
    return folder


def test_a_resumed_run_changes_what_is_still_to_come_and_says_so(begun):
    said = []
    folder = resumed(
        begun.path, ["rl.group_size=4", "fuse.steps=9"], echo=said.append, dry_run=False
    )
    assert said[0].startswith("checking the recipe")  # some seconds of silence follow
    assert said[1:] == ["changed: rl.group_size from 8 to 4", "changed: fuse.steps from 200 to 9"]
    assert (
        RunFolder.open(begun.path).recipe
        == folder.recipe
        == changed(load_recipe("mini"), ["rl.group_size=4", "fuse.steps=9"])
    )


@pytest.mark.parametrize("change", ["model.moe_topk=3", "cold_start.steps=2", "seed=1",
                                    "grow.train_tasks=3", "groups={'a': ['shop']}"])  # fmt: skip
def test_a_resumed_run_does_not_change_what_is_done(begun, change):
    with pytest.raises(UsageError, match=r"can be changed only before (grow|cold_start)"):
        resumed(begun.path, [change], echo=print, dry_run=False)
    assert RunFolder.open(begun.path).recipe == load_recipe("mini")


def test_an_expert_that_has_begun_keeps_its_settings_and_may_go_on_longer(begun):
    (begun.expert("shop") / "dora").mkdir(parents=True)
    with pytest.raises(UsageError, match="only before expert-shop"):
        resumed(begun.path, ["rl.group_size=4"], echo=print, dry_run=False)
    assert resumed(begun.path, ["rl.steps=60"], echo=print, dry_run=False).recipe.rl.steps == 60


def test_a_cold_start_that_has_begun_keeps_its_settings(tmp_path):
    folder = RunFolder.create(tmp_path / "run", load_recipe("mini"))
    folder.mark_done("grow", {"seconds": 1.0})
    change = ["cold_start.learning_rate=1e-3"]
    resumed(folder.path, change, echo=print, dry_run=True)
    (folder.path / "cold_start.state").mkdir()
    with pytest.raises(UsageError, match="only before cold_start"):
        resumed(folder.path, change, echo=print, dry_run=True)


def test_what_was_asked_ahead_of_time_keeps_no_setting_of_the_evaluation(begun):
    """Of what was found while the experts were fused nothing stands for other questions."""
    begun.cells.write_text("[]")
    resumed(begun.path, ["fuse.steps=9"], echo=print, dry_run=False)
    assert begun.cells.exists()
    resumed(begun.path, ["evaluate.tasks=9"], echo=print, dry_run=False)
    assert not begun.cells.exists()
    begun.cells.write_text("[]")
    begun.mark_done("fuse", {"seconds": 1.0})
    with pytest.raises(UsageError, match="only before evaluate"):
        resumed(begun.path, ["evaluate.tasks=8"], echo=print, dry_run=False)
    assert begun.cells.exists()


def test_stages_beside_each_other_count_once(begun):
    begun.mark_done("a", {"began": 100.0, "seconds": 30.0})
    begun.mark_done("b", {"began": 110.0, "seconds": 40.0})
    begun.mark_done("c", {"began": 111.0, "seconds": 2.0})
    begun.mark_done("d", {"began": 200.0, "seconds": 5.0})
    assert begun.spent_s("dcba") == 55.0
    assert begun.spent_s(["a", "grow", "never"]) == 31.0  # one of an older run, and one to do


def test_every_key_belongs_to_a_stage_or_to_none_on_purpose():
    recipe = load_recipe("mini")
    free = {key.name for key in keys(recipe) if not stages_that_stand_on(key.name, recipe)}
    assert free == {"device", "rl.steps", "rl.save_every", "rl.runtime", "rl.ray_address",
                    "rl.experts_at_once"}  # fmt: skip
    known = set(stages_of(recipe))
    assert all(set(stages_that_stand_on(key.name, recipe)) <= known for key in keys(recipe))


def test_the_estimate_grows_with_the_work_and_tells_what_is_missing(tmp_path, monkeypatch):
    small, large = (estimate(load_recipe("smoke", [f"cold_start.steps={n}"])) for n in (1, 100_000))
    assert large.seconds > 20 * small.seconds
    assert 0 < small.seconds < 3600  # measured, on whatever machine
    assert small.parameters == large.parameters > 1_000_000
    assert list(room_for(small, tmp_path / "not" / "yet")) == []
    monkeypatch.setattr("longcat_cli.checks.shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    assert "of disk" in next(room_for(small, tmp_path))


def test_the_estimate_is_the_sum_of_its_stages(monkeypatch):
    """By hand, for a thousand parameters and a millisecond a token."""
    monkeypatch.setattr(
        "longcat_cli.stages.cold_start.seconds_per_token", lambda recipe: (1000, 0.001)
    )
    needs = estimate(load_recipe("smoke", ["rl.experts_at_once=1"]))
    cold, rl, fuse = 850 * 320, 2 * (4 * 4 * 4) * 150 * 2.5, (20 + 0.5 * 20) * 640
    evaluate = 2 * (3 * 2 + 2) * 16 * 150
    assert needs.seconds == pytest.approx((cold + rl + fuse + evaluate) / 1000)
    tasks = 2 * (400 + 16) * 2700
    assert needs.disk_bytes == 1000 * (5 * 4 + 5 * 16) + 2 * 64 * 4000 + tasks
    assert needs.memory_bytes == 1000 * (16 + 4 * (4 + 2)) + 2 * 500_000_000
    beside = estimate(load_recipe("smoke"))  # both experts: less time, and the memory of both
    assert needs.seconds - beside.seconds == pytest.approx((1 - BESIDE) * rl / 1000)
    assert beside.memory_bytes == 2 * needs.memory_bytes
    left = estimate(load_recipe("smoke"), ["cold_start", "expert-shop"])
    assert left.seconds == pytest.approx((rl / 2 + fuse + evaluate) / 1000)
    assert estimate(load_recipe("smoke"), stages_of(load_recipe("smoke"))).seconds == 0


def test_a_dry_run_writes_nothing(longcat, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = longcat("train", "--recipe", "smoke", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "estimate: " in done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "expert-shop to do, 2 at once" in lines
    assert "fuse to do" in lines
    assert list(tmp_path.iterdir()) == []


def test_a_section_that_is_set_keeps_its_other_keys():
    recipe = load_recipe("smoke", ["rl={'steps': 3, 'epochs': 2}"])
    assert recipe == load_recipe("smoke", ["rl.steps=3", "rl.epochs=2"])
    assert recipe.rl.group_size == load_recipe("smoke").rl.group_size != Recipe().rl.group_size


@pytest.mark.parametrize("name", ["mini", "smoke"])  # the first says no groups, the second does
def test_one_more_expert_is_added_to_those_that_there_are(name):
    before = load_recipe(name).groups
    assert load_recipe(name, ["groups.bank=['bank.world']"]).groups == {
        **before,
        "bank": ["bank.world"],
    }
    assert load_recipe(name, ["groups.library=['law.world']"]).groups == {
        **before,
        "library": ["law.world"],
    }
    assert load_recipe(name, ["groups={'a': ['shop']}"]).groups == {"a": ["shop"]}
    assert load_recipe(name).groups == before  # nothing was changed for who comes after


def test_what_is_text_may_look_like_something_else():
    for text in ("2026-11-28", "5", "true", "a b"):
        assert load_recipe("mini", [f"name={text}"]).name == text
    with pytest.raises(UsageError, match=r"seed must be a whole number, got 2026-11-28$"):
        load_recipe("mini", ["seed=2026-11-28"])
    with pytest.raises(UsageError, match=r"groups must be a table of lists of texts, got 3$"):
        load_recipe("mini", ["groups=3"])


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_run_does_not_begin_with_what_breaks_a_rule(tmp_path, dry_run):
    with pytest.raises(UsageError, match=r"rl\.max_length must be at most"):
        begin("smoke", ["rl.max_length=5000"], tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("num", [1, 2])
def test_on_ray_one_expert_has_the_whole_cluster(num, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    recipe = load_recipe("smoke", ["rl.runtime=ray", f"rl.experts_at_once={num}"])
    told = list(broken_rules(recipe))
    assert len(told) == num - 1
    assert all("rl.experts_at_once must be 1" in line for line in told)


def test_ray_must_be_there_where_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert list(broken_rules(load_recipe("smoke", ["rl.experts_at_once=1"]))) == []
    recipe = load_recipe("smoke", ["rl.runtime=ray", "rl.experts_at_once=1"])
    assert [line.partition(":")[0] for line in broken_rules(recipe)] == ["rl.runtime = 'ray' needs"]


def test_a_resumed_expert_passes_over_no_task_that_the_curriculum_draws_again(tmp_path):
    assert experts._run_config(load_recipe("smoke"), tmp_path).tasks_go_on
