"""What a run folder keeps of a method's model: once whole, and no more than what changed where that is enough."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import untrain as library
from helpers.command_line import files, table, untrain
from helpers.text_recipes import save_text_recipe
from helpers.tiny_recipes import RECIPE as GENERATOR
from untrain.errors import CheckpointError, SettingError, StaleFile
from untrain.models.checkpoints import load_state, read_facts, save, state_hash
from untrain.runs.models import open_model

RECIPE = """\
name: stored
data: {name: digits, limit: 300}
forget: {fraction: 0.1, holdout: 0.1}
model: {name: small-cnn, options: {width: 16}}
train: {epochs: 1}
methods:
  finetune: {steps: 2}
  salun: {steps: 2, fraction: 0.1}
references: 0
batch_size: 64
device: cpu
"""


def ran(*words: Any) -> str:
    code, said, errors = untrain(*words)
    assert code == 0, errors
    return said


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, run with either way to store what methods make; for looking only."""
    place = tmp_path_factory.mktemp("store")
    (place / "recipe.yaml").write_text(RECIPE)
    for store in ("model", "delta"):
        ran("run", place / "recipe.yaml", "--store", store, "--out", place / store)
    return place


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    """A copy of the run that keeps what changed, to damage."""
    return Path(shutil.copytree(runs / "delta", tmp_path / "run"))


def test_a_plain_model_is_whole_unless_the_recipe_says_otherwise(runs: Path, tmp_path: Path) -> None:
    ran("unlearn", runs / "recipe.yaml", "--method", "salun", "--out", tmp_path / "run")
    state = load_file(tmp_path / "run/salun.safetensors")
    assert state.keys() == load_file(runs / "model/original.safetensors").keys() and files(runs / "model/salun") == []
    assert same(state, load_file(runs / "model/salun.safetensors"))


def test_what_changed_gives_the_model_to_the_bit(runs: Path) -> None:
    whole, delta = (runs / store / "salun.safetensors" for store in ("model", "delta"))
    assert delta.stat().st_size < whole.stat().st_size / 2
    expected, facts = load_state(whole)
    found, told = load_state(delta)
    assert same(expected, found) and "delta" not in told and told["hash"] == facts["hash"]
    _, module = open_model(runs / "delta", "salun")
    assert state_hash(module) == facts["hash"]
    assert table(runs / "delta")["models"] == table(runs / "model")["models"]
    manifest = json.loads((runs / "delta/manifest.json").read_text())["models"]
    assert manifest["salun"]["delta"] == {"original": "original.safetensors"}


def test_where_nearly_all_changed_the_model_is_kept(runs: Path) -> None:
    assert same(load_file(runs / "delta/finetune.safetensors"), load_file(runs / "model/finetune.safetensors"))
    assert "delta" not in read_facts(runs / "delta/finetune.safetensors")


def test_every_command_reads_it(runs: Path, copy: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.glob("*.safetensors")}
    ran("run", copy, "--resume")
    ran("evaluate", copy)
    ran("report", copy)
    assert before == {path: path.stat().st_mtime_ns for path in copy.glob("*.safetensors")}
    assert table(copy)["models"] == table(runs / "model")["models"]
    assert "% of the weights changed" in ran("export", copy, "--delta", "--model", "salun")
    ran("export", copy, "--whole", "--model", "salun", "--out", tmp_path / "salun.safetensors")
    assert same(load_file(tmp_path / "salun.safetensors"), load_file(runs / "model/salun.safetensors"))
    ran("export", copy, "--whole", "--model", "salun", "--out", tmp_path / "folder")
    assert same(load_file(tmp_path / "folder/model.safetensors"), load_file(runs / "model/salun.safetensors"))


def test_an_original_that_is_gone_is_named(runs: Path, copy: Path) -> None:
    (copy / "original.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"salun\.safetensors holds .*original\.safetensors"):
        load_state(copy / "salun.safetensors")
    with pytest.raises(StaleFile, match=r"salun\.safetensors holds .*original\.safetensors"):
        open_model(copy, "salun")
    ran("run", copy, "--resume")  # trains the same original anew
    assert same(load_state(copy / "salun.safetensors")[0], load_file(runs / "model/salun.safetensors"))


def test_an_original_that_changed_is_named(copy: Path) -> None:
    state, facts = load_state(copy / "original.safetensors")
    name = next(iter(state))
    save(state | {name: state[name] + 1}, copy / "original.safetensors", facts)
    with pytest.raises(CheckpointError, match=r"original\.safetensors back as it was"):
        load_state(copy / "salun.safetensors")
    code, _, errors = untrain("evaluate", copy)
    assert code == 1 and "was made from other weights" in errors and "original.safetensors" in errors


def test_once_it_is_whole_the_original_may_go(runs: Path, copy: Path) -> None:
    ran("export", copy, "--whole", "--model", "salun")
    (copy / "original.safetensors").unlink()
    assert same(load_file(copy / "salun.safetensors"), load_file(runs / "model/salun.safetensors"))
    assert "delta" not in json.loads((copy / "manifest.json").read_text())["models"]["salun"]
    ran("report", copy)
    assert state_hash(open_model(copy, "salun")[1]) == read_facts(copy / "salun.safetensors")["hash"]


def test_a_further_request_goes_on_from_it(runs: Path, copy: Path, tmp_path: Path) -> None:
    words = ("--forget.after", copy, "--model.checkpoint", copy / "salun.safetensors", "--method", "salun")
    ran("run", runs / "recipe.yaml", *words, "--store", "delta", "--out", tmp_path / "next")
    facts = read_facts(tmp_path / "next/salun.safetensors")
    assert facts["delta"] == {"original": str(copy / "salun.safetensors")}
    assert facts["started_from"] == read_facts(copy / "salun.safetensors")["hash"]
    assert state_hash(open_model(tmp_path / "next", "salun")[1]) == facts["hash"]
    load_state(tmp_path / "next/salun.safetensors")  # from the first original over both
    shutil.rmtree(copy)
    with pytest.raises(CheckpointError, match="is not there"):
        load_state(tmp_path / "next/salun.safetensors")
    code, _, errors = untrain("evaluate", tmp_path / "next")
    assert code == 1 and str(copy) in errors


@pytest.mark.parametrize("original", ["salun.safetensors", "\0", "other.safetensors"])
def test_a_file_that_names_a_strange_original_is_refused(original: str, copy: Path) -> None:
    path = copy / "salun.safetensors"
    values, facts = load_state(path, whole=False)
    if original.startswith("other"):  # which names the first
        save(values, copy / original, facts | {"delta": {"original": path.name}})
    save(values, path, facts | {"delta": {"original": original}})
    with pytest.raises(CheckpointError, match=r"\.safetensors"):
        load_state(path)
    save(values, path, facts | {"delta": {"original": 1}})
    with pytest.raises(CheckpointError, match=r"salun\.safetensors"):
        load_state(path)


def test_a_comparison_keeps_what_changed(runs: Path, tmp_path: Path) -> None:
    words = ("--compare.seeds", "[0]", "--references", 2, "--out", tmp_path / "compared")
    ran("compare", runs / "recipe.yaml", *words)
    (made,) = (tmp_path / "compared").rglob("seed-0/salun.safetensors")
    assert "delta" in read_facts(made) and state_hash(open_model(made.parent, "salun")[1]) == read_facts(made)["hash"]


def test_a_generator_lies_there_once(tmp_path: Path) -> None:
    from diffusers import UNet2DModel

    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(GENERATOR.replace("methods:\n  sfron: {", "references: 0\nmethods:\n  salun: {fraction: 0.05, "))
    found = []
    for store, words in (("model", ()), ("delta", ("--store", "delta"))):
        run = tmp_path / store
        ran("run", recipe, *words, "--out", run)
        facts = read_facts(run / "salun.safetensors")
        assert "delta" in facts and (run / "salun").is_dir() == (store == "model")
        assert state_hash(open_model(run, "salun")[1]) == facts["hash"]
        found.append(load_state(run / "salun.safetensors")[0])
        ran("sample", run, "--classes", "3", "--count", 1, "--steps", 1, "--out", tmp_path / f"{store}.png")
    assert same(*found) and same(found[0], UNet2DModel.from_pretrained(tmp_path / "model/salun").state_dict())
    (tmp_path / "model/original.safetensors").unlink()
    code, _, errors = untrain("sample", tmp_path / "model")
    assert code == 1 and "original.safetensors" in errors and str(tmp_path / "model/salun") in errors
    ran("sample", tmp_path / "model/salun", "--classes", "3", "--count", 1, "--steps", 1, "--out", tmp_path / "own.png")


def test_a_pipeline_lies_there_once(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    recipe = save_text_recipe(tmp_path)
    recipe.write_text(recipe.read_text().replace("sfron: {", "salun: {fraction: 0.1, "))
    (tmp_path / "prompts.csv").write_text("prompt\na red circle\n")
    found = []
    for store, words in (("model", ()), ("delta", ("--store", "delta"))):
        run = tmp_path / store
        ran("run", recipe, *words, "--out", run)
        facts = read_facts(run / "salun.safetensors")
        assert facts["delta"] == {"original": str(tmp_path / "pipe")}
        assert (run / "salun").is_dir() == (store == "model")
        found.append(load_state(run / "salun.safetensors")[0])
        assert state_hash(open_model(run, "salun")[1]) == facts["hash"]
        pictures = ("--count", 1, "--steps", 2, "--device", "cpu", "--out", tmp_path / f"{store}-pictures")
        ran("sample", run, "--prompts", tmp_path / "prompts.csv", *pictures)
    assert same(*found)
    drawn = [next((tmp_path / f"{store}-pictures").rglob("*.png")) for store in ("model", "delta")]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    ran("export", tmp_path / "delta", "--whole", "--out", tmp_path / "elsewhere")
    elsewhere = StableDiffusionPipeline.from_pretrained(tmp_path / "elsewhere")
    assert same(found[0], elsewhere.unet.state_dict()) and not (tmp_path / "delta/salun").exists()
    ran("export", tmp_path / "delta", "--whole")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "delta/salun")
    assert same(found[0], pipe.unet.state_dict())
    shutil.move(tmp_path / "pipe", tmp_path / "gone")
    assert same(found[0], load_file(tmp_path / "delta/salun.safetensors"))
    code, _, errors = untrain("evaluate", tmp_path / "model")
    assert code == 1 and str(tmp_path / "pipe") in errors
    with pytest.raises(CheckpointError, match="pipe alone, and that is not there.*model/salun"):
        load_state(tmp_path / "model/salun.safetensors")


def test_a_run_in_python_keeps_what_changed_where_it_is_told_to(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
    g = torch.Generator().manual_seed(0)
    sets = {
        name: [(torch.randn(4, 4, 4, generator=g), torch.arange(4) % 3) for _ in range(3)]
        for name in ("forget", "retain", "holdout")
    }
    how: dict[str, Any] = {"method": "salun", "steps": 2, "fraction": 0.1, "device": "cpu", **sets}
    whole = library.unlearn(model, out=tmp_path / "whole", **how)
    assert same(load_file(tmp_path / "whole/salun.safetensors"), whole.model.state_dict())
    made = library.unlearn(model, out=tmp_path / "run", store="delta", **how)
    again = library.unlearn(model, out=tmp_path / "run", store="delta", resume=True, **how)
    assert same(made.model.state_dict(), again.model.state_dict()) and same(
        made.model.state_dict(), whole.model.state_dict()
    )
    with pytest.raises(CheckpointError, match="the model that untrain.unlearn was given"):
        load_state(tmp_path / "run/salun.safetensors")
    for wrong in ({}, {"out": tmp_path / "other", "inplace": True}):
        with pytest.raises(SettingError, match="store"):
            library.unlearn(model, store="delta", **wrong, **how)
