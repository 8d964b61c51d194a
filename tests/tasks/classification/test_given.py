"""Recipes on classifiers that are given: from a folder of transformers and back, held against transformers alone."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
import yaml

import untrain
from helpers.command_line import untrain as command
from helpers.pretrained_classifiers import (
    KINDS,
    LABELS,
    classifier,
    inputs,
    measured,
    picture,
    processor,
    taught_folder,
    teach,
    write_pictures,
    write_recipe,
)
from untrain.tasks.classification.given import warn_of_accuracy


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return taught_folder(tmp_path_factory.mktemp("hf"))


def run(recipe, out, *flags):
    code, _, err = command("run", recipe, "--out", out, *flags)
    assert code == 0, err
    return " ".join(err.split()), evaluation(out), json.loads((out / "manifest.json").read_text())


def evaluation(out):
    return json.loads((out / "evaluation.json").read_text())["models"]


def notes(manifest):
    return " ".join(manifest["models"]["original"]["notes"])


# ── from folder to folder ──


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_finds_what_the_evaluation_says(kind, pictures, tmp_path):
    """Accuracies are counts, so they are equal, unless a logit is a tie within rounding."""
    taught_folder(tmp_path / "hf", kind)
    methods = {"random-label": {"steps": 30, "optimizer": {"lr": 0.1}}}
    content = {"model": {"checkpoint": str(tmp_path / "hf")}, "methods": methods}
    recipe = write_recipe(tmp_path / "r.yaml", pictures, **content)
    _, models, manifest = run(recipe, tmp_path / "run")
    assert models["original"]["RA"] == models["original"]["FA"] == 100.0 and models["random-label"]["FA"] < 100
    for name, place in (("original", tmp_path / "hf"), ("random-label", tmp_path / "run" / "random-label")):
        train, test = (measured(place, pictures / part) for part in ("train", "test"))
        assert models[name]["FA"] == pytest.approx(train["cat"])
        assert models[name]["RA"] == pytest.approx((train["dog"] + train["eel"]) / 2)
        assert models[name]["TA"] == pytest.approx((test["dog"] + test["eel"]) / 2)
    assert manifest["data"]["classes"] == list(LABELS)
    card = (tmp_path / "run" / "random-label" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers" and "`cat`" in card and str(tmp_path) not in card
    listed = manifest["models"]["random-label"]["files"]
    assert {"random-label/config.json", "random-label/preprocessor_config.json"} <= {*listed}


@pytest.mark.parametrize("form", ["name alone", "name and folder", "file", "index"])
def test_forms_in_which_a_classifier_is_named(form, pictures, tmp_path):
    sharded = {"max_shard_size": "3KB"} if form == "index" else {}
    there = taught_folder(tmp_path / "hf", "vit", **sharded)
    model = {
        "name alone": {"name": f"hf:{there}"},
        "name and folder": {"name": f"hf:{there}", "checkpoint": str(there)},
        "file": {"checkpoint": str(there / "model.safetensors")},
        "index": {"checkpoint": str(there / "model.safetensors.index.json")},
    }[form]
    _, models, manifest = run(write_recipe(tmp_path / "r.yaml", pictures, model=model), tmp_path / "run")
    assert models["original"]["RA"] == 100.0
    assert ("not trained" in notes(manifest)) == (form == "name alone")


def test_a_run_on_a_folder_goes_on_and_is_measured_again(folder, pictures, tmp_path):
    recipe, out = write_recipe(tmp_path / "r.yaml", pictures, model={"checkpoint": str(folder)}), tmp_path / "run"
    _, before, _ = run(recipe, out)
    weights = (out / "gradient-ascent" / "model.safetensors").read_bytes()
    shutil.rmtree(out / "gradient-ascent")
    code, _, err = command("run", out, "--resume")
    assert code == 0 and "written again" in err, err
    assert (out / "gradient-ascent" / "model.safetensors").read_bytes() == weights
    assert (
        command("evaluate", out)[0] == 0 and evaluation(out)["gradient-ascent"]["FA"] == before["gradient-ascent"]["FA"]
    )
    damaged = out / "gradient-ascent" / "model.safetensors"
    damaged.write_bytes(weights[:-1] + b"\x01")
    more = {"forget": {"classes": ["dog"], "after": str(out)}, "model": {"checkpoint": str(damaged.parent)}}
    further = write_recipe(tmp_path / "more.yaml", pictures, **more)
    code, _, err = command("run", further, "--out", tmp_path / "more")
    assert code != 0 and "damaged" in err


def test_a_further_request_goes_on_with_the_folder(folder, pictures, tmp_path):
    first = write_recipe(tmp_path / "r.yaml", pictures, model={"checkpoint": str(folder)})
    run(first, tmp_path / "first")
    again = tmp_path / "first" / "gradient-ascent"
    wanted = {"forget": {"classes": ["dog"], "after": str(tmp_path / "first")}, "model": {"checkpoint": str(again)}}
    _, after, _ = run(write_recipe(tmp_path / "r2.yaml", pictures, **wanted), tmp_path / "second")
    train = measured(again, pictures / "train")
    assert after["original"]["FA"] == pytest.approx((train["cat"] + train["dog"]) / 2), "both requests are measured"
    assert after["original"]["RA"] == pytest.approx(train["eel"])


# ── whether it is trained ──


def test_a_deployed_model_is_trained_only_where_the_recipe_says_so(folder, pictures, tmp_path):
    named = {"model": {"name": f"hf:{folder}"}}
    said = {"epochs": 1, "optimizer": {"lr": 0.001}}
    for content, trains in (
        (named, False),
        (named | {"train": said}, True),
        ({"model": {**named["model"], "train": False}, "train": said}, False),
        ({"model": {"checkpoint": str(folder)}, "train": said}, False),
    ):
        out = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        run(write_recipe(tmp_path / "r.yaml", pictures, **content), out)
        assert (out / "original.safetensors").exists() == trains, content
        code, _, err = command("run", out, "--resume")
        assert code == 0, err
        assert (out / "original.safetensors").exists() == trains, "config.yaml names a section train in any case"


def test_a_head_of_another_size_is_new_only_for_training(folder, tmp_path):
    names = {"cat": "red", "dog": "green", "eel": "blue"}
    others = write_pictures(tmp_path / "d", called=names.get)
    training = {"train": {"epochs": 8, "optimizer": {"lr": 0.1}}}
    forget = {"forget": {"classes": ["red"]}}
    named = write_recipe(tmp_path / "r.yaml", others, model={"name": f"hf:{folder}"}, **training, **forget)
    _, models, _ = run(named, tmp_path / "run")
    assert models["original"]["RA"] > 60
    config = json.loads((tmp_path / "run" / "gradient-ascent" / "config.json").read_text())
    assert config["id2label"] == {"0": "blue", "1": "green", "2": "red"}, "the data's classes are the model's now"
    deployed = write_recipe(tmp_path / "r2.yaml", others, model={"checkpoint": str(folder)}, **forget)
    code, _, err = command("run", deployed, "--out", tmp_path / "run2")
    assert code != 0 and "model.labels" in err and "'blue'" in err


def test_references_of_a_deployed_model_start_anew(folder, pictures, tmp_path):
    content = {"references": 1, "train": {"epochs": 1}, "model": {"checkpoint": str(folder)}}
    err, models, manifest = run(write_recipe(tmp_path / "r.yaml", pictures, **content), tmp_path / "run")
    assert "new weights" in err and "new weights" in notes(manifest)
    assert models["original"]["RA"] == 100.0 and "retrained" in models


# ── which class is meant ──


def test_labels_say_which_class_is_which(folder, tmp_path):
    others = write_pictures(tmp_path / "d", called={"cat": "katze", "dog": "Dog", "eel": "n01440764"}.get)
    labels = {"katze": "cat", "n01440764": 0}
    content = {"model": {"checkpoint": str(folder), "labels": labels}, "forget": {"classes": ["katze"]}}
    _, models, manifest = run(write_recipe(tmp_path / "r.yaml", others, **content), tmp_path / "run")
    assert models["original"]["RA"] == models["original"]["FA"] == 100.0
    assert "'Dog' is 'dog'" in notes(manifest)
    content = {"model": {"checkpoint": str(folder)}, "forget": {"classes": ["katze"]}}
    code, _, err = command("run", write_recipe(tmp_path / "r2.yaml", others, **content), "--out", tmp_path / "run2")
    assert code != 0 and "'katze'" in err and "model.labels" in err


def test_a_model_without_names_takes_the_order_of_the_data_and_says_so(pictures, tmp_path):
    own = ("cat", "dog", "eel")
    there = taught_folder(tmp_path / "hf", "resnet", own)
    config = json.loads((there / "config.json").read_text())
    config["id2label"] = {number: f"LABEL_{number}" for number in range(3)}
    (there / "config.json").write_text(json.dumps(config))
    _, models, manifest = run(
        write_recipe(tmp_path / "r.yaml", pictures, model={"checkpoint": str(there)}), tmp_path / "run"
    )
    assert models["original"]["RA"] == 100.0 and "0 is 'cat', 1 is 'dog', 2 is 'eel'" in notes(manifest)
    shutil.copytree(pictures, tmp_path / "fewer")
    for part in ("train", "test"):
        shutil.rmtree(tmp_path / "fewer" / part / "dog")
    fewer = write_recipe(tmp_path / "r2.yaml", tmp_path / "fewer", model={"checkpoint": str(there)})
    code, _, err = command("run", fewer, "--out", tmp_path / "run2")
    assert code != 0 and "model.labels" in err
    labels = {"checkpoint": str(there), "labels": {"cat": 0, "eel": 2}}
    _, models, _ = run(write_recipe(tmp_path / "r3.yaml", tmp_path / "fewer", model=labels), tmp_path / "run3")
    assert models["original"]["RA"] == models["original"]["FA"] == 100.0


def test_numbers_as_names_are_the_models_numbers(tmp_path):
    """Folders 0, 2 and 10 of a model with 11 outputs: "10" stands before "2" in the alphabet."""
    order = tuple("x" if n not in (0, 2, 10) else {0: "eel", 2: "cat", 10: "dog"}[n] for n in range(11))
    prepared, model = processor("resnet"), classifier("resnet", 11)
    teach(model, prepared, order).save_pretrained(tmp_path / "hf")
    prepared.save_pretrained(tmp_path / "hf")
    others = write_pictures(tmp_path / "d", called={"eel": "0", "cat": "2", "dog": "10"}.get)
    content = {"model": {"checkpoint": str(tmp_path / "hf")}, "forget": {"classes": ["2"]}}
    _, models, _ = run(write_recipe(tmp_path / "r.yaml", others, **content), tmp_path / "run")
    assert models["original"]["RA"] == models["original"]["FA"] == 100.0


def test_a_number_says_which_class_it_chose(pictures, tmp_path):
    small = {
        "model": {"name": "small-cnn", "options": {"width": 4}},
        "train": {"epochs": 1},
        "data": {"image_size": 16},
    }
    err, _, manifest = run(
        write_recipe(tmp_path / "r.yaml", pictures, **small, forget={"classes": [1]}), tmp_path / "run"
    )
    assert "1 is class 1, 'dog'" in err and "'dog'" in notes(manifest)
    others = write_pictures(tmp_path / "d", called={"eel": "1", "cat": "2", "dog": "10"}.get)
    code, _, err = command(
        "run", write_recipe(tmp_path / "r2.yaml", others, **small, forget={"classes": [1]}), "--out", tmp_path / "run2"
    )
    assert code != 0 and "'1'" in err and "'10'" in err and "quotes" in err
    run(write_recipe(tmp_path / "r3.yaml", others, **small, forget={"classes": ["1"]}), tmp_path / "run3")


# ── preparation ──


def test_the_recipe_wins_over_the_processor_with_a_note(folder, pictures, tmp_path):
    """The written processor prepares images as the run did."""
    own = {"image_size": 20, "mean": [0.5, 0.5, 0.5]}
    content = {"model": {"checkpoint": str(folder)}, "data": own}
    _, models, manifest = run(write_recipe(tmp_path / "r.yaml", pictures, **content), tmp_path / "run")
    said = notes(manifest)
    assert "data.image_size is 20" in said and "16×16" in said and "data.mean is [0.5, 0.5, 0.5]" in said
    train = measured(tmp_path / "run" / "gradient-ascent", pictures / "train")
    assert models["gradient-ascent"]["FA"] == pytest.approx(train["cat"])
    same = {"model": {"checkpoint": str(folder)}, "data": {"image_size": 16}}
    _, _, manifest = run(write_recipe(tmp_path / "r2.yaml", pictures, **same), tmp_path / "run2")
    assert "image_size" not in notes(manifest), "the processor's own size says nothing else"


def test_an_original_that_does_not_know_its_data_is_told_of(folder, pictures, tmp_path):
    content = {"model": {"checkpoint": str(folder), "labels": {"cat": "dog", "dog": "eel", "eel": "cat"}}}
    err, _, manifest = run(write_recipe(tmp_path / "r.yaml", pictures, **content), tmp_path / "run")
    assert "warning" in err and "no better than chance" in err and "chance" in notes(manifest)
    assert "chance" in evaluation(tmp_path / "run")["original"]["warnings"][0], "the report says it too"


def test_when_an_accuracy_is_warned_of():
    assert warn_of_accuracy(33.0, 3, None) and not warn_of_accuracy(34.0, 3, None)
    assert "95.0" in warn_of_accuracy(70.0, 3, 95.0)[0] and not warn_of_accuracy(76.0, 3, 95.0)
    assert not warn_of_accuracy(100.0, 1, None)


# ── contradictions ──


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"checkpoint": "HF", "name": "resnet18"}, "leave model.name out"),
        ({"checkpoint": "HF", "entry": "ema"}, "model.entry"),
        ({"checkpoint": "HF", "name": "hf:HF", "train": True}, "give one"),
        ({"name": "small-cnn", "train": True}, "hf:PATH_OR_ID"),
        ({"name": "small-cnn", "labels": {"cat": 1}}, "model.labels"),
        ({"checkpoint": "EMPTY"}, "config.json"),
    ],
)
def test_contradictions_are_refused(folder, pictures, tmp_path, model, said):
    (tmp_path / "empty").mkdir()
    places = {"HF": str(folder), "EMPTY": str(tmp_path / "empty"), "hf:HF": f"hf:{folder}"}
    content = {key: places.get(value, value) if isinstance(value, str) else value for key, value in model.items()}
    recipe = write_recipe(tmp_path / "r.yaml", pictures, model=content)
    code, _, err = command("run", recipe, "--out", tmp_path / "run")
    assert code != 0 and said in " ".join(err.split()) and not (tmp_path / "run").exists()


# ── in Python ──


def test_a_model_of_transformers_in_python(folder, pictures, tmp_path):
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    draw, prepare = np.random.default_rng(5), processor("resnet")
    sets = {}
    for name in ("cat", "dog", "eel"):
        x = inputs([picture(name, draw) for _ in range(12)], prepare)
        sets[name] = torch.utils.data.TensorDataset(x, torch.full((12,), LABELS.index(name)))
    kept = torch.utils.data.ConcatDataset([sets["dog"], sets["eel"]])
    how = {"forget": sets["cat"], "retain": kept, "device": "cpu", "batch_size": 12}
    result = untrain.unlearn(model, method="gradient-ascent", steps=2, out=tmp_path / "run", **how)
    assert type(result.model) is type(model)
    result.model.save_pretrained(tmp_path / "own")
    x = sets["cat"][:][0]
    for place in (tmp_path / "own", tmp_path / "run" / "gradient-ascent"):
        loaded = transformers.AutoModelForImageClassification.from_pretrained(place).eval()
        assert torch.equal(loaded(x).logits, result.model(x).logits) and loaded.config.id2label[2] == "cat"
    x = inputs([picture(name, draw) for name in ("dog", "eel")], prepare)
    new = torch.utils.data.TensorDataset(x, torch.tensor([LABELS.index("dog"), LABELS.index("eel")]))
    found = untrain.evaluate(result.model, test=new, **{k: v for k, v in how.items() if k != "batch_size"})
    assert {*found.by_class["RA"]} == {"dog", "eel"}, "classes go by the model's names"
