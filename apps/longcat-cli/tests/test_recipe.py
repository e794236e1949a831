"""Recipes: what can be changed, and what a mistake says."""

import pytest
from longcat_cli.errors import UsageError
from longcat_cli.recipe import load_recipe, recipe_from_dict, recipe_to_dict, shipped_recipes


def test_every_shipped_recipe_loads_and_survives_json():
    for name in shipped_recipes():
        recipe = load_recipe(name, [])
        assert recipe.name == name
        assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_set_changes_anything():
    recipe = load_recipe("mini", ["rl.steps=7", "noise.levels=[0, 0.5]", "model.induction=false",
                                  "name=mine", "rl.learning_rate=1"])  # fmt: skip
    assert (recipe.rl.steps, recipe.noise.levels, recipe.model.induction) == (7, [0.0, 0.5], False)
    assert (recipe.name, recipe.rl.learning_rate) == ("mine", 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rl.stepps=7", "unknown key 'rl.stepps'; near it: steps"),
        ("rll.steps=7", "unknown key 'rll'; near it: rl"),
        ("rl.steps=many", "rl.steps must be int, got 'many'"),
        ("rl.steps=-1", "rl.steps must not be negative"),
        ("rl=3", "rl must be a section"),
        ("rl.steps", "--set must be key=value"),
        ("device=tpu", "device must be one of cpu, cuda"),
        ("noise.levels=[0.1,'x']", "noise.levels must be float"),
        ("groups={}", "groups must name at least one expert"),
    ],
)
def test_a_mistake_is_named(change, words):
    with pytest.raises(UsageError) as caught:
        load_recipe("mini", [change])
    assert words in str(caught.value)


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(UsageError, match="mini, smoke or a TOML file"):
        load_recipe("maxi", [])
