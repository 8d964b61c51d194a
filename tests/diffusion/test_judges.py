"""Judges of transformers as they are: with all their weights, and of the data's classes."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.pretrained_classifiers import LABELS, classifier
from untrain.diffusion.judges import is_given, read_judge
from untrain.diffusion.sections import Judge
from untrain.engine import Engine
from untrain.errors import CheckpointError

SHAPE = (3, 16, 16)


@pytest.fixture
def saved(tmp_path):
    classifier().save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def read(folder, classes):
    section = Judge(name=f"hf:{folder}")
    assert is_given(section)
    return read_judge(section, classes, SHAPE, Engine.start("cpu"))


def test_it_says_what_it_said(saved):
    images = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(read(saved, LABELS)(images).logits, classifier()(images).logits)


def test_names_of_other_languages_are_taken_in_order(saved):
    assert not read(saved, ("anguille", "vache", "chat", "chien")).training


@pytest.mark.parametrize(
    ("classes", "said"),
    [(LABELS[:2], "tells 4 classes apart, and the data have 2"), (LABELS[::-1], "0 is 'eel' to it, and 'dog'")],
)
def test_one_of_other_classes_is_refused(saved, classes, said):
    with pytest.raises(CheckpointError, match=f"judge.name, hf:.*{said}.*small-cnn"):
        read(saved, classes)


def test_one_without_its_last_layer_is_refused(saved):
    state = load_file(saved / "model.safetensors")
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}
    assert len(kept) < len(state)
    save_file(kept, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="classifier.* missing.*last layer") as raised:
        read(saved, LABELS)
    assert "model.train" not in str(raised.value)
