"""Which cells a comparison has: pure functions of the recipe."""

from dataclasses import replace

import pytest

from untrain.compare.plan import comparison_recipe, forget_sets, group_recipe, groups, plan, tuned
from untrain.data.sections import Forget
from untrain.errors import SettingError, UnknownName
from untrain.methods.finetune import Finetune
from untrain.methods.retrain import Retrain
from untrain.runs.recipe import Comparison, Recipe
from untrain.tasks.classification.sections import ClassificationSections, Model

SETS = {"random": {"fraction": 0.1}, "three": {"classes": ["3"], "holdout": 0.3}}


OWN = Forget(fraction=0.5, holdout=0.2)


def recipe(*, forget=OWN, checkpoint=None, **changes):
    compare = Comparison(seeds=[4, 2], forget_sets=SETS, trials=3)
    sections = ClassificationSections(forget=forget, model=Model(checkpoint=checkpoint))
    made = Recipe(sections=sections, methods={"mild": Finetune()}, compare=compare, out="c")
    return comparison_recipe(replace(made, **changes))


def test_every_set_and_seed_has_every_cell_and_what_it_needs_comes_before():
    cells = plan(recipe())
    keys = [cell.key for cell in cells]
    names = ("original", "retrained", "retrained-2", "mild", "evaluation")
    expected = {f"{name}/seed-{seed}/{cell}" for name in SETS for seed in (4, 2) for cell in names}
    expected |= {f"tuning/{name}/{cell}" for name in SETS for cell in ("original", "mild")}
    assert set(keys) == expected
    assert len(keys) == len(expected)
    for place, cell in enumerate(cells):
        assert {*cell.needs, *cell.after} <= set(keys[:place]), cell
    by_key = {cell.key: cell for cell in cells}
    assert by_key["three/seed-2/mild"].needs == ("three/seed-2/original", "tuning/three/mild")
    assert by_key["three/seed-2/retrained"].needs == (), "a retrained model needs no original"
    assert set(by_key["random/seed-4/evaluation"].after) == {
        f"random/seed-4/{name}" for name in ("retrained", "retrained-2", "mild")
    }


def test_equal_originals_are_trained_once():
    chosen = recipe()
    marks = {group: group.rpartition("/")[2] for group in groups(chosen)}
    marks |= {"tuning/random": "t", "tuning/three": "t"}
    needs = {cell.key: cell.needs for cell in plan(chosen, marks) if cell.name == "original"}
    assert needs == {
        "tuning/random/original": (),
        "tuning/three/original": ("tuning/random/original",),
        "random/seed-4/original": (),
        "three/seed-4/original": ("random/seed-4/original",),
        "random/seed-2/original": (),
        "three/seed-2/original": ("random/seed-2/original",),
    }


def test_a_forget_set_takes_what_it_does_not_say_from_the_recipe():
    found = forget_sets(recipe())
    assert found["random"] == Forget(fraction=0.1, holdout=0.2)
    assert found["three"] == Forget(classes=["3"], holdout=0.3)


@pytest.mark.parametrize(
    ("forget", "name"),
    [
        (Forget(fraction=0.1), "random-10"),
        (Forget(fraction=0.025), "random-2.5"),
        (Forget(count=50), "random-50-samples"),
        (Forget(classes=["T-shirt/top", 3]), "T-shirt-top-3"),
        (Forget(indices="lists/to delete.csv"), "to-delete"),
    ],
)
def test_the_recipes_own_forget_set_gets_a_name(forget, name):
    made = recipe(forget=forget, compare=Comparison())
    assert list(made.compare.forget_sets) == [name]
    assert forget_sets(made)[name] == forget


def test_the_search_has_a_seed_and_held_out_data_of_its_own():
    chosen = recipe()
    assert chosen.compare.tuning_seed == 5
    search, run = group_recipe(chosen, "tuning/random"), group_recipe(chosen, "random/seed-4")
    asked = [each.sections.forget for each in (search, run)]
    assert (search.seed, asked[0].seed, asked[0].holdout) == (5, 5, 0.4)
    assert (run.seed, asked[1].seed, asked[1].holdout) == (4, None, 0.2)
    assert str(run.folder) == "c/cells/random/seed-4"
    none = recipe(forget=Forget(holdout=0.0))
    assert group_recipe(none, "tuning/random").sections.forget.holdout == 0.2, "a search needs something to judge by"


def test_at_least_two_references():
    assert [recipe(references=n).references for n in (0, 1, 2, 4)] == [2, 2, 2, 4]


def test_no_search_without_trials_or_space():
    assert tuned(recipe()) == ["mild"]
    none = recipe(compare=Comparison(forget_sets=SETS))
    assert tuned(none) == []
    assert not [cell for cell in plan(none) if cell.group.startswith("tuning")]
    spaceless = recipe(methods={"again": Retrain()})
    assert tuned(spaceless) == []


def test_a_checkpoint_is_not_trained_and_may_differ_by_seed():
    fixed = Forget(fraction=0.1, holdout_from="train")
    sets = {"random": {"fraction": 0.1}}
    chosen = recipe(checkpoint="m/{seed}.pt", forget=fixed, compare=Comparison(seeds=[7], forget_sets=sets, trials=2))
    assert not [cell for cell in plan(chosen) if cell.name == "original"]
    assert group_recipe(chosen, "random/seed-7").sections.model.checkpoint == "m/7.pt"
    assert group_recipe(chosen, "tuning/random").sections.forget.holdout == 0.1, (
        "what a checkpoint has not seen is fixed"
    )


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(SettingError, match="a comparison needs methods"):
        recipe(methods={})
    with pytest.raises(SettingError, match="say what to forget.*fraction"):
        recipe(forget=Forget(), compare=Comparison())
    with pytest.raises(SettingError, match="compare.trials.*model.checkpoint"):
        recipe(checkpoint="m.pt")
    with pytest.raises(UnknownName, match="'random/seed-9'.*random/seed-2"):
        group_recipe(recipe(), "random/seed-9")
