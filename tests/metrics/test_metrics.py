"""Measures in closed form."""

import math

import pytest
import torch

from untrain.metrics.accuracy import accuracy, accuracy_by_class, tug_of_war
from untrain.metrics.divergence import js_divergence, kl_divergence
from untrain.metrics.membership import entropy, entropy_attack, modified_entropy


def log_probs(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_accuracies():
    correct, labels = torch.tensor([True, False, True, True]), torch.tensor([0, 0, 2, 2])
    assert accuracy(correct) == 75
    assert accuracy_by_class(correct, labels, ["cat", "dog", "cow"]) == {"cat": 50, "cow": 100}
    assert tug_of_war([90, 100, 80], [100, 100, 90]) == pytest.approx(0.9 * 1.0 * 0.9)
    assert tug_of_war([50, 60, 70], [50, 60, 70]) == 1


def test_divergences():
    p, q = log_probs([0.5, 0.5], [1.0, 0.0]), log_probs([0.25, 0.75], [0.5, 0.5])
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert kl_divergence(p, q) == pytest.approx((first + math.log(2)) / 2)
    assert kl_divergence(q, q) == 0
    assert js_divergence(p, q) == pytest.approx(js_divergence(q, p))
    apart = js_divergence(log_probs([1.0, 0.0]), log_probs([0.0, 1.0]))
    assert apart == pytest.approx(math.log(2))


def test_entropies():
    assert entropy(log_probs([0.25] * 4, [1.0, 0.0, 0.0, 0.0])).tolist() == pytest.approx([math.log(4), 0.0])
    p = [0.7, 0.2, 0.1]
    expected = -(0.3 * math.log(0.7)) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9)
    assert modified_entropy(log_probs(p), torch.tensor([0])).item() == pytest.approx(expected)
    other = -(0.8 * math.log(0.2)) - 0.7 * math.log(0.3) - 0.1 * math.log(0.9)
    assert modified_entropy(log_probs(p), torch.tensor([1])).item() == pytest.approx(other)
    certain = modified_entropy(log_probs([1.0, 0.0]), torch.tensor([0]))
    assert certain.item() == pytest.approx(0.0)


def test_the_attack_calls_low_entropies_members():
    members, strangers = torch.linspace(0, 0.2, 50), torch.linspace(1, 1.2, 20)
    assert entropy_attack(members, strangers, torch.tensor([0.1, 0.15, 1.1, 0.05])) == 75


def test_the_attack_weighs_both_classes_alike():
    """With the same entropies on both sides and many more members, balance keeps the attack at chance."""
    g = torch.Generator().manual_seed(0)
    members, strangers = torch.rand(5000, generator=g), torch.rand(100, generator=g)
    called = entropy_attack(members, strangers, torch.rand(2000, generator=g))
    assert 5 < called < 95
