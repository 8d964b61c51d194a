"""Numbers of classifiers for an audit by references, by hand and against slow loops."""

from itertools import combinations

import numpy as np
import pytest
import torch

from untrain.domain import Told
from untrain.metrics.similarity import linear_cka
from untrain.tasks.classification.class_audit import class_numbers, distances_of_answers, other_answers


def test_other_answers_leave_the_class_out():
    """Class 2 is forgotten: of its images 0, 1 and 3 are left, however sure the model is of 2."""
    logits = torch.tensor([[0.0, 1.0, 9.0, 2.0], [3.0, 1.0, -9.0, 0.0]])
    found = other_answers(logits, torch.tensor([2, 2]), [2])
    wanted = logits[:, [0, 1, 3]].double().softmax(1).mean(0)
    assert found.shape == (1, 4) and found[0, 2] == 0
    assert np.allclose(found[0, [0, 1, 3]], wanted, atol=1e-12)
    surer = logits + torch.tensor([0.0, 0.0, 5.0, 0.0])
    assert np.allclose(other_answers(surer, torch.tensor([2, 2]), [2]), found, atol=1e-12)


def test_other_answers_of_several_labels_are_apart():
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 3, 0, 3, 1, 1, 1, 0])
    found = other_answers(logits, labels, [])
    assert found.shape == (3, 5) and found.sum() == pytest.approx(1)
    assert [found[i, c] for i, c in enumerate((0, 1, 3))] == [0, 0, 0], "a sample's own label is never another answer"
    assert other_answers(logits[:, :2], torch.zeros(9, dtype=torch.int64), [0, 1]).sum() == 0, "no class is left"


def told(rng, *, recall=50.0, features=None, answers=None):
    drawn = rng.dirichlet(np.ones(4))[None] if answers is None else answers
    signals = {"answers": drawn, "margin": rng.normal(size=8)}
    signals["features"] = rng.normal(size=(30, 3)) if features is None else features
    recalls = {f"relearned-{step}": recall for step in (1, 2, 5, 10, 20, 50)}
    return Told(signals, None, {"recall": recall, "refit": recall, "relearned": recall, **recalls})


def test_distances_leave_a_retrained_model_itself_out():
    rng = np.random.default_rng(0)
    answers = rng.dirichlet(np.ones(4), size=7)
    retrained = np.array([False] * 3 + [True] * 4)
    for i, found in enumerate(distances_of_answers(answers, retrained)):
        others = [answers[j] for j in range(7) if retrained[j] and j != i]
        assert found == pytest.approx(0.5 * np.abs(answers[i] - np.mean(others, axis=0)).sum())


def test_p_of_answers_is_that_of_every_split():
    rng = np.random.default_rng(1)
    sides = [[told(rng) for _ in range(5)] for _ in range(3)]
    found = class_numbers(*sides, 0)["answers"]
    both = np.stack([each.signals["answers"].ravel() for each in (*sides[1], *sides[2])])

    def apart(chosen):
        retrained = [i for i in range(10) if i not in chosen]
        distances = []
        for i in range(10):
            others = [j for j in retrained if j != i]
            distances.append(0.5 * np.abs(both[i] - both[others].mean(0)).sum())
        return abs(np.mean([distances[i] for i in chosen]) - np.mean([distances[i] for i in retrained]))

    every = [apart(chosen) for chosen in combinations(range(10), 5)]
    assert found.p == pytest.approx(np.mean(np.array(every) >= every[0] - 1e-12))
    assert 100 * every[0] == pytest.approx(abs(np.mean(found.unlearned) - np.mean(found.retrained)))


def test_features_are_held_against_an_original_of_which_nothing_was_made():
    rng = np.random.default_rng(2)
    sides = [[told(rng) for _ in range(5)] for _ in range(3)]
    found = class_numbers(*sides, 0)
    first = sides[0][0].signals["features"]
    assert found["features"].unlearned == [linear_cka(each.signals["features"], first) for each in sides[1][1:]]
    assert len(found["features"].retrained) == 5 and len(found["features"].original) == 4
    assert found["own_features"].original == pytest.approx([1.0] * 5) and not found["own_features"].tested
    assert "klom" not in found


def test_klom_takes_twenty_models_of_each_kind():
    rng = np.random.default_rng(3)
    sides = [[told(rng) for _ in range(20)] for _ in range(3)]
    found = class_numbers(*sides, 0)["klom"]
    assert len(found.unlearned) == len(found.retrained) == 1 and not found.tested and found.retrained[0] > 0


def test_what_a_model_lacks_is_missing_with_its_reason():
    rng = np.random.default_rng(4)
    sides = [[told(rng) for _ in range(5)] for _ in range(3)]
    bare = Told(
        {"answers": sides[1][0].signals["answers"], "margin": np.zeros(8)}, None, {"recall": 1.0}, ("no layer",)
    )
    sides[1][0] = bare
    found = class_numbers(*sides, 0)
    assert [found[name].missing for name in ("features", "own_features", "refit", "relearning")] == ["no layer"] * 4
    assert found["recall"].missing is None
