"""Requests to delete, one after another: photos in a folder, erased after each."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.command_line import files, untrain
from helpers.example_audit import write_example_audit
from untrain.data.records import hash_id
from untrain.data.sources import load

pytestmark = pytest.mark.filterwarnings("default::UserWarning")  # the command line prints them
CLASSES = ("ann", "bob", "cy")
RECIPE = """\
name: faces
data: {{name: folder, path: {path}, test_fraction: 0.2, limit: 120}}
forget: {{holdout: 0.1}}
model: {{name: small-cnn, options: {{width: 4}}}}
train: {{epochs: 1}}
methods:
  finetune: {{epochs: 1}}
  sfron: {{epochs: 1, retain_steps: 1, fisher_samples: 10}}
batch_size: 32
device: cpu
"""


def write_photos(folder, each=60):
    """Random images of three classes, told apart by their brightness."""
    g = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = g.integers(0, 90, (8, 8, 3)) + 80 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{name}-{i:03d}.png")


def content(folder, name="split.json"):
    return json.loads((Path(folder) / name).read_text())


def ids_of(folder, part):
    return content(folder)["records"]["parts"][part]


def run(root, out, *flags, command="run"):
    return untrain(command, root / "recipe.yaml", "--out", out, *flags)


def after(folder, model="sfron"):
    return "--forget.after", folder, "--model.checkpoint", folder / f"{model}.safetensors"


def erase(photos, names):
    for name in names:
        (photos / name).unlink()


def ask(root, name, ids):
    """A list of these ids, a line each."""
    (root / name).write_text("".join(f"{each}\n" for each in ids))
    return "--forget.ids", root / name


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Two requests, each erased from the disk after it was met. For looking only."""
    root = tmp_path_factory.mktemp("story")
    photos, first, second = (root / name for name in ("photos", "monday", "tuesday"))
    write_photos(photos)
    (root / "recipe.yaml").write_text(RECIPE.format(path=photos))
    with open(root / "request.csv", "w", newline="") as file:
        rows = [(7, photos / "ann" / f"ann-{i:03d}.png") for i in range(0, 60, 7)]
        csv.writer(file).writerows([("person", "Photo file"), *rows])
    flags = ["--forget.ids", root / "request.csv", "--forget.id-column", "photo file", "--forget.missing", "skip"]
    code, _, err = run(root, first, *flags)
    assert code == 0, err
    assert "of the list" not in err
    assert "records are skipped" in err, "some photos are in the test part"
    erase(photos, ids_of(first, "forget"))
    bob = [Path(name).name for name in ids_of(first, "retain") if name.startswith("bob/")]
    code, _, err = run(root, second, *ask(root, "names.txt", bob[:6]), *after(first))
    assert code == 0, err
    erase(photos, ids_of(second, "forget")[:4])
    return root, photos, first, second


@pytest.fixture
def copy(story, tmp_path):
    """The story's files, to be changed."""
    _, photos, first, second = story
    for folder in (photos, first, second):
        shutil.copytree(folder, tmp_path / folder.name)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(path=tmp_path / "photos"))
    return tmp_path, tmp_path / "photos", tmp_path / "monday", tmp_path / "tuesday"


# ── samples are found again ──


def test_nothing_comes_back_and_nothing_is_mixed_up(story):
    _, _, first, second = story
    for part in ("holdout", "test"):
        assert ids_of(second, part) == ids_of(first, part)
    assert ids_of(second, "earlier") == ids_of(first, "forget")
    assert sorted([*ids_of(second, "retain"), *ids_of(second, "forget")]) == sorted(ids_of(first, "retain"))
    assert len(ids_of(second, "forget")) == 6
    assert "earlier" not in content(second), "what is erased has no position"
    statistics = [content(folder)["records"]["statistics"] for folder in (first, second)]
    assert statistics[0] == statistics[1], "inputs are normalised as the model knows them"


def test_the_run_tells_of_its_request_and_of_earlier_ones(story):
    _, _, first, second = story
    request = content(second, "manifest.json")["request"]
    assert request["count"] == 6
    assert request["ids"] == ids_of(second, "forget")
    assert request["earlier_gone"] == len(ids_of(first, "forget"))
    original = content(first, "manifest.json")["models"]["original"]
    assert request["first"]["hash"] == original["hash"]
    models = content(second, "evaluation.json")["models"]
    assert "original-first" in models
    page = (second / "report.html").read_text()
    assert all(name in page for name in ids_of(second, "forget"))


def test_earlier_requests_that_are_still_there_are_measured_apart(story, tmp_path):
    root, photos, _, second = story
    there = [name for name in ids_of(second, "forget") if (photos / name).exists()]
    asked = ids_of(second, "retain")[:3]
    third = tmp_path / "wednesday"
    code, _, err = run(root, third, *ask(tmp_path, "three.txt", asked), *after(second))
    assert code == 0, err
    evaluation, split = content(third, "evaluation.json"), content(third)
    assert len(split["earlier"]) == len(there) == 2
    assert len(ids_of(third, "earlier")) == len(ids_of(second, "earlier")) + 6
    for name, entry in evaluation["models"].items():
        new, earlier = (entry["requests"][part]["FA"] for part in ("new", "earlier"))
        assert entry["FA"] == pytest.approx((3 * new + 2 * earlier) / 5), name
    first = content(third, "manifest.json")["request"]["first"]
    assert first["hash"] == content(story[2], "manifest.json")["models"]["original"]["hash"], (
        "of the first, not the last"
    )


def test_a_vanished_record_is_said_and_the_run_goes_on(copy):
    root, photos, _, second = copy
    lost, back = ids_of(second, "retain")[:2]
    held = ids_of(second, "holdout")[0]
    asked = ask(root, "list.txt", ids_of(second, "retain")[5:8])
    erase(photos, [lost, held])
    shutil.move(photos / back, root / "kept.png")
    code, _, err = run(root, root / "two", *asked, *after(second))
    assert code == 0, err
    assert "2 samples that" in err and "no request asked for them" in err and lost in err
    assert "1 samples that" in err and held in err
    assert sorted(ids_of(root / "two", "gone")) == sorted([lost, back])
    assert not {lost, back} & set(ids_of(root / "two", "retain"))
    shutil.move(root / "kept.png", photos / back)
    code, _, err = run(root, root / "three", "--forget.count", 2, *after(root / "two"))
    assert code == 0, err
    assert back in ids_of(root / "three", "retain") + ids_of(root / "three", "forget"), "what is back is retained"
    assert ids_of(root / "three", "gone") == [lost]


def test_new_files_are_left_out_and_said_where_there_is_no_limit(copy):
    root, photos, first, _ = copy
    text = (root / "recipe.yaml").read_text().replace(", limit: 120", "")
    (root / "recipe.yaml").write_text(text)
    code, _, err = run(root, root / "one", "--forget.count", 5)
    assert code == 0, err
    assert len(ids_of(root / "one", "retain")) > len(ids_of(first, "retain"))
    shutil.copy(photos / ids_of(first, "retain")[0], photos / "ann" / "new.png")
    (photos / "zoe").mkdir()
    shutil.copy(photos / "ann" / "new.png", photos / "zoe" / "zoe.png")
    code, _, err = run(root, root / "two", "--forget.count", 5, *after(root / "one"))
    assert code == 0, err
    assert "1 samples of folder are none" in err and "ann/new.png" in err
    assert "zoe is of a class that the model was not trained on" in err
    assert not any("new.png" in name for names in content(root / "two")["records"]["parts"].values() for name in names)


def test_another_image_under_an_old_name_is_refused(copy):
    root, photos, first, _ = copy
    changed, other = ids_of(first, "retain")[3], ids_of(first, "retain")[-1]
    shutil.copy(photos / other, photos / changed)
    code, _, err = run(root, root / "two", "--forget.count", 5, *after(first))
    assert code == 1
    assert "1 samples have another content under the same name" in err and changed in err
    assert files(root / "two") == []


def test_a_class_may_lose_all_its_files(copy):
    root, photos, first, _ = copy
    shutil.rmtree(photos / "ann")
    code, _, err = run(root, root / "two", "--forget.count", 5, *after(first))
    assert code == 0, err
    assert content(root / "two")["records"]["classes"] == list(CLASSES)
    assert {name[:3] for name in ids_of(root / "two", "retain")} == {"bob", "cy/"}


def test_numbers_mean_nothing_once_files_are_gone(story, tmp_path):
    root, _, first, _ = story
    (tmp_path / "list.txt").write_text("1\n2\n")
    code, _, err = run(root, tmp_path / "two", "--forget.indices", tmp_path / "list.txt", *after(first))
    assert code == 1
    assert "Name them by forget.ids" in err


def test_a_run_whose_samples_are_gone_is_not_made_again(story):
    _, _, first, _ = story
    before = {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()}
    code, _, err = untrain("run", first, "--resume")
    assert code == 1
    gone = ids_of(first, "forget")
    assert f"{len(gone)} samples to be forgotten are gone" in err and gone[0] in err and "untrain report" in err
    assert before == {path.name: path.read_bytes() for path in first.iterdir() if path.is_file()}
    assert untrain("report", first)[0] == 0


# ── records that are not there ──


def test_records_that_are_not_there_are_refused_or_skipped(story, tmp_path):
    root, _, first, second = story
    lists = {part: ids_of(first, part) for part in ("forget", "retain", "test", "holdout")}
    good = [name for name in lists["retain"] if name not in ids_of(second, "forget")][:2]
    asked = ask(tmp_path, "list.txt", [*good, lists["forget"][0], lists["test"][0], "nobody.png"])
    code, _, err = run(root, tmp_path / "two", *asked, *after(first))
    assert code == 1
    for words in ("3 unknown ids", "nobody.png", "asked for before, and gone", "test part", "--forget.missing skip"):
        assert words in err
    held = [lists["holdout"][0]]
    asked = ask(tmp_path, "list.txt", [*good, lists["forget"][0], lists["test"][0], "nobody.png", *held])
    code, _, err = run(root, tmp_path / "two", *asked, *after(first), "--forget.missing", "skip", command="unlearn")
    assert code == 0, err
    assert ids_of(tmp_path / "two", "forget") == sorted(good)
    skipped = content(tmp_path / "two", "manifest.json")["request"]["skipped"]
    assert sorted(name for each in skipped.values() for name in each["ids"]) == sorted(
        [lists["forget"][0], lists["test"][0], "nobody.png", *held]
    )
    code, _, err = run(root, tmp_path / "no", *ask(tmp_path, "no.txt", ["x", "y"]), "--forget.missing", "skip")
    assert code == 1 and "2 unknown ids" in err, "a list of nothing but unknown names is a wrong list"


def test_where_all_of_a_request_is_gone_only_the_retain_set_is_left(story, tmp_path):
    root, _, first, _ = story
    asked = ask(tmp_path, "list.txt", ids_of(first, "forget")[:3])
    code, _, err = run(root, tmp_path / "two", *asked, *after(first))
    assert code == 1
    assert "nothing of this request is in the training data any more" in err and "Restore files" in err
    skip = ("--forget.missing", "skip")
    code, _, err = run(root, tmp_path / "two", *asked, *after(first), *skip)
    assert code == 1
    assert "sfron cannot do without it" in err and "--method shrink-perturb" in err
    assert files(tmp_path / "two") == []
    code, _, err = run(root, tmp_path / "two", *asked, *after(first), *skip, "--method", "finetune")
    assert code == 0, err
    models = content(tmp_path / "two", "manifest.json")["models"]
    assert models["finetune"]["hash"] != models["original"]["hash"]
    assert not (tmp_path / "two" / "evaluation.json").exists(), "there is nothing to measure forgetting on"
    assert "Nothing of this request was in the data" in (tmp_path / "two" / "report.html").read_text()


def test_without_the_first_model_its_row_is_left_out_and_said(copy):
    root, _, first, _ = copy
    (first / "original.safetensors").unlink()
    code, _, err = run(root, root / "two", "--forget.count", 3, *after(first))
    assert code == 0, err
    assert "the model before the first request cannot be shown" in err
    assert "original-first" not in content(root / "two", "evaluation.json")["models"]
    assert "missing" in content(root / "two", "manifest.json")["request"]["first"]


# ── ids and hashes ──


def test_hashes_stand_in_the_place_of_ids_and_positions(copy):
    root, photos, _, _ = copy
    names = [f"bob-{i:03d}.png" for i in range(30, 50)]
    there = set(load("folder", part="train", path=photos, test_fraction=0.2).ids)
    asked = ask(root, "list.txt", [name for name in names if f"bob/{name}" in there][:6])
    hashed = ("--forget.hash-ids", "true")
    code, _, err = run(root, root / "one", *asked, *hashed, "--forget.missing", "skip")
    assert code == 0, err
    split = content(root / "one")
    assert not {"forget", "retain", "holdout"} & split.keys()
    for name in ("split.json", "manifest.json", "evaluation.json", "report.html"):
        assert "bob-0" not in (root / "one" / name).read_text()
    salt, keys = split["records"]["salt"], split["records"]["parts"]["forget"]
    forgotten = [name for name in there if hash_id(name, salt) in keys]
    assert len(forgotten) == len(keys) > 0
    code, _, err = untrain("run", root / "one", "--resume")
    assert code == 0, err
    erase(photos, forgotten)
    flags = ("--forget.count", 4, *after(root / "one"))
    code, _, err = run(root, root / "two", *flags)
    assert code == 1 and "forget.hash_ids" in err, "ids beside them would undo it"
    code, _, err = run(root, root / "two", *flags, *hashed)
    assert code == 0, err
    second = content(root / "two")["records"]
    assert second["salt"] == salt
    assert set(keys) <= set(second["parts"]["earlier"])
    assert {*second["parts"]["retain"], *second["parts"]["forget"]} == set(split["records"]["parts"]["retain"])


# ── the log ──


def log(*words):
    code, out, err = untrain("log", *words)
    assert code == 0, err
    return out


def test_the_log_follows_the_weights(story):
    root, photos, first, second = story
    entries = json.loads(log(second, first, "--json", "--ids"))["requests"]
    assert [entry["folder"] for entry in entries] == [str(first), str(second)]
    assert [entry["number"] for entry in entries] == [1, 2]
    assert json.loads(log(root, "--json", "--ids"))["requests"] == entries, "a folder of runs stands for them"
    for entry, folder in zip(entries, (first, second), strict=True):
        models = content(folder, "manifest.json")["models"]
        assert entry["starts"] == models["original"]["hash"]
        assert {m["name"]: m["hash"] for m in entry["models"]} == {n: models[n]["hash"] for n in ("finetune", "sfron")}
        assert entry["ids"] == ids_of(folder, "forget")
        assert entry["on_disk"] == sum((photos / name).exists() for name in entry["ids"])
    assert [entry["on_disk"] for entry in entries] == [0, 2]
    assert [entry["kept"] for entry in entries] == [["sfron"], []]
    text = log(first, second)
    assert text.index(str(first)) < text.index(str(second))
    rows = [*csv.DictReader(io.StringIO(log(second, first, "--csv")))]
    assert [(row["folder"], row["method"], row["kept"]) for row in rows] == [
        (str(first), "finetune", ""),
        (str(first), "sfron", "yes"),
        (str(second), "finetune", ""),
        (str(second), "sfron", ""),
    ]


def test_the_log_hides_ids_behind_hashes(story):
    _, _, first, second = story
    for form in ((), ("--json",), ("--csv",)):
        out = log(first, second, "--hash-ids", "--ids", *form)
        assert ".png" not in out
        assert content(first)["records"]["salt"] not in out, "with the salt, guesses could be tried"
    entries = json.loads(log(first, second, "--hash-ids", "--ids", "--json"))["requests"]
    salt = content(first)["records"]["salt"]
    assert entries[0]["ids"] == [hash_id(name, salt) for name in ids_of(first, "forget")]


def test_the_log_says_where_a_chain_is_broken(story):
    _, _, _, second = story
    (entry,) = json.loads(log(second, "--json"))["requests"]
    assert entry["number"] == 2
    assert any("chain is broken" in note for note in entry["notes"])


def test_the_log_says_what_an_audit_found(copy):
    _, _, first, second = copy
    write_example_audit(first)
    write_example_audit(second, finished=False)
    told = [entry["audit"] for entry in json.loads(log(first, second, "--json"))["requests"]]
    assert told[0] == "SFR-on: a trace is left, still known; finetune: no trace was found"
    assert "not finished" in told[1] and f"untrain audit {second} --resume" in told[1]
    shutil.rmtree(first / "audit")
    assert f"   audit    none was made: untrain audit {first}\n" in log(first)
    assert next(csv.DictReader(io.StringIO(log(first, second, "--csv"))))["audit"].startswith("none was made")


def test_what_the_log_refuses(copy):
    root, photos, first, second = copy
    shutil.copytree(second, root / "again")
    code, _, err = untrain("log", first, second, root / "again")
    assert code == 1 and "the chain forks" in err and str(second) in err and str(root / "again") in err
    for words, culprit in (([photos], "photos"), ([root / "none"], "none"), ([first, "--jsn"], "--jsn"), ([], "")):
        code, out, err = untrain("log", *words)
        assert (code, bool(words)) == (1, True) or "usage" in out
        assert culprit in err
    text = (second / "split.json").read_text()
    (second / "split.json").write_text(text.replace("bob-0", "bob-1", 1))
    code, _, err = untrain("log", first, second)
    assert code == 1 and "split.json" in err
    (second / "split.json").unlink()
    assert "split.json is gone" in log(first, second)
