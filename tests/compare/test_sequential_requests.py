"""Requests one after another: what an earlier one forgot stays forgotten, and is measured with the rest."""

import itertools
import json

import pytest
import torch

from helpers.command_line import files, untrain
from helpers.sets import check_apart
from untrain.data.sources import load
from untrain.data.splits import Split, further_split, make_split
from untrain.errors import DataError, EmptySet, Overlap
from untrain.runs import stages
from untrain.runs.recipe import read

RECIPE = """\
name: first
data: {name: digits, limit: 600}
forget: {fraction: 0.1, holdout: 0.1}
model: {name: small-cnn, options: {width: 4}}
train: {epochs: 3}
methods:
  finetune: {epochs: 1}
  sfron: {epochs: 1, retain_steps: 2, fisher_samples: 100}
batch_size: 64
device: cpu
"""


@pytest.fixture(scope="module")
def requests(tmp_path_factory):
    """Three requests: a random tenth, listed records, a class. For looking only."""
    root = tmp_path_factory.mktemp("requests")
    (root / "recipe.yaml").write_text(RECIPE)
    first, second, third = (root / name for name in ("first", "second", "third"))
    assert untrain("run", root / "recipe.yaml", "--out", first)[0] == 0
    before = json.loads((first / "split.json").read_text())
    (root / "listed.txt").write_text("\n".join(map(str, before["retain"][5:25])))
    asked = {
        second: ["--forget.fraction", "null", "--forget.indices", root / "listed.txt"],
        third: ["--forget.fraction", "null", "--forget.classes", "['7']"],
    }
    for after, (folder, flags) in zip((first, second), asked.items(), strict=True):
        words = [root / "recipe.yaml", "--out", folder, *flags]
        words += ["--model.checkpoint", after / "sfron.safetensors", "--forget.after", after]
        for command in ("train", "unlearn", "evaluate"):
            code, _, err = untrain(command, *words)
            assert code == 0, err
    return first, second, third


def split_of(folder):
    return json.loads((folder / "split.json").read_text())


def test_nothing_forgotten_comes_back(requests):
    splits = [split_of(folder) for folder in requests]
    forgotten = set()
    for split in splits:
        assert set(split.get("earlier", [])) == forgotten
        forgotten |= set(split["forget"])
        assert not forgotten & set(split["retain"])
    assert len(forgotten) == sum(len(split["forget"]) for split in splits), "no record is forgotten twice"
    for before, after in itertools.pairwise(splits):
        assert set(after["retain"]) | set(after["forget"]) == set(before["retain"])
    assert splits[1]["holdout"] == splits[0]["holdout"], "what is held out stays so"
    assert set(splits[2]["holdout"]) < set(splits[0]["holdout"]), "but for the class that is forgotten"


def test_all_that_was_asked_so_far_is_measured(requests):
    for folder in requests:
        split = split_of(folder)
        content = json.loads((folder / "evaluation.json").read_text())
        asked = sorted([*split["forget"], *split.get("earlier", [])])
        assert content["sizes"]["forget"] == len(asked)
        assert content["sizes"].get("earlier", 0) == len(split.get("earlier", []))
        before = {"original-first"} if folder != requests[0] else set()
        assert set(content["models"]) == {"original", "retrained", "finetune", "sfron"} | before
        run = stages.open_experiment(read(folder), resume=True)
        module = stages.unlearn_methods(run, stages.prepare_original(run), ["sfron"])["sfron"]
        task = run.domain.task
        batch = task.draw(run.domain.source.batch(torch.tensor(asked)), None, "evaluate")
        with torch.no_grad():
            right = task.outputs(module, batch).argmax(1) == batch["label"]
        assert content["models"]["sfron"]["FA"] == pytest.approx(100 * right.double().mean().item())
        assert sum(content["models"]["retrained"]["losses"]["forget"]) == len(asked)
        sets = {name: run.domain.stream(run.division, name) for name in ("asked", "forget", "retain", "holdout")}
        assert len(sets["retain"]) == len(split["retain"])
        for a, b in (("asked", "retain"), ("asked", "holdout"), ("holdout", "retain"), ("forget", "retain")):
            check_apart(sets[a].data, sets[b].data)


def test_each_request_starts_from_what_the_last_one_left(requests):
    for before, after in itertools.pairwise(requests):
        facts = [json.loads((folder / "manifest.json").read_text())["models"] for folder in (before, after)]
        assert facts[1]["original"]["hash"] == facts[0]["sfron"]["hash"]
        assert facts[1]["sfron"]["settings"]["optimizer"]["lr"] == 0.1, "the rate of the first training is still known"


def test_a_model_to_go_on_with_must_be_given(requests, tmp_path):
    words = ["unlearn", requests[0].parent / "recipe.yaml", "--out", tmp_path / "run", "--forget.after", requests[0]]
    code, _, err = untrain(*words)
    assert code == 1
    assert "forget.after: give the model to go on with, such as model.checkpoint" in err
    code, _, err = untrain(*words[:-1], tmp_path / "no", "--model.checkpoint", requests[0] / "sfron.safetensors")
    assert code == 1
    assert "forget.after must be the run folder of the request before" in err
    code, _, err = untrain(*words, "--model.checkpoint", requests[0] / "sfron.safetensors", "--data.limit", "500")
    assert code == 1
    assert "was made of other data" in err
    assert files(tmp_path / "run") == []


SOURCE = load("digits", part="train", limit=300)


def test_a_record_is_not_forgotten_twice():
    before = make_split(SOURCE, fraction=0.1, holdout=0.1)
    asked = [*before.retain[:3].tolist(), int(before.forget[4])]
    with pytest.raises(Overlap, match=rf"1 records to forget were asked for before \(first: index {asked[-1]}\)"):
        further_split(SOURCE, before, indices=asked)
    with pytest.raises(DataError, match="2 records to forget were held out by the request before"):
        further_split(SOURCE, before, indices=before.holdout[:2])
    names = [SOURCE.ids[i] for i in before.forget[:2].tolist()]
    with pytest.raises(Overlap, match="2 records to forget were asked for before"):
        further_split(SOURCE, before, ids=names)
    third = further_split(SOURCE, further_split(SOURCE, before, indices=asked[:3]), count=5)
    with pytest.raises(Overlap, match="1 records"):
        further_split(SOURCE, third, indices=asked[:1])


def test_a_class_is_not_forgotten_twice_but_its_rest_can_be():
    before = make_split(SOURCE, classes=["3"], holdout=0.1)
    with pytest.raises(Overlap, match=r"the classes \['3'\] were asked for before: nothing of them is left"):
        further_split(SOURCE, before, classes=["3"])
    some = make_split(SOURCE, indices=(SOURCE.labels == 3).nonzero()[:4, 0])
    rest = further_split(SOURCE, some, classes=["3"])
    assert torch.equal(rest.asked, (SOURCE.labels == 3).nonzero()[:, 0])
    with pytest.raises(EmptySet):
        further_split(SOURCE, before, count=0)


def test_a_share_is_one_of_what_is_retained_and_has_its_own_seed():
    before = make_split(SOURCE, fraction=0.1, holdout=0.1)
    splits = [further_split(SOURCE, before, fraction=0.5, seed=seed) for seed in (0, 0, 1)]
    assert len(splits[0].forget) == round(0.5 * len(before.retain))
    assert splits[0].hash == splits[1].hash != splits[2].hash
    assert torch.equal(splits[0].earlier, before.forget)
    assert torch.equal(splits[0].holdout, before.holdout)


def test_earlier_requests_are_part_of_the_file_and_of_the_hash(tmp_path):
    before = make_split(SOURCE, fraction=0.1, holdout=0.1)
    split = further_split(SOURCE, before, count=7)
    split.save(tmp_path / "split.json")
    again = Split.load(tmp_path / "split.json", SOURCE)
    assert torch.equal(again.earlier, split.earlier)
    assert again.hash == split.hash
    alone = Split(split.forget, split.retain, split.holdout, split.kind, {}, split.data_hash)
    assert alone.hash != split.hash
