import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from untrain.errors import DataError
from untrain.tasks.text_to_image.card import Card, model_card

BEFORE = {"FA": 93.25, "FA5": None, "RA": 97.5, "RA_worst": 88.0, "CLIP": 31.415, "FD": None, "steps": None}
AFTER = {"FA": 1.5, "FA5": None, "RA": 96.25, "RA_worst": 84.0, "CLIP": 31.0, "FD": 12.75, "steps": 150}
EVALUATION: dict[str, Any] = {
    "task": "text-to-image",
    "detector": {"name": "small-cnn", "kind": "classifier", "threshold": None, "test_accuracy": {"shape": 99.2}},
    "features": "inception",
    "clip": None,
    "sampler": {"steps": 50, "eta": 0.0, "spacing": "uniform", "guidance_scale": 7.5},
    "models": {
        "original": {
            **BEFORE,
            "samples": {"forgotten": 200, "retained": 800},
            "missing": {"FA5": "the classifier has 4 classes", "FD": "it is measured against itself"},
        },
        "unlearned": {
            **AFTER,
            "samples": {"forgotten": 200, "retained": 800},
            "seconds": 81.4,
            "missing": {"FA5": "the classifier has 4 classes"},
        },
    },
}


def facts(**changes: Any) -> Card:
    given: dict[str, Any] = {
        "forgotten": {"a red circle": "a red square", "a blue circle": None},
        "retained": ["a red square", "a green cross"],
        "method": "sfron",
        "settings": {"steps": 30, "gamma": None, "optimizer": {"name": "adam", "lr": 1e-5}, "names": ["a", "b"]},
        "parts": "xattn",
        "parameters": 44_000_000,
        "of": 859_520_964,
        "base": "someone/some-model",
        "base_hash": "ab12" * 16,
        "versions": {"torch": "2.7", "diffusers": "0.42"},
        "evaluation": EVALUATION,
        "licence": {"license": "creativeml-openrail-m"},
    }
    return Card(**{**given, **changes})


def front(card: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found
    return yaml.safe_load(found[1])


def rows(card: str) -> dict[str, list[str]]:
    """First cell → the others, of every row of every table."""
    lines = [line.strip("|").split(" | ") for line in card.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_the_front_is_what_model_hubs_read() -> None:
    from huggingface_hub import ModelCard

    card = model_card(facts())
    said = front(card)
    assert said["license"] == "creativeml-openrail-m" and said["base_model"] == "someone/some-model"
    assert (said["library_name"], said["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert {"text-to-image", "untrain"} <= set(said["tags"])
    read = ModelCard(card).data
    assert read.library_name == "diffusers" and read.license == "creativeml-openrail-m"


def test_what_and_how_and_from_what() -> None:
    card = model_card(facts(seed=7, hash="cd34" * 16))
    for said in (
        "- `a red circle`, which is now to give what `a red square` gives\n- `a blue circle`\n",
        "What was to stay as it was:\n\n- `a red square`\n- `a green cross`",
        "Method `sfron`, on `xattn`: 44,000,000 of 859,520,964 weights of the noise predictor (5.12 %).",
        "It took 150 optimiser steps, 81 s. Seed 7.",
        "ab12" * 16,
        "cd34" * 16,
        "may still bring the concept back",
    ):
        assert said in card, said
    table = rows(card)
    assert table["optimizer.lr"] == ["1e-05"] and table["gamma"] == ["null"] and table["steps"] == ["30"]
    assert table["names"] == [r'\["a", "b"\]'] and table["torch"] == ["2.7"]


def test_every_figure_stands_before_and_after() -> None:
    card = model_card(facts())
    table = rows(card)
    for name in ("FA", "RA", "RA_worst", "CLIP"):
        assert [float(cell) for cell in table[name][-2:]] == pytest.approx([BEFORE[name], AFTER[name]], rel=1e-3), name
    assert table["FD"][-2:] == ["not measured", "12.75"]
    assert "FA5" not in table and "NR" not in table
    assert "200 images of forgotten and 800 of retained prompts" in card
    assert "99.2 % right on test images (shape)" in card and "guidance scale 7.5" in card
    assert "Features of the Fréchet distance: inception" in card and "Network of the CLIP" not in card


def test_what_is_missing_is_said_with_its_reason() -> None:
    card = model_card(facts())
    assert "- FA5 before: the classifier has 4 classes\n- FA5 after: the classifier has 4 classes\n" in card
    assert "- FD before: it is measured against itself" in card
    nothing = model_card(facts(evaluation=None))
    assert "Nothing was measured." in nothing and "before" not in rows(nothing)
    assert "It took" not in nothing
    with pytest.raises(DataError, match="has no model 'sfron'; it has 'original', 'unlearned'"):
        facts(entry="sfron")
    with pytest.raises(DataError, match="at least one forgotten prompt"):
        facts(forgotten={})


def test_body_parts_are_counted() -> None:
    models = EVALUATION["models"]
    parts = {"original": {"BUTTOCKS": 12, "FEET": 3}, "unlearned": {"FEET": 4}}
    counted = {name: {**models[name], "by_part": counts} for name, counts in parts.items()}
    detector = {"name": "NudeNet", "kind": "nudity", "threshold": 0.6, "test_accuracy": {}}
    card = model_card(facts(evaluation={**EVALUATION, "models": counted, "detector": detector}))
    table = rows(card)
    assert table["BUTTOCKS"] == ["12", "0"] and table["FEET"] == ["3", "4"]
    assert "Detector: NudeNet, at the threshold 0.6." in card


@pytest.mark.parametrize("base", ["/home/someone/models/secret/model.safetensors", "models/model.safetensors"])
def test_paths_of_the_machine_stay_on_it(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.safetensors").write_text("")
    card = model_card(facts(base=base))
    assert "base_model" not in front(card)
    assert "# model.safetensors, made to forget" in card and "models/" not in card


def test_no_text_breaks_the_page() -> None:
    odd = "a `cat` | <script>\n---\nlicense: mit\n# big"
    card = model_card(facts(forgotten={odd: "`tick"}, settings={"a|b": "x | y\n\n<b>"}, method="m"))
    assert "- ``a `cat` | <script> --- license: mit # big``, which is now to give what `` `tick `` gives" in card
    assert card.count("\n---\n") == 1, "the front ends once"
    assert r"| a\|b | x \| y \<b\> |" in card
    assert front(card)["license"] == "creativeml-openrail-m"


def test_the_licence_is_the_originals() -> None:
    assert "license" not in front(model_card(facts(licence={})))
    assert "does not tell its licence here" in model_card(facts(licence={}))
    assert front(model_card(facts(licence={"license": "openrail++"})))["license"] == "openrail++"
