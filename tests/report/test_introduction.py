"""What a page says first of how samples were chosen."""

import pytest

from untrain.report.introduction import _choice


@pytest.mark.parametrize(
    ("kind", "spec", "words"),
    [
        ("fraction", {"fraction": 0.1, "seed": 0, "holdout": 0.1}, "chosen at random (0.1)"),
        ("classes", {"classes": ["Shirt"], "seed": 0}, "chosen by class (Shirt)"),
        ("classes", ["Shirt"], "chosen by class (Shirt)"),
        (
            "ids",
            {"ids": {"file": "a.csv", "sha256": "9e90", "column": "photo"}, "seed": 0},
            "listed by id in a.csv, column photo",
        ),
        ("indices", {"indices": {"file": "a.npy", "sha256": "9e90"}}, "listed by position in a.npy"),
        ("indices", {"given": {"forget": 3}}, "chosen by position"),
        ("elsewhere", None, "chosen by elsewhere"),
    ],
)
def test_a_choice_is_said_without_hashes_and_seeds(kind, spec, words):
    assert _choice(kind, spec) == words
