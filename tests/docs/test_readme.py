"""The README is run as it is written: its Python on a model and data that are not ours, its commands by their parts."""

import copy
import re

import pytest
import torch

import untrain
from helpers.documents import (
    README,
    ROOT,
    Net,
    blocks,
    check_untrain,
    commands,
    few_images,
    generator_things,
    mean_loss,
    text_to_image_things,
    users_things,
)


def test_the_python_of_the_readme_does_what_it_says(capsys):
    code, *others = blocks(README, "python")
    assert len(others) == 2, "the README has three blocks of Python, and every one must be run"
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    things = users_things()
    before = copy.deepcopy(things["model"].state_dict())
    exec(compile(code, "README.md", "exec"), things)
    model, result, scores = things["model"], things["result"], things["scores"]

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert type(result.model) is Net
    assert not result.model.training
    forget, test = things["forget_set"], things["test_set"]
    aim = mean_loss(things["retrained"], forget)
    gaps = [abs(mean_loss(m, forget) - aim) for m in (model, result.model)]
    assert gaps[1] < 0.8 * gaps[0], "by default the forget set comes nearer to what retraining makes of it"
    assert mean_loss(result.model, test) < 1.5 * mean_loss(model, test), "and what is new is treated as before"
    assert scores.RA > 98
    printed = capsys.readouterr().out
    assert f"forget {scores.FA:.1f} %" in printed
    assert f"Avg.D {scores.AvgD:.2f}" in printed


def test_the_python_of_the_readme_for_generators(capsys, monkeypatch, tmp_path):
    from diffusers import DiTPipeline

    monkeypatch.chdir(tmp_path)
    _, code, _ = blocks(README, "python")
    things = {"untrain": untrain, **generator_things()}
    pipeline = things["pipeline"]
    before = copy.deepcopy(pipeline.transformer.state_dict())
    exec(compile(code, "README.md", "exec"), things)
    result, scores = things["result"], things["scores"]

    assert all(torch.equal(before[name], tensor) for name, tensor in pipeline.transformer.state_dict().items())
    assert type(result.model) is DiTPipeline
    assert len(result.history) == 50
    saved = DiTPipeline.from_pretrained(tmp_path / "unlearned").transformer.state_dict()
    made = result.model.transformer.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in made.items())
    assert any(not torch.equal(before[name], tensor) for name, tensor in made.items())
    assert scores.samples == {"forgotten": 250, "retained": 500}
    assert f"forgotten class {scores.FA:.1f} %" in capsys.readouterr().out


def test_the_python_of_the_readme_for_text_to_image(monkeypatch, tmp_path):
    from diffusers import StableDiffusionPipeline

    monkeypatch.chdir(tmp_path)
    few_images(monkeypatch)
    *_, code = blocks(README, "python")
    things = {"untrain": untrain, **text_to_image_things(README, tmp_path)}
    exec(compile(code, "README.md", "exec"), things)
    pipe, result = things["pipe"], things["result"]

    original = StableDiffusionPipeline.from_pretrained(tmp_path / "path/to/stable-diffusion").unet.state_dict()
    assert all(torch.equal(original[name], tensor) for name, tensor in pipe.unet.state_dict().items())
    assert type(result.model) is StableDiffusionPipeline
    assert len(result.history) == 100
    assert (result.method.objective, result.method.retain_steps) == ("redirect", 1)
    saved = StableDiffusionPipeline.from_pretrained(tmp_path / "sd-without-nudity").unet.state_dict()
    moved = {name for name, tensor in saved.items() if not torch.equal(tensor, original[name])}
    assert all(torch.equal(saved[name], tensor) for name, tensor in result.model.unet.state_dict().items())
    assert moved and all(".attn2." in name for name in moved), "cross-attention alone"
    losses = [record["forget_loss"] for record in result.history]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10]), "what is drawn of the prompt nears what is drawn of its anchor"


def test_the_same_seed_gives_the_same_result():
    """Whatever other code drew before: the network has dropout."""
    ends = []
    for noise in (1, 2):
        things = users_things()
        sets = {name: things[f"{name}_set"] for name in ("forget", "retain", "holdout")}
        torch.manual_seed(noise)
        ends.append(untrain.unlearn(things["model"], **sets, steps=2, seed=5).model.state_dict())
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())


@pytest.mark.parametrize("words", [w for w in commands(README) if w[0] == "untrain"], ids=" ".join)
def test_commands_of_the_readme_can_be_run(words):
    check_untrain(words[1:])


def test_make_targets_of_the_readme_exist():
    targets = [words[1] for words in commands(README) if words[0] == "make"]
    assert {"demo", "test"} <= set(targets)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{re.escape(target)}\s*:", makefile, re.MULTILINE), f"make {target} is not in the Makefile"


def test_every_command_of_the_readme_is_checked_here():
    assert {words[0] for words in commands(README)} == {"make", "untrain", "python"}


def test_scripts_of_the_readme_are_there_and_tested():
    scripts = [words[1] for words in commands(README) if words[0] == "python"]
    assert scripts == ["examples/shapes/make.py"]
    assert (ROOT / scripts[0]).exists()
    assert (ROOT / "tests/examples/test_shapes.py").exists()
