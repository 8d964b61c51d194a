"""Audits within a comparison: their cells, what is refused, and one from end to end."""

import json

import pytest

from helpers.command_line import untrain
from untrain.audit.compared import RunAudits
from untrain.audit.designs import plan_of
from untrain.compare import compare_recipe
from untrain.compare.plan import comparison_recipe
from untrain.errors import SettingError
from untrain.runs.recipe import read
from untrain.runs.stages import run_recipe
from untrain.sealed import read_sealed, write_sealed

pytestmark = pytest.mark.usefixtures("quick_workers")

RECIPE = """\
name: tiny
data: {name: digits, limit: 300}
forget: {fraction: 0.2, holdout: 0.1}
model: {name: small-cnn, options: {width: 4}}
train: {steps: 40, optimizer: {name: sgd, lr: 0.1, momentum: 0.9}}
methods:
  finetune: {steps: 2}
compare:
  seeds: [3, 1]
  audit: {twins: 4, references: 1, seed: 5}
batch_size: 50
device: cpu
"""


def recipe_of(tmp_path, *flags, text=RECIPE):
    (tmp_path / "recipe.yaml").write_text(text)
    return read(tmp_path / "recipe.yaml", ["--out", str(tmp_path / "out"), *flags])


def test_the_first_seeds_run_of_each_set_is_audited_once_it_is_measured(tmp_path):
    recipe = comparison_recipe(recipe_of(tmp_path))
    cells = {cell.key: cell for cell in RunAudits().cells(recipe)}
    place = "random-20/seed-3/audit"
    assert all(key.startswith(f"{place}/") for key in cells)
    group = place.removesuffix("/audit")
    assert cells[f"{place}/begin"].needs == (f"{group}/evaluation",)
    twins = [key for key in cells if key.endswith("/original")]
    assert len(twins) == 4 and all(cells[key].needs == (f"{place}/begin",) for key in twins)
    assert set(cells[f"{place}/verdict"].needs) == {*cells} - {f"{place}/begin", f"{place}/verdict"}
    assert RunAudits().cells(comparison_recipe(recipe_of(tmp_path, "--compare.audit", "null"))) == []


def test_a_search_on_the_audits_seed_is_refused(tmp_path):
    recipe = recipe_of(tmp_path, "--compare.trials", "2", "--compare.tuning_seed", "5")
    with pytest.raises(SettingError, match=r"compare\.audit\.seed is 5"):
        compare_recipe(recipe, audits=RunAudits())
    implied = recipe_of(tmp_path, "--compare.trials", "2", "--compare.seeds", "[4]")
    with pytest.raises(SettingError, match=r"compare\.audit\.seed is 5"):
        compare_recipe(implied, audits=RunAudits())
    with pytest.raises(SettingError, match="without audits"):
        compare_recipe(recipe_of(tmp_path))


def test_an_audit_by_the_seed_of_an_earlier_search_is_refused(tmp_path):
    recipe = recipe_of(tmp_path, text=RECIPE.replace("steps: 40", "steps: 1").split("compare:")[0] + "device: cpu\n")
    run_recipe(recipe)
    manifest = read_sealed(recipe.folder / "manifest.json", "")
    write_sealed(recipe.folder / "manifest.json", manifest | {"searched": {"seed": 7, "methods": ["finetune"]}})
    with pytest.raises(SettingError, match="finetune were searched with seed 7"):
        plan_of(recipe, seed=7)
    assert plan_of(recipe, seed=8).seed == 8


def test_a_comparison_with_its_audit(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("[3, 1]", "[3]"))
    code, _, err = untrain("compare", recipe, "--out", tmp_path / "out")
    assert code == 0, err
    content = json.loads((tmp_path / "out/comparison.json").read_text())
    ((name, one),) = content["forget_sets"].items()
    found = json.loads((tmp_path / f"out/cells/{name}/seed-3/audit/audit.json").read_text())
    model = one["models"]["finetune"]["measures"]
    assert model["audit_auc"]["mean"] == found["methods"]["finetune"]["outputs"]["auc"]
    assert model["audit_auc"]["ci95"] == found["methods"]["finetune"]["outputs"]["auc_ci"]
    assert one["audit"]["verdicts"]["finetune"]["kind"] == found["methods"]["finetune"]["verdict"]["kind"]
    assert one["audit"]["seed"] == 5 and one["audit"]["coins_sha256"] == found["coins_sha256"]
    table = (tmp_path / "out/comparison.tex").read_text()
    assert "AUC" in table and found["methods"]["finetune"]["verdict"]["kind"] in table
    assert "seconds" in found and (tmp_path / f"out/cells/{name}/seed-3/audit/audit.html").exists()
    code, _, err = untrain("compare", recipe, "--out", tmp_path / "out", "--resume")
    assert code == 0 and "audit/twins" not in err, "all of it is finished"
