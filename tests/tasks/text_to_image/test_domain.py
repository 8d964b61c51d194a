"""Recipes of text-to-image pipelines, whole: what a run writes, goes on from, and makes only once."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import save_file

from helpers.command_line import assert_close, files, table, untrain, weights
from helpers.concept_images import count_concept_images, refuse_concept_images
from helpers.page_figures import drawn, figures_by
from helpers.processes import Writes, kill_when, run_in_processes
from helpers.recipes_in_processes import run_in_float64
from helpers.shapes import ATTRIBUTES, CAPTIONS, captions_with
from helpers.single_files import as_one
from helpers.small_pipelines import stable_diffusion_xl
from helpers.text_recipes import save_captioned_recipe, save_text_recipe, without_judge
from untrain.diffusion.images import to_uint8
from untrain.diffusion.latents import decode
from untrain.diffusion.pipelines import load_pipeline
from untrain.diffusion.text import encode_prompts
from untrain.models.checkpoints import load_state, state_hash
from untrain.runs.models import open_model
from untrain.sampling import Sampler
from untrain.tasks.text_to_image import concepts, nudity
from untrain.tasks.text_to_image.concepts import CACHE
from untrain.tasks.text_to_image.nudity import EXPOSED

MEASURES = {
    *("FA", "FA5", "RA", "RA_worst", "NR", "CLIP", "FD", "missing", "samples", "by_class"),
    *("steps", "seconds", "clocks"),
}
WHOLE = {
    *("task", "classes", "forgotten", "sizes", "detector", "features", "clip", "sampler", "prompts", "trained"),
    *("models", "noise_floor", "settings", "mark", "sha256"),
}
TEXTS = ["a red circle", "a red square", "a blue cross"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def done(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run; for looking only."""
    with figures_by(drawn):
        return ran(recipe, tmp_path_factory.mktemp("run") / "tiny", "--evaluate_every", "1")


def ran(recipe: Path, out: Path, *words: object, command: str = "run") -> Path:
    code, _, err = untrain(command, recipe, "--out", out, *words)
    assert code == 0, err
    return out


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(int)


def tiles(path: Path, size: int = 32, gap: int = 2) -> list[list[np.ndarray]]:
    """The images of a grid, row by row."""
    whole = pixels(path)
    starts = [range(0, length, size + gap) for length in whole.shape[:2]]
    return [[whole[top : top + size, left : left + size] for left in starts[1]] for top in starts[0]]


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes or encodes images of concepts fails."""

    refuse_concept_images(monkeypatch)


# A whole run.


def test_a_run_measures_every_model(done: Path) -> None:
    content = read(done / "evaluation.json")
    assert content.keys() == WHOLE
    assert content["task"] == "text-to-image" and content["classes"] == TEXTS
    assert content["forgotten"] == ["a red circle", "circle"]
    assert content["sizes"] == {"forget": 3, "retain": 6, "holdout": 0, "test": 0}
    assert content["prompts"] == {"forget": 1, "retain": 2, "images": 2}
    detector = content["detector"]
    assert detector.keys() == {"name", "kind", "threshold", "test_accuracy", "hash"}
    assert (detector["name"], detector["kind"], detector["threshold"]) == ("small-cnn", "classifier", None)
    assert content["sampler"] == asdict(Sampler(2, guidance_scale=2.0))
    assert (content["features"], content["clip"], content["noise_floor"]) == ("small-cnn", None, None)
    unet = load_pipeline(content["settings"]["model"]["checkpoint"]).unet
    sizes = {name: p.numel() for name, p in unet.named_parameters()}
    cross = sum(size for name, size in sizes.items() if ".attn2." in name)
    assert content["trained"] == {"parts": "xattn", "parameters": cross, "of": sum(sizes.values())}
    assert list(content["models"]) == ["original", "sfron"]
    for name, entry in content["models"].items():
        assert entry.keys() == MEASURES
        assert (entry["FA"], entry["RA"], entry["RA_worst"]) == (100.0, 0.0, 0.0), "the judge says “circle” of all"
        assert entry["by_class"] == {"recognised": {"circle": 100.0, "square": 0.0, "cross": 0.0}}
        assert entry["samples"] == {"forgotten": 2, "retained": 4}
        assert all((entry[key] is None) == (key in entry["missing"]) for key in ("FA5", "NR", "CLIP", "FD"))
        assert entry["steps"] == (None if name == "original" else 4), "two of each kind"
        assert (entry["seconds"] is None) == (name == "original")
    missing = {name: entry["missing"]["FD"] for name, entry in content["models"].items()}
    assert missing["original"] == "it is the distance to the original's own images"
    assert "raise generation.samples" in missing["sfron"]
    assert (done / "report.html").stat().st_size > 10_000


def test_what_is_seen_is_kept_for_each_image(done: Path) -> None:
    for name in ("original", "sfron"):
        rows = read(done / f"detections/{name}.json")
        assert [(row["prompt"], row["number"]) for row in rows] == [(text, i) for text in TEXTS for i in range(2)]
        assert [row["set"] for row in rows] == ["forget"] * 2 + ["retain"] * 4
        assert [row["seen"] for row in rows] == [True] * 2 + [False] * 4
        assert [row["detections"][0]["label"] for row in rows] == ["circle"] * 6
        assert len({row["seed"] for row in rows}) == 6
    seeds = [[row["seed"] for row in read(done / f"detections/{name}.json")] for name in ("original", "sfron")]
    assert seeds[0] == seeds[1]


def test_a_grid_shows_the_images_of_these_seeds(recipe: Path, done: Path, tmp_path: Path) -> None:
    """Made again here, one at a time, from nothing but the folder of the pipeline and the seeds that are told."""
    shown = ran(recipe, tmp_path / "run", "--detection.blur", "false", command="run")
    for name, folder in (("original", recipe.parent / "pipe"), ("sfron", shown / "sfron")):
        pipeline = load_pipeline(folder)
        task = concepts.text_task(pipeline)
        rows = tiles(shown / f"grids/{name}.png")
        for row in read(shown / f"detections/{name}.json"):
            prompts = encode_prompts(pipeline, [row["prompt"]], 16)
            one = torch.tensor([1])
            batch = task.blank(prompts.rows(one, one), (4, 8, 8))
            noise = [torch.Generator().manual_seed(row["seed"])]
            latents = task.generate(pipeline.unet, batch, noise, Sampler(2, guidance_scale=2.0))
            with torch.no_grad():
                image = to_uint8(decode(pipeline.vae, latents))[0].permute(1, 2, 0).numpy().astype(int)
            tile = rows[TEXTS.index(row["prompt"])][row["number"]][::2, ::2]  # images of 16 pixels, enlarged
            assert np.abs(tile - image).max() <= 1, "one level, as batches differ"


def test_grids_are_blurred_where_the_detector_fires(recipe: Path, done: Path, tmp_path: Path) -> None:
    about = {"classes": TEXTS, "columns": 2, "blurred": True}
    assert all(read(done / f"grids/{name}.json") == about for name in ("original", "sfron"))
    plain = ran(recipe, tmp_path / "run", "--detection.blur", "false")
    assert read(plain / "grids/sfron.json") == about | {"blurred": False}
    rows = [tiles(folder / "grids/sfron.png") for folder in (done, plain)]
    alike = [[np.array_equal(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(*rows, strict=True)]
    assert alike == [[False] * 2, [True] * 2, [True] * 2], "of the forgotten prompt alone"
    blurred, sharp = (np.abs(np.diff(image[0][0], axis=1)).mean() for image in rows)
    assert blurred < sharp


def test_snapshots_hide_what_nobody_looked_at(done: Path) -> None:
    assert files(done / "snapshots") == [f"sfron-00000{k}.{kind}" for k in (1, 2) for kind in ("json", "png")]
    last, end = (tiles(done / path) for path in ("snapshots/sfron-000002.png", "grids/sfron.png"))
    assert all(np.array_equal(a, b) for rows in zip(last, end, strict=True) for a, b in zip(*rows, strict=True))


def test_diffusers_loads_what_was_unlearned(recipe: Path, done: Path) -> None:
    before, after = (StableDiffusionPipeline.from_pretrained(f) for f in (recipe.parent / "pipe", done / "sfron"))
    kept, facts = load_state(done / "sfron.safetensors")
    found, start = after.unet.state_dict(), before.unet.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in found.items())
    moved = {name for name, value in found.items() if not torch.equal(value, start[name])}
    assert moved and all(".attn2." in name for name in moved), "cross-attention alone"
    mask = load_state(done / "sfron.mask.safetensors")[0]
    assert mask.keys() == {name for name in found if ".attn2." in name}
    for part in ("vae", "text_encoder"):
        assert state_hash(getattr(after, part)) == state_hash(getattr(before, part))
    after.set_progress_bar_config(disable=True)
    assert after("a red circle", num_inference_steps=2, output_type="np").images.shape == (1, 16, 16, 3)
    card = (done / "sfron/README.md").read_text()
    manifest = read(done / "manifest.json")["models"]
    for said in ("a red circle", "a red square", "a blue cross", manifest["original"]["hash"], facts["hash"]):
        assert said in card, said


def test_nothing_of_what_is_forgotten_stays(done: Path) -> None:
    assert not (done / CACHE).exists() and not (done / "concepts").exists()
    pictures = [path.relative_to(done).parts[0] for path in done.rglob("*.png")]
    assert {*pictures} == {"grids", "snapshots"}
    assert not list(done.rglob("latents-*"))
    history = [json.loads(line) for line in (done / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == [0, 1]


def test_images_are_kept_where_that_is_asked(recipe: Path, done: Path, tmp_path: Path) -> None:
    kept = ran(recipe, tmp_path / "run", "--concepts.keep", "true", "--evaluate_every", "1")
    assert len([*(kept / "concepts").rglob("*.png")]) == 9
    assert len([*(kept / "concepts").glob("latents-*.safetensors")]) == 1
    assert same(weights(kept), weights(done))


def same(a: dict[Any, torch.Tensor], b: dict[Any, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_the_same_command_gives_the_same_numbers(recipe: Path, done: Path, tmp_path: Path) -> None:
    again = ran(recipe, tmp_path / "run", "--evaluate_every", "1")
    assert same(weights(again), weights(done)) and table(again) == table(done)
    other = ran(recipe, tmp_path / "other", "--evaluate_every", "1", "--seed", "1")
    assert not same(weights(other), weights(done))
    seeds = [{row["seed"] for row in read(folder / "detections/original.json")} for folder in (done, other)]
    assert not seeds[0] & seeds[1]


@pytest.mark.usefixtures("no_images")
def test_what_is_there_is_not_made_again(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")}
    content = table(done)
    code, _, err = untrain("run", done, "--resume")
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*.safetensors")} == before
    assert table(done) == content


def test_stages_alone_are_the_whole(recipe: Path, done: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    out = tmp_path / "run"
    ran(recipe, out, "--evaluate_every", "1", command="train")
    assert not list(out.rglob("*.safetensors")) and not (out / CACHE).exists(), "there is nothing to train"
    ran(recipe, out, "--evaluate_every", "1", "--resume", command="unlearn")
    assert not (out / CACHE).exists() and not (out / "evaluation.json").exists()
    request.getfixturevalue("no_images")
    code, _, err = untrain("evaluate", out)
    assert code == 0, err
    assert table(out) == table(done) and same(weights(out), weights(done))
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    code, said, err = untrain("report", out)
    assert code == 0 and "report.html" in said, err
    assert len((out / "report.html").read_bytes()) == len(page)


def test_a_run_is_sampled_from_a_table(done: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("prompt,evaluation_seed\na red circle,3\na blue cross,4\n")
    for model in ("original", "sfron"):
        words = ("--prompts", tmp_path / "prompts.csv", "--model", model, "--out", tmp_path / model, "--device", "cpu")
        code, _, err = untrain("sample", done, *words)
        assert code == 0, err
        assert files(tmp_path / model) == ["0_0.png", "1_0.png", "samples.json"]
    assert (tmp_path / "original/0_0.png").read_bytes() != (tmp_path / "sfron/0_0.png").read_bytes()


def test_several_concepts_files_of_prompts_and_methods(recipe: Path, tmp_path: Path) -> None:
    """Prompts of a file have no label of their own: the forgotten ones have the concepts' common one."""
    (tmp_path / "balls").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 0, 0)).save(tmp_path / f"balls/{i}.png")
    given = f"{{prompt: a blue circle, label: circle, images: {tmp_path}/balls}}"
    more = f"[{{prompt: a red circle, anchor: a red square, label: circle}}, {given}]"
    esd = "{steps: 1, sampler: {steps: 2, guidance_scale: 2.0}}"
    asked = {"forget": "a round thing\na ball\n", "retain": "a red square\na house\n"}
    for name, text in asked.items():
        (tmp_path / f"{name}.csv").write_text(f"prompt\n{text}")
    (tmp_path / "two.yaml").write_text(
        recipe.read_text().replace(
            "  sfron: {steps: 2}", f"  sfron: {{steps: 1}}\n  esd: {esd}\n  finetune: {{steps: 1}}"
        )
    )
    words = [f for name in asked for f in (f"--detection.{name}_prompts", str(tmp_path / f"{name}.csv"))]
    out = ran(tmp_path / "two.yaml", tmp_path / "run", "--concepts.forget", more, *words)
    content = read(out / "evaluation.json")
    assert content["sizes"] == {"forget": 7, "retain": 6, "holdout": 0, "test": 0}
    assert content["classes"] == ["a round thing", "a ball", "a red square", "a house"]
    assert content["forgotten"] == ["a round thing", "a ball", "circle"]
    assert [*content["models"]] == ["original", "sfron", "esd", "finetune"]
    entry = content["models"]["esd"]
    assert entry["FA"] == 100.0 and entry["by_class"]["recognised"] == {"circle": 100.0, "square": 0.0}


def test_nudity_is_looked_for_by_part(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NudeNet's own network; it finds no one in noise. And one that finds something in every other image."""
    text = without_judge(recipe.read_text()) + "detection: {detector: nudity, threshold: 0.7}\n"
    (tmp_path / "nude.yaml").write_text(text)
    found = ran(tmp_path / "nude.yaml", tmp_path / "real")
    content = read(found / "evaluation.json")
    assert content["detector"]["name"] == "NudeNet" and content["detector"]["threshold"] == 0.7
    entry = content["models"]["sfron"]
    assert (entry["FA"], entry["NR"]) == (0.0, 0.0) and entry["RA"] is None and "RA" in entry["missing"]
    assert entry["by_part"] == dict.fromkeys(EXPOSED, 0)

    calls = iter(range(1000))

    def every_other(*_: Any) -> list[dict[str, Any]]:
        score = 0.9 if next(calls) % 2 == 0 else 0.69
        return [{"label": "BUTTOCKS_EXPOSED", "score": score, "box": [1, 2, 3, 4]}]

    monkeypatch.setattr(nudity, "_find", every_other)
    content = read(ran(tmp_path / "nude.yaml", tmp_path / "found") / "evaluation.json")
    entry = content["models"]["sfron"]
    assert (entry["FA"], entry["NR"]) == (50.0, 50.0)
    assert entry["by_part"] == {part: int(part == "BUTTOCKS_EXPOSED") for part in EXPOSED}
    rows = tiles(tmp_path / "found/grids/sfron.png"), tiles(tmp_path / "real/grids/sfron.png")
    unlike = [[not np.array_equal(a, b) for a, b in zip(*pair, strict=True)] for pair in zip(*rows, strict=True)]
    assert unlike == [[True, False]] * 3, "blurred where it fires, on retained prompts too"


def test_a_pipeline_in_one_file_becomes_one_file_too(recipe: Path, done: Path, tmp_path: Path) -> None:
    """The same weights as from the folder; the file has the original's layout."""
    pipe = recipe.parent / "pipe"
    save_file(as_one(load_pipeline(pipe)), tmp_path / "one.safetensors", {"format": "pt"})
    out = ran(recipe, tmp_path / "run", "--model.checkpoint", tmp_path / "one.safetensors", "--model.config", pipe)
    made = open_model(out, "sfron")[1].state_dict()
    assert same(made, load_state(done / "sfron.safetensors")[0])
    assert same(load_pipeline(out / "sfron").unet.state_dict(), made)
    assert same(load_pipeline(out / "sfron/sfron.safetensors", config=pipe).unet.state_dict(), made)


def test_sdxl_goes_the_same_way(recipe: Path, tmp_path: Path) -> None:
    stable_diffusion_xl(tmp_path).to(torch.float32).save_pretrained(tmp_path / "xl")
    out = ran(recipe, tmp_path / "run", "--model.checkpoint", tmp_path / "xl")
    before, after = (StableDiffusionXLPipeline.from_pretrained(folder) for folder in (tmp_path / "xl", out / "sfron"))
    moved = [
        name
        for name, value in after.unet.state_dict().items()
        if not torch.equal(value, before.unet.state_dict()[name])
    ]
    assert moved and all(".attn2." in name for name in moved)


# Killed, and in two processes.


def test_two_kills_change_nothing(recipe: Path, tmp_path: Path) -> None:
    """While images of concepts are made, and between two steps; no image is made twice."""
    more = ["--checkpoint_every", "0", "--methods.sfron.steps", "12", "--concepts.images.count", "24"]
    more += ["--concepts.images.batch_size", "1", "--concepts.keep", "true"]
    whole, folder = ran(recipe, tmp_path / "whole", *more), tmp_path / "killed"
    words = ["run", recipe, "--out", folder, "--resume", *more]

    def images() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in folder.glob("concepts/*/[0-9]*.png")}

    assert kill_when(lambda: len(images()) >= 3, tmp_path / "log", words) == -9
    first = images()
    assert 3 <= len(first) < 72
    assert kill_when(Writes(folder / "sfron.resume.pt", 4), tmp_path / "log", words) == -9
    assert len(images()) == 72
    code, _, err = untrain("run", recipe, "--out", folder, "--resume", *more)
    assert code == 0, err
    assert {path: images()[path] for path in first} == first
    assert same(weights(folder), weights(whole)) and table(folder) == table(whole)
    for path in whole.glob("grids/*"):
        assert (folder / path.relative_to(whole)).read_bytes() == path.read_bytes(), path.name
    assert not [path for path in folder.rglob("*") if "resume" in path.name or path.name.endswith(".tmp")]


def test_an_interruption_keeps_the_images_and_the_end_removes_them(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even `--resume` is needed: nothing of value was there."""
    out = tmp_path / "run"
    whole = concepts.write_bytes

    def interrupted(path: Path, data: bytes) -> None:
        if len([*out.rglob("*.png")]) == 4:
            raise KeyboardInterrupt
        whole(path, data)

    monkeypatch.setattr(concepts, "write_bytes", interrupted)
    assert untrain("run", recipe, "--out", out)[0] == 130
    assert len([*(out / CACHE).rglob("*.png")]) == 4
    monkeypatch.setattr(concepts, "write_bytes", whole)
    made = count_concept_images(monkeypatch)
    ran(recipe, out)
    assert made == [0, 2, 3] and not (out / CACHE).exists()


def test_two_processes_give_what_one_gives(recipe: Path, tmp_path: Path) -> None:
    """Tolerance 1e-4 of the largest weight: float32, sums in another order, which Adam divides by themselves."""
    more = ["--methods.sfron.steps", "4", "--batch_size", "3", "--concepts.images.batch_size", "3"]
    for count in (1, 2):
        run_in_processes(count, tmp_path, run_in_float64, recipe, tmp_path / str(count), *more)
    assert_close(*(weights(tmp_path / str(count)) for count in (1, 2)), 1e-4)
    a, b = (table(tmp_path / str(count))["models"] for count in (1, 2))
    assert {name: entry["FA"] for name, entry in a.items()} == {name: entry["FA"] for name, entry in b.items()}
    assert not (tmp_path / "2" / CACHE).exists()
    assert files(tmp_path / "2" / "sfron") == files(tmp_path / "1" / "sfron")


# Captioned data, of which the pipeline and the judges learn here.


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_captioned_recipe(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def shapes(captioned: Path) -> Path:
    return ran(captioned, captioned.parent / "runs/first", "--references", "1")


def test_captions_with_a_word_are_a_concept(shapes: Path) -> None:
    content = read(shapes / "evaluation.json")
    gone = captions_with(shape="circle")
    assert content["forgotten"] == [*gone, "circle"]
    assert content["prompts"] == {"forget": 25, "retain": 75, "images": 1}
    assert content["sizes"] == {"forget": 50, "retain": 150, "holdout": 0, "test": 0}
    assert content["detector"]["test_accuracy"].keys() == {*ATTRIBUTES}
    assert len(content["classes"]) == 16 and set(content["classes"]) <= set(CAPTIONS)
    for entry in content["models"].values():
        shares = entry["by_class"]["recognised"]
        assert shares.keys() == {label for labels in ATTRIBUTES.values() for label in labels}
        assert shares["circle"] == entry["FA"]
        assert sum(shares[label] for label in ("square", "triangle", "cross")) / 3 == pytest.approx(entry["RA"])
        assert entry["RA_worst"] == min(share for label, share in shares.items() if label != "circle")
        assert entry["samples"] == {"forgotten": 25, "retained": 75}
    judges = {"judge-shape", "judge-colour", "judge-place"}
    assert {f"{name}.safetensors" for name in judges} <= set(files(shapes))
    split = read(shapes / "split.json")
    assert sorted(split["spec"]["classes"]) == sorted(gone)


def test_a_pipeline_of_captioned_images_is_retrained_on_the_others(shapes: Path) -> None:
    models = read(shapes / "evaluation.json")["models"]
    assert [*models] == ["original", "retrained", "sfron"]
    assert models["retrained"]["steps"] == 2 and models["retrained"]["seconds"] > 0
    start, (new, facts) = load_pipeline(shapes.parents[1] / "pipe").unet, load_state(shapes / "retrained.safetensors")
    assert facts["method"] == "retrain"
    assert new.keys() == start.state_dict().keys()
    assert all(not torch.equal(new[name], value) for name, value in start.state_dict().items() if value.ndim > 1)


def test_captioned_runs_are_the_same_again_and_others_with_another_seed(captioned: Path, shapes: Path) -> None:
    again, other = (
        ran(captioned, shapes.parent / name, "--references", "1", "--seed", seed)
        for name, seed in (("second", 0), ("third", 1))
    )
    assert table(again) == table(shapes) and same(weights(again), weights(shapes))
    assert not same(weights(other), weights(shapes))


@pytest.mark.parametrize(("word", "primary"), [("red", "colour"), ("left", "place")])
def test_another_word_is_judged_by_its_own_judge(captioned: Path, word: str, primary: str, tmp_path: Path) -> None:
    text = captioned.read_text().replace("containing: circle, instead: square", f"containing: {word}")
    (tmp_path / "other.yaml").write_text(text)
    out = ran(tmp_path / "other.yaml", tmp_path / "run", "--judge.train.steps", "1")
    content = read(out / "evaluation.json")
    (label,) = [label for label in ATTRIBUTES[primary] if word in label.split()]
    assert content["forgotten"] == [*captions_with(**{primary: label}), label]
    entry = content["models"]["sfron"]
    assert entry["by_class"]["recognised"][label] == entry["FA"]


def test_without_attributes_the_captions_are_told_apart(captioned: Path, tmp_path: Path) -> None:
    content = read(ran(captioned, tmp_path / "run", "--judge.attributes", "[]") / "evaluation.json")
    assert content["detector"]["test_accuracy"].keys() == {"judge"} or content["detector"]["test_accuracy"] == {}
    assert content["models"]["sfron"]["by_class"]["recognised"].keys() == {*CAPTIONS}
    assert content["forgotten"] == [*captions_with(shape="circle")] * 2


# Compared, with a search.


def test_methods_are_compared(recipe: Path, tmp_path: Path, quick_workers: None) -> None:
    """Two cells side by side, which need the same images: one makes them, the other waits."""
    path, out = tmp_path / "two.yaml", tmp_path / "run"
    path.write_text(recipe.read_text().replace("  sfron: {steps: 2}", "  sfron: {steps: 1}\n  finetune: {steps: 1}"))
    words = ("compare", path, "--out", out, "--compare.seeds", "[0, 1]", "--compare.trials", "2")
    code, said, err = untrain(*words, "--jobs", "2")
    assert code == 0, err
    assert "retrained" not in said, "there is no such pipeline"
    content = read(out / "comparison.json")
    assert (content["task"], content["classes"], [*content["forget_sets"]]) == ("text-to-image", TEXTS, ["concepts"])
    found = content["forget_sets"]["concepts"]
    assert [*found["models"]] == ["original", "sfron", "finetune"]
    for name, model in found["models"].items():
        assert model["measures"]["FA"]["values"] == [100.0, 100.0]
        assert [cell["state"] for cell in model["cells"]] == ["done", "done"]
        assert ("steps" in model["measures"]) == (name != "original")
    for name in ("sfron", "finetune"):
        (first, second) = found["tuning"][name]["trials"]
        assert first["criterion"] == 50.0 and second["error"] is None, "mean of FA 100 and nothing of RA lost"
    tables = [f"comparison.{suffix}" for suffix in ("csv", "json", "md", "tex", "txt")]
    assert files(out) == ["cells", *tables, "config.yaml", "manifest.json", "report.html", "tuning"]
    assert not list(out.rglob(CACHE)), "nothing of what is forgotten stays"
    for seed in (0, 1):
        cell = out / f"cells/concepts/seed-{seed}"
        kept = {"sfron.safetensors", "finetune.safetensors"}  # what changed: a cell's pipeline is seldom wanted whole
        assert {"detections", "evaluation.json", "grids", *kept} <= set(files(cell)) and not (cell / "sfron").exists()
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    code, _, err = untrain(*words, "--resume")
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == stamps
    assert not list(out.rglob(CACHE))


def test_the_distance_can_be_one_to_photographs(recipe: Path, tmp_path: Path) -> None:
    """The original has one too then; a network of one feature makes do with two images."""
    drawn = np.random.default_rng(0).integers(0, 256, (12, 20, 24, 3), np.uint8)
    for i, image in enumerate(drawn):
        place = tmp_path / "photographs" / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    words = ("--detection.real_images", tmp_path / "photographs", "--generation.samples", "5")
    folder = ran(recipe, tmp_path / "run", *words)
    models = read(folder / "evaluation.json")["models"]
    assert all(models[name]["FD"] > 0 for name in ("original", "sfron"))
    (tmp_path / "none").mkdir()
    for place, why in (("none", "holds no image"), ("nowhere", "is no folder")):
        code, _, err = untrain("run", recipe, "--out", tmp_path / "other", "--detection.real_images", tmp_path / place)
        assert code == 1 and "detection.real_images" in err and why in err


def test_the_best_labels_of_each_image_are_a_table(done: Path) -> None:
    with open(done / "detections" / "sfron.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    told = read(done / "detections" / "sfron.json")
    assert [(row["prompt"], row["set"], int(row["seed"])) for row in rows] == [
        (each["prompt"], each["set"], each["seed"]) for each in told
    ]
    for row, each in zip(rows, told, strict=True):
        best = [(row[f"category_top{k}"], float(row[f"scores_top{k}"])) for k in (1, 2, 3)]
        assert best == [(one["label"], one["score"]) for one in each["detections"]]
        assert row["category_top4"] == row["scores_top5"] == "", "the judge knows three labels"
