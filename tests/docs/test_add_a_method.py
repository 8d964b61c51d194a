"""docs/add-a-method.md: its method does what the page says, and its distribution works as it is written there."""

import dataclasses
import json
import shlex

import pytest
import tomllib
import torch
import yaml
from torch import nn

import untrain
from helpers.documents import ROOT, blocks, mean_loss, users_things
from helpers.processes import start
from untrain.cli import main
from untrain.errors import SettingError
from untrain.methods.base import Choice, Range

PAGE = ROOT / "docs/add-a-method.md"
LANGUAGES = {"python": 3, "toml": 1, "yaml": 1, "sh": 1}


@pytest.fixture(scope="module")
def things():
    """The names that the page's Python leaves, run from top to bottom."""
    names = users_things()
    for i, code in enumerate(blocks(PAGE, "python", "run")):
        exec(compile(code, f"{PAGE.name}, block {i}", "exec"), names)
    return names


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What an installer makes of the page's class and pyproject.toml, and the page's recipe beside it."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads(blocks(PAGE, "toml")[0])["project"]
    (module,) = tomllib.loads(blocks(PAGE, "toml")[0])["tool"]["setuptools"]["py-modules"]
    (folder / f"{module}.py").write_text(blocks(PAGE, "python")[0])
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {value}" for name, value in project["entry-points"]["untrain.methods"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[untrain.methods]", *lines, ""]))
    (folder / "recipe.yaml").write_text(blocks(PAGE, "yaml")[0])
    return folder


def test_every_block_is_run_here():
    for language, count in LANGUAGES.items():
        assert len(blocks(PAGE, language)) == count, language
    assert PAGE.read_text().count("\n```") == 2 * sum(LANGUAGES.values()), "a block in another language"


def test_the_method_forgets_and_keeps(things):
    """Seen once: loss on the forget set 0.039 before, 0.100 after, 0.083 retrained."""
    before, after, aim = (
        mean_loss(model, things["forget_set"])
        for model in (things["model"], things["result"].model, things["retrained"])
    )
    assert abs(after - aim) < 0.7 * abs(before - aim)
    assert things["scores"].RA > 98
    history = things["result"].history
    assert ["forget_loss" in record for record in history[:3]] == [True, True, False]
    assert len(history) == 2 + 29, "four passes over 900 samples in batches of 128"


def test_the_page_tests_in_closed_form(things):
    """The page's test fails for a method that climbs twice as fast."""
    test = things["test_up_on_the_forget_set_then_down_on_the_retain_set"]
    method = things["AscentThenRepair"]

    class Hasty(method):
        """Climbs by twice the gradient."""

        def step(self, state, k):
            if k == 0:
                state.optimizers["optimizer"].param_groups[0]["lr"] = 0.6
            return super().step(state, k)

    things["AscentThenRepair"] = Hasty
    try:
        with pytest.raises(AssertionError):
            test()
    finally:
        things["AscentThenRepair"] = method
    test()


def test_settings_are_checked_and_can_be_searched(things):
    method = things["AscentThenRepair"]
    with pytest.raises(SettingError, match="ascent_steps must be above 0"):
        method(ascent_steps=0)
    assert {type(space) for space in method.space.values()} == {Range, Choice}
    known = {field.name for field in dataclasses.fields(method)}
    assert {name.partition(".")[0] for name in method.space} <= known


def test_normalisation_is_not_moved_by_forget_batches(things):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    sets = {name: [(torch.randn(6, 4), torch.randint(0, 3, (6,)))] for name in ("forget", "retain")}
    settings = {"optimizer": untrain.Optimizer("sgd", lr=0.01), "ascent_steps": 2, "steps": 1, "device": "cpu"}
    result = untrain.unlearn(model, **sets, method=things["AscentThenRepair"], **settings)
    assert result.model[1].num_batches_tracked == 1, "the one retain batch"


def test_its_distribution_works_on_the_command_line(site, tmp_path, monkeypatch):
    """Each command of the page, on fewer images and epochs than its recipe has: only how good it gets is another."""
    recipe = yaml.safe_load((site / "recipe.yaml").read_text())
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(site)
    log = tmp_path / "printed"
    for line in blocks(PAGE, "sh")[0].splitlines():
        words = shlex.split(line)
        assert words[0] == "untrain"
        fast = (
            ["--train.epochs", "1", "--data.limit", "300", "--device", "cpu"]
            if words[1] == "run" and "--help" not in words
            else []
        )
        process = start(log, main, [*words[1:], *fast])
        process.join()
        assert process.exitcode == 0, f"{line}\n{log.read_text()}"
    printed = log.read_text()
    assert "a few steps of ascent on the forget set" in printed, "in the list"
    assert "Steps on forget batches" in printed, "in the help"
    run = site / "runs" / recipe["name"]
    facts = json.loads((run / "manifest.json").read_text())["models"]
    assert set(facts) == {"original", "retrained", *recipe["methods"]}
    assert facts["ascent-then-repair"]["settings"]["ascent_steps"] == 5
    assert facts["longer"]["settings"]["ascent_steps"] == 10
    assert facts["longer"]["method"] == "ascent-then-repair"
