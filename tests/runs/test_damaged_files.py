"""A run folder with one bit of one file turned: the file is named, the good ones are not, and the advice works."""

import re
import shutil

import pytest

from helpers.command_line import RECIPE, table, untrain, weights


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A recipe and a finished run of it; for looking only."""
    place = tmp_path_factory.mktemp("damaged")
    (place / "small.yaml").write_text(RECIPE)
    code, _, err = untrain("run", place / "small.yaml", "--out", place / "run")
    assert code == 0, err
    return place / "small.yaml", place / "run"


@pytest.fixture
def copy(run, tmp_path):
    """The recipe, and a copy of the run to damage."""
    shutil.copytree(run[1], tmp_path / "run")
    return run[0], tmp_path / "run"


def turn_bit(path, place):
    """Turns one bit, at a place from 0 to 1 of the file."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 4
    path.write_bytes(data)


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
@pytest.mark.parametrize(
    "name", ["original.safetensors", "retrained.safetensors", "sfron.safetensors", "sfron.mask.safetensors",
             "sfron.history.jsonl", "history.jsonl", "manifest.json", "split.json", "config.yaml"]
)  # fmt: skip
def test_what_is_damaged_is_named_and_the_advice_mends_it(run, copy, name, place):
    recipe, folder = copy
    turn_bit(folder / name, place)
    code, _, err = untrain("run", recipe, "--out", folder, "--resume")
    if code == 0:  # a bit of white space, or of the name of a hash
        assert name in ("manifest.json", "split.json", "config.yaml")
    else:
        assert code == 1 and name in err and "unforeseen" not in err
        advised = re.findall(r"[Rr]emove (?:the folder )?(it|\S+)", err)
        assert set(advised) <= {"it", str(folder / name)}
        (folder / name).unlink()
        code, _, err = untrain("run", recipe, "--out", folder, "--resume")
        assert code == 0, err
    assert table(folder) == table(run[1])
    found, expected = weights(folder), weights(run[1])
    assert all((found[key] == expected[key]).all() for key in found)


@pytest.mark.parametrize("name", ["evaluation.json", "manifest.json", "history.jsonl", "config.yaml"])
def test_a_report_is_not_made_of_damaged_files(copy, name):
    turn_bit(copy[1] / name, 0.5)
    page = (copy[1] / "report.html").read_bytes()
    code, _, err = untrain("report", copy[1])
    assert code == 1 and name in err
    assert (copy[1] / "report.html").read_bytes() == page


def test_another_runs_evaluation_is_not_reported_as_this_ones(copy, tmp_path):
    recipe, folder = copy
    assert untrain("run", recipe, "--out", tmp_path / "other", "--seed", "5")[0] == 0
    shutil.copy(tmp_path / "other/evaluation.json", folder / "evaluation.json")
    code, _, err = untrain("report", folder)
    assert code == 1 and "evaluation.json is damaged or of another run" in err
    assert untrain("evaluate", folder)[0] == 0 and untrain("report", folder)[0] == 0


def test_a_changed_checkpoint_is_blamed_and_not_what_was_made_from_it(copy, tmp_path):
    recipe, folder = copy
    mine, words = tmp_path / "mine.safetensors", ("--out", tmp_path / "from", "--model.checkpoint")
    shutil.copy(folder / "original.safetensors", mine)
    assert untrain("run", recipe, *words, mine)[0] == 0
    shutil.copy(folder / "retrained.safetensors", mine)
    code, _, err = untrain("run", recipe, *words, mine, "--resume")
    assert code == 1 and "mine.safetensors are not those that the run" in err and "sfron.safetensors" not in err


def test_an_interrupted_run_does_not_go_on_from_a_damaged_state(run, tmp_path, monkeypatch):
    from untrain.methods import finetune

    step, folder = finetune.Finetune.step, tmp_path / "run"

    def stopped(self, state, k):
        if k == 5:
            raise KeyboardInterrupt
        return step(self, state, k)

    monkeypatch.setattr(finetune.Finetune, "step", stopped)
    assert untrain("run", run[0], "--out", folder, "--checkpoint_every", "0")[0] == 130
    monkeypatch.undo()
    whole = (folder / "finetune.resume.pt").read_bytes()
    for place in (0.1, 0.5, 0.9):
        (folder / "finetune.resume.pt").write_bytes(whole)
        turn_bit(folder / "finetune.resume.pt", place)
        code, _, err = untrain("run", run[0], "--out", folder, "--resume")
        assert code == 1 and "finetune.resume.pt is damaged" in err
    (folder / "finetune.resume.pt").write_bytes(whole)
    assert untrain("run", run[0], "--out", folder, "--resume")[0] == 0
    found, expected = weights(folder), weights(run[1])
    assert all((found[key] == expected[key]).all() for key in expected)
