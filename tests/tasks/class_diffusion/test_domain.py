"""Recipes of class-conditional generators, whole: what a run writes, goes on from, and refuses."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline, UNet2DModel
from PIL import Image

from helpers.command_line import assert_close, files, table, untrain, weights
from helpers.original_dit import OriginalDiT
from helpers.page_figures import drawn, figures_by
from helpers.processes import Writes, kill_when, run_in_processes
from helpers.recipes_in_processes import run_in_float64
from helpers.small_generators import denoiser, problem
from helpers.tiny_recipes import RECIPE, pixels, save_dit, save_unet
from untrain.data.classes import class_number
from untrain.data.samples import Arrays, Relabelled, Source
from untrain.diffusion.pipelines import check_libraries
from untrain.diffusion.search import SampleObjective
from untrain.engine import seed_of
from untrain.errors import SettingError, UnknownName
from untrain.methods.base import Optimizer, State
from untrain.methods.loop import Checkpoints, run
from untrain.methods.retrain import Retrain
from untrain.methods.steps import average
from untrain.models.checkpoints import load_state, save
from untrain.models.classifiers import build
from untrain.runs.models import open_model
from untrain.runs.recipe import read
from untrain.runs.stages import open_experiment, prepare_original, train_helpers
from untrain.tasks.class_diffusion.classes import renumber

MEASURES = {
    *("FA", "forget_probability", "forget_entropy", "RA", "RA_worst", "FD", "sFD", "CS", "precision", "recall"),
    *("missing", "samples", "by_class", "seconds", "clocks"),
}
WHOLE = {
    *("task", "models", "noise_floor", "forgotten", "judge", "features", "sampler", "real"),
    *("settings", "classes", "sizes", "mark", "sha256"),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory):
    """The folder of a whole run."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    with figures_by(drawn):
        code, _, err = untrain("run", recipe, "--out", folder)
    assert code == 0, err
    return folder


OWN = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, channels, rows):
        super().__init__()
        self.table = nn.Embedding(classes + rows, 8)
        self.first, self.last = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, channels, 3, padding=1)

    def forward(self, x, t, class_labels):
        return self.last(torch.tanh(self.first(x) + self.table(class_labels)[:, :, None, None]))


def make(num_classes, in_channels, rows=1):
    return Net(num_classes, in_channels, rows)
"""


def test_a_generator_of_ones_own(tmp_path, monkeypatch):
    """Named on the command line, or by a recipe that is trusted; only its weights are kept."""
    (tmp_path / "own_generators.py").write_text(OWN)
    named = re.sub(r"model: \{name: .*", "model: {options: {}}", RECIPE)
    (tmp_path / "flag.yaml").write_text(named)
    (tmp_path / "file.yaml").write_text(named.replace("model: {", "model: {name: 'own_generators:make', "))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, err = untrain("run", "file.yaml", "--out", "run")
    assert code == 1
    assert "--allow-code" in err
    assert not (tmp_path / "run").exists()
    code, _, err = untrain(
        "run", "flag.yaml", "--model.name", "own_generators:make", "--out", "run", "--references", "0"
    )
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "run").glob("*.safetensors") if "mask" not in path.name) == [
        *("judge.safetensors", "original.safetensors", "sfron.safetensors")
    ]
    assert not (tmp_path / "run/sfron").exists()
    code, _, err = untrain("sample", "run", "--allow-code", "--count", "1")
    assert code == 0, err
    code, _, err = untrain("run", "file.yaml", "--allow-code", "--model.options.rows", "0", "--out", "other")
    assert code == 1
    assert "no class that stands for" in err
    assert not (tmp_path / "other").exists()


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


# A whole run.


def test_a_run_measures_every_model(done):
    content = json.loads((done / "evaluation.json").read_text())
    assert content.keys() == WHOLE
    assert (content["task"], content["forgotten"], content["features"]) == ("class-diffusion", ["3"], "small-cnn")
    assert content["classes"] == [str(c) for c in range(10)]
    assert content["sizes"] == {"forget": 12, "retain": 108, "holdout": 0, "test": 30}
    assert content["judge"].keys() == {"name", "test_accuracy", "hash"}
    assert list(content["models"]) == ["original", "retrained", "sfron"]
    for entry in content["models"].values():
        assert entry.keys() == MEASURES
        assert entry["samples"] == {"forgotten": 10, "retained": 90}
        assert 0 <= entry["FA"] <= 100 and entry["FA"] == entry["by_class"]["recognised"]["3"]
        assert entry["seconds"] > 0
        assert all((entry[name] is None) == (name in entry["missing"]) for name in ("FD", "sFD", "CS", "precision"))
    assert (done / "report.html").stat().st_size > 10_000


def test_grids_and_snapshots(done):
    for name in ("original", "retrained", "sfron"):
        assert json.loads((done / f"grids/{name}.json").read_text()) == {
            "classes": [str(c) for c in range(10)],
            "columns": 2,
        }
        assert picture(done / f"grids/{name}.png").shape == (338, 66)  # images of 32 pixels, 2 between them
    assert files(done / "snapshots") == [f"sfron-00000{k}.{kind}" for k in (2, 4) for kind in ("json", "png")]
    last, end = (picture(done / path) for path in ("snapshots/sfron-000004.png", "grids/sfron.png"))
    apart = np.abs(last.astype(int) - end.astype(int))
    assert apart.max() <= 1 and apart.mean() < 0.01, "the same noise, the same weights"


def test_diffusers_loads_what_was_unlearned(done):
    model = UNet2DModel.from_pretrained(done / "sfron")
    kept, facts = load_state(done / "sfron.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    before = load_state(done / "original.safetensors")[0]
    assert any(not torch.equal(before[name], kept[name]) for name in kept)
    assert facts["mask"]["density"] > 0


def test_what_is_there_is_not_made_again(done):
    names = [path for path in done.rglob("*") if path.suffix in (".safetensors",)]
    before = {path: path.stat().st_mtime_ns for path in names}
    content = table(done)
    assert untrain("run", done, "--resume")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in names} == before
    assert table(done) == content


def test_the_class_that_is_forgotten_is_in_no_retrained_model(recipe, tmp_path):
    experiment = open_experiment(read(recipe, ["--out", str(tmp_path / "run")]))
    assert 3 not in experiment.domain.source.labels[experiment.division.split.retain]
    assert len(experiment.division.holdout) == 0


def test_a_run_folder_is_opened_and_sampled(done, tmp_path):
    domain, model = open_model(done, "sfron")
    task, known = domain.task, (domain.shape, domain.source.classes, domain.decode)
    assert known == ((1, 8, 8), tuple(str(c) for c in range(10)), None)
    assert (task.num_classes, task.null_class, task.timesteps, task.learned_variance) == (10, 10, 20, False)
    kept = load_state(done / "sfron.safetensors")[0]
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    words = ("--classes", "3,1", "--count", "2", "--device", "cpu")  # steps and guidance are the run's own
    assert untrain("sample", done, *words, "--out", tmp_path / "a.png")[0] == 0
    ours, grid = (picture(path) for path in (tmp_path / "a.png", done / "grids/sfron.png"))
    rows = np.concatenate([grid[34 * c : 34 * c + 32] for c in (3, 1)])
    assert np.abs(np.delete(ours, [32, 33], axis=0) - rows).max() <= 1  # one level, as batches differ
    code, _, err = untrain("sample", done, "--model", "judge", "--device", "cpu")
    assert code == 1 and "'judge'" in err


# Killed, and in two processes.


def test_three_kills_change_nothing(recipe, tmp_path):
    more = ["--train.steps", "20", "--methods.sfron.steps", "12", "--references", "0", "--checkpoint_every", "0"]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    code, _, err = untrain("run", recipe, "--out", whole, *more)
    assert code == 0, err
    words = ["run", recipe, "--out", folder, "--resume", *more]
    for name, times in (("original.resume.pt", 8), ("sfron.resume.pt", 5), ("judge.safetensors", 1)):
        there = Writes(folder / name, times)
        assert kill_when(there, tmp_path / "log", words) == -9, f"{name}: over before it was killed"
    code, _, err = untrain("run", recipe, "--out", folder, "--resume", *more)
    assert code == 0, err
    expected, found = weights(whole), weights(folder)
    assert found.keys() == expected.keys()
    assert {name for name, _ in found} == {f"{n}.safetensors" for n in ("original", "sfron", "sfron.mask", "judge")}
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert table(folder) == table(whole)
    for path in [*whole.glob("grids/*"), *whole.glob("snapshots/*")]:
        assert (folder / path.relative_to(whole)).read_bytes() == path.read_bytes(), path.name
    assert not [name for name in files(folder) if "resume" in name or name.endswith(".tmp")]


def test_two_processes_give_what_one_gives(recipe, tmp_path):
    """Tolerance 1e-6 of the largest weight: float64, sums in another order, which Adam divides by themselves."""
    more = ["--batch_size", "15", "--references", "0", "--train.steps", "4", "--evaluate_every", "0"]
    judge = build("small-cnn", num_classes=10, in_channels=1, image_size=8, width=4)  # batch statistics are a share's
    save(judge.state_dict(), tmp_path / "judge.safetensors", {})
    more += ["--judge.checkpoint", str(tmp_path / "judge.safetensors")]
    for count in (1, 2):
        run_in_processes(count, tmp_path, run_in_float64, recipe, tmp_path / str(count), *more)
    assert_close(*(weights(tmp_path / str(count)) for count in (1, 2)), 1e-6)
    a, b = (table(tmp_path / str(count))["models"] for count in (1, 2))
    for name in a:
        assert a[name]["FA"] == pytest.approx(b[name]["FA"], abs=1e-4)
        assert a[name]["FD"] == pytest.approx(b[name]["FD"], rel=0.02)  # of bytes, which a rounding can move


# Checkpoints of all kinds.

FROM = ("--model.name", "null", "--model.options", "{}", "--methods.sfron.steps", "2", "--generation.samples", "2")


def unlearned(recipe, out, *words):
    code, _, err = untrain("unlearn", recipe, "--out", out, *FROM, "--data.limit", "null", *words)
    assert code == 0, err
    return load_state(out / "sfron.safetensors")


@pytest.mark.parametrize("wanted", ["[2]", "[b2]"])
def test_a_unet_that_diffusers_saved(recipe, tmp_path, wanted):
    model = save_unet(tmp_path / "unet", channels=3, size=8)
    data = pixels(tmp_path / "a.npz", ["b0", "b1", "b2", "b3"], size=8)
    words = ("--data.name", "arrays", "--data.path", data, "--data.test_limit", "null")
    state, _ = unlearned(
        recipe, tmp_path / "run", *words, "--model.checkpoint", tmp_path / "unet", "--forget.classes", wanted
    )
    start = model.state_dict()
    assert state.keys() == start.keys()
    assert any(not torch.equal(state[name], start[name]) for name in state)
    found = UNet2DModel.from_pretrained(tmp_path / "run/sfron").state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)
    split = json.loads((tmp_path / "run/split.json").read_text())
    assert split["spec"]["classes"] == ["b2"]


@pytest.mark.parametrize(
    ("named", "classes", "wanted", "number"),
    [
        (True, ["Tinca tinca", "crane, machine", "goldfish"], "[machine]", 3),
        (True, ["Tinca tinca", "crane, machine", "goldfish"], "[3]", 3),
        (True, ["0", "3"], "[tench]", 0),
        (True, ["tench, Tinca tinca", "goldfish", "crane", "crane, machine"], '["tench, Tinca tinca"]', 0),
        (False, ["1", "3"], "[3]", 3),
        (False, ["a", "b", "c", "d"], "[d]", 3),
    ],
)
def test_a_dit_pipeline_with_its_vae(recipe, tmp_path, named, classes, wanted, number):
    pipeline = save_dit(tmp_path / "dit", named)
    data = pixels(tmp_path / "a.npz", classes)
    words = ("--data.name", "arrays", "--data.path", data, "--data.test_limit", "null", "--augment.flip", "true")
    words += ("--model.checkpoint", pipeline, "--forget.classes", wanted)
    state, _ = unlearned(recipe, tmp_path / "run", *words)
    before, after = (DiTPipeline.from_pretrained(tmp_path / place) for place in ("dit", "run/sfron"))
    found = after.transformer.state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)
    start = before.transformer.state_dict()
    assert any(not torch.equal(found[name], start[name]) for name in found)
    kept = before.vae.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in after.vae.state_dict().items())
    assert after.labels == before.labels
    domain, _ = open_model(tmp_path / "run", "sfron")
    assert domain.source.labels[domain.divide().split.forget].unique().tolist() == [number]
    task = domain.task
    assert (domain.shape, task.num_classes, task.timesteps, task.learned_variance) == ((4, 8, 8), 4, 20, True)
    assert domain.decode(torch.zeros(2, 4, 8, 8)).shape == (2, 3, 16, 16)


@pytest.mark.filterwarnings("default")
def test_the_weights_of_the_original_dit(recipe, tmp_path):
    torch.manual_seed(0)
    theirs = OriginalDiT(depth=2, width=16, heads=2, size=8, classes=4, channels=3)
    torch.save({"ema": theirs.state_dict()}, tmp_path / "DiT.pt")
    data = pixels(tmp_path / "a.npz", ["a", "b", "c", "d"], size=8)
    words = ["--out", tmp_path / "run", "--data.name", "arrays", "--data.path", data, "--data.limit", "null"]
    words += ["--data.test_limit", "null", "--forget.classes", "[a]", "--methods.sfron.steps", "2"]
    words += ["--model.name", "dit-s-2", "--model.checkpoint", tmp_path / "DiT.pt"]
    words += ["--model.options", "{num_layers: 2, num_attention_heads: 2, attention_head_dim: 8}"]
    ours = prepare_original(open_experiment(read(recipe, [str(word) for word in words])))
    code, _, err = untrain("unlearn", recipe, *words, "--resume")
    assert code == 0, err
    assert "slightly other sinusoids than the original DiT" in err
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    t, y = torch.tensor([0, 1, 500, 999]), torch.tensor([0, 3, 4, 2])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t, class_labels=y).sample, theirs(x, t, y), rtol=1e-4, atol=1e-5)
    state = load_state(tmp_path / "run/sfron.safetensors")[0]
    assert any(not torch.equal(state[name], value) for name, value in ours.state_dict().items())


# Numbers and names of classes.


def labelled(classes):
    images = torch.arange(2 * len(classes) * 4, dtype=torch.float32).view(-1, 1, 2, 2)
    return Arrays(images, torch.arange(2 * len(classes)) % len(classes), classes, [f"r{i}" for i in range(len(images))])


def test_relabelled_data_differ_in_numbers_and_names_alone():
    source = labelled(["x", "y", "z"])
    renamed = Relabelled(source, [4, 0, 2], ["a", "b", "c", "d", "e"])
    assert isinstance(renamed, Source)
    assert renamed.labels.tolist() == [4, 0, 2, 4, 0, 2] and renamed.classes == ("a", "b", "c", "d", "e")
    assert (renamed.ids, renamed.shape, len(renamed)) == (source.ids, source.shape, 6)
    positions = torch.tensor([5, 0, 1])
    mine, theirs = renamed.batch(positions), source.batch(positions)
    assert mine["label"].tolist() == [2, 4, 0]
    assert torch.equal(mine["input"], theirs["input"]) and torch.equal(mine["index"], theirs["index"])
    assert {key: value.tolist() for key, value in renamed[1].items()} == {
        **{key: value.tolist() for key, value in source[1].items()},
        "label": 0,
    }
    few = renamed.select(positions)
    assert few.labels.tolist() == [2, 4, 0] and few.classes == renamed.classes and few.ids == ("r5", "r0", "r1")
    assert renamed.to("cpu") is renamed
    others = [source, Relabelled(source, [4, 0, 1], renamed.classes), Relabelled(source, [4, 0, 2], ["a"] * 5)]
    prints = [renamed.fingerprint(), *(other.fingerprint() for other in others)]
    assert len({*prints}) == 4 and renamed.fingerprint() == prints[0]


def test_a_class_is_found_by_name_synonym_or_number():
    names = ("tench, Tinca tinca", "goldfish", "crane", "crane", "7")
    assert [class_number(names, word) for word in ("Tinca tinca", "goldfish", "0", "3", "7")] == [0, 1, 0, 3, 4]
    for word in ("crane", "5"):  # two are called so; none is, and there are but five
        with pytest.raises(UnknownName, match=f"'{word}'"):
            class_number(names, word)
    source = labelled(["tench", "Tinca", "crane", "crane", "7"])
    with pytest.raises(UnknownName, match="'Tinca'.*'Tinca tinca'"):
        renumber(source, names)
    whole = labelled(["Tinca tinca", "goldfish", "crane", "crane", "7"])
    assert renumber(whole, names).labels.tolist() == whole.labels.tolist()
    assert renumber(whole, None) is whole


# Averages of the weights.


def test_the_average_in_closed_form():
    """θ̄ = Σ d^(k−i) θ_i / Σ d^(k−i), in float64: rounding alone differs."""
    module = torch.nn.Linear(3, 2).double()
    work, engine = problem(denoiser())
    state = State(work, engine, module)
    state.averaged = torch.nn.Linear(3, 2).double()
    seen = []
    for k in range(7):
        torch.nn.init.normal_(module.weight)
        seen.append(module.weight.detach().clone())
        average(state, 0.8, k)
        if k == 0:
            assert torch.equal(state.averaged.weight, module.weight), "what was there before has no part in it"
        weight = 0.8 ** torch.arange(k, -1, -1, dtype=torch.float64)
        expected = (weight[:, None, None] * torch.stack(seen)).sum(0) / weight.sum()
        torch.testing.assert_close(state.averaged.weight.detach(), expected, rtol=1e-12, atol=1e-13)


def averaging(steps=6):
    return Retrain(steps=steps, optimizer=Optimizer("adam", 1e-2), ema=0.7)


def test_a_run_gives_the_average():
    work, engine = problem(denoiser())
    method = averaging()
    state = method.start(work, engine)
    seen = []
    for k in range(6):
        method.step(state, k)
        seen.append({name: value.clone() for name, value in state.module.state_dict().items()})
    weight = 0.7 ** torch.arange(5, -1, -1, dtype=torch.float64)
    end = run(averaging(), problem(denoiser())[0], engine).state.module.state_dict()
    for name, value in end.items():
        stacked = torch.stack([each[name] for each in seen])
        expected = (weight.view(-1, *[1] * value.ndim) * stacked).sum(0) / weight.sum()
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-10)
    assert any(not torch.equal(end[name], seen[-1][name]) for name in end)


def test_an_average_is_resumed(tmp_path):
    class Killed(Exception):
        pass

    def kill(module, step):
        if step == 4:
            raise Killed
        return {}

    engine = problem(denoiser())[1]
    whole = run(averaging(), problem(denoiser())[0], engine).state.module.state_dict()
    saver = Checkpoints(tmp_path / "resume.pt", "mark", resume=True, every=0.0)
    with pytest.raises(Killed):
        run(averaging(), problem(denoiser())[0], engine, checkpoints=saver, evaluate=kill, evaluate_every=1)
    end = run(averaging(), problem(denoiser())[0], engine, checkpoints=saver)
    assert [record["step"] for record in end.history] == list(range(6))
    assert all(torch.equal(value, whole[name]) for name, value in end.state.module.state_dict().items())


# What a search judges by.


def test_the_score_of_a_search_in_closed_form():
    objective, before = SampleObjective(None, None, {}), {"FA": 95.0, "RA": 90.0, "FD": 2.0}
    assert objective.score(before, before) == pytest.approx(95 / 3)
    assert objective.score({"FA": 10.0, "RA": 84.0, "FD": 3.0}, before) == pytest.approx((10 + 6 + 50) / 3)
    assert objective.score({"FA": 0.0, "RA": 99.0, "FD": 1.0}, before) == 0  # better than before is no merit


@pytest.mark.parametrize("features", ["judge", "inception"])
def test_a_search_sees_enough_samples_of_other_noise(recipe, tmp_path, features):
    """Of one retained class: more images than the judge has features (64), where 40 would be too few."""
    data = pixels(tmp_path / "a.npz", ["a", "b"], each=80, size=8)
    words = ["--data.name", "arrays", "--data.path", data, "--data.limit", "null", "--data.test_limit", "null"]
    words += ["--forget.classes", "[a]", "--judge.options", "{width: 32}", "--generation.features", features]
    experiment = open_experiment(read(recipe, [str(word) for word in (*words, "--out", tmp_path / "run")]))
    domain, model = experiment.domain, prepare_original(experiment)
    (objective,) = domain.objectives(experiment.division, 0.0, train_helpers(experiment))
    seen = objective.observe(model)
    assert seen["samples"] == {"forgotten": 65, "retained": 65}
    assert seen["FD"] > 0 and "FID" not in seen
    assert objective.observe(model) == seen
    assert objective.score(seen, seen) == pytest.approx(seen["FA"] / 3)
    assert not (tmp_path / "run/grids").exists(), "nothing of it is kept"
    ours, other = (
        domain.maker(seed).collect(model, [0, 1], 2)[0] for seed in (None, seed_of(domain.context.seed, "other noise"))
    )
    assert not torch.equal(ours, other)


# What is refused, and how.


def refused(recipe, tmp_path, *words):
    """What the command says; nothing is left of it."""
    out = tmp_path / "refused"
    code, _, err = untrain("run", recipe, "--out", out, *words)
    assert code == 1, err
    assert not out.exists()
    return err


@pytest.mark.parametrize(
    ("words", "culprits"),
    [
        (("--data.image_size", "9"), ("unet-small", "9")),
        (("--judge.checkpoint", "nowhere.pt"), ("judge.checkpoint", "nowhere.pt")),
        (("--forget.classes", "[]", "--forget.fraction", "0.1"), ("forget.classes",)),
        (("--forget.classes", str(list(range(10)))), ("forget set",)),
        (("--diffusion.drop", "0"), ("generation.sampler.guidance_scale", "diffusion.drop")),
        (("--forget.classes", "[11]"), ("'11'", "0 0, 1 1")),
        (("--generation.sampler.steps", "21"), ("20 steps", "21")),
        (("--augment.pad", "2"), ("augment.pad",)),
        (("--model.vae", "nowhere"), ("nowhere",)),
        (("--model.checkpoint", "nowhere.pt"), ("nowhere.pt",)),
    ],
)
def test_what_cannot_be_asked_of_a_generator(recipe, tmp_path, words, culprits):
    err = refused(recipe, tmp_path, *words)
    assert all(culprit in err for culprit in culprits), err


def test_models_that_do_not_fit(recipe, tmp_path):
    data = pixels(tmp_path / "a.npz", ["a", "b", "c"], size=8)
    arrays = ("--data.name", "arrays", "--data.path", data, "--data.limit", "null", "--data.test_limit", "null", *FROM)
    arrays += ("--forget.classes", "[a]")
    save_unet(tmp_path / "five", classes=5, channels=3)
    err = refused(recipe, tmp_path, *arrays, "--model.checkpoint", tmp_path / "five")
    assert "6 classes" in err and "3" in err

    save_unet(tmp_path / "two", classes=2, channels=3)  # three rows, and none stands for "no class"
    err = refused(recipe, tmp_path, *arrays, "--model.checkpoint", tmp_path / "two")
    assert "generation.sampler.guidance_scale" in err

    UNet2DModel(sample_size=8, **_unconditional()).save_pretrained(tmp_path / "free")
    err = refused(recipe, tmp_path, *arrays, "--model.checkpoint", tmp_path / "free")
    assert str(tmp_path / "free") in err and "num_class_embeds" in err

    (tmp_path / "empty").mkdir()
    err = refused(recipe, tmp_path, *arrays, "--model.checkpoint", tmp_path / "empty")
    assert str(tmp_path / "empty") in err

    save_dit(tmp_path / "dit", named=False)
    odd = pixels(tmp_path / "odd.npz", ["a", "b", "c", "d"], size=15)
    err = refused(recipe, tmp_path, *arrays, "--data.path", odd, "--model.checkpoint", tmp_path / "dit")
    assert "15×15" in err and "2" in err and "image_size" in err

    save_dit(tmp_path / "named")
    err = refused(recipe, tmp_path, *arrays, "--model.checkpoint", tmp_path / "named")
    assert "'a'" in err


def _unconditional():
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return {"block_out_channels": (8, 16), "norm_num_groups": 4, **blocks}


def test_too_few_samples_say_so(recipe, tmp_path):
    words = ("--references", "0", "--generation.samples", "1", "--judge.options", "{width: 16}")
    code, _, err = untrain("run", recipe, "--out", tmp_path / "run", *words)
    assert code == 0, err
    entry = json.loads((tmp_path / "run/evaluation.json").read_text())["models"]["sfron"]
    assert entry["FD"] is None and "generation.samples" in entry["missing"]["FD"]
    assert entry["FA"] is not None
    assert "generation.samples" in (tmp_path / "run/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["diffusers", "torchmetrics"])
def test_a_missing_library_is_named_before_anything_is_done(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingError, match=rf"{name}.*untrain\[diffusion\]"):
        check_libraries()
