"""The support vector attacks: against the optimisation problem that they solve, in closed form, and what they count."""

import math
import time
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.svm import SVC

import untrain
from helpers.stored_logits import Table, batches, logits_for
from untrain.metrics import membership
from untrain.metrics.membership import SVC_SAMPLES, modified_entropy, svc_attack
from untrain.tasks.classification.evaluate import NO_STRANGERS, SVC_ATTACKS


def slow_attack(members, strangers, asked):
    """A support vector machine's dual (RBF, C = 3, γ = 1) by a general solver; the share called stranger, in %.

    That it is solved is seen from the gap between the primal and the dual value, whatever the solver says.
    """
    x = np.concatenate([members, strangers])
    y = np.repeat([1.0, -1.0], [len(members), len(strangers)])
    q = np.exp(-((x[:, None] - x[None]) ** 2)) * y[:, None] * y[None]
    a = minimize(
        lambda a: 0.5 * a @ q @ a - a.sum(),
        np.full(len(x), 0.5),
        jac=lambda a: q @ a - 1,
        bounds=[(0, 3)] * len(x),
        constraints={"type": "eq", "fun": lambda a: a @ y, "jac": lambda a: y},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    ).x

    def decision(values):
        return np.exp(-((np.asarray(values)[:, None] - x[None]) ** 2)) @ (a * y)

    free = (a > 1e-4) & (a < 3 - 1e-4)
    offset = np.mean(y[free] - decision(x[free]))
    primal = 0.5 * a @ q @ a + 3 * np.maximum(0, 1 - y * (decision(x) + offset)).sum()
    assert primal - (a.sum() - 0.5 * a @ q @ a) < 1e-4
    return 100 * float((decision(asked) + offset <= 0).mean())


@pytest.mark.parametrize("seed", range(4))
def test_the_attack_solves_the_dual_problem(seed):
    """Both sides overlap; libsvm's tolerance of 1e-3 could turn a sample on the boundary, and none of these is."""
    g = torch.Generator().manual_seed(seed)
    members, strangers = (2 * torch.rand(12, generator=g, dtype=torch.float64) + shift for shift in (0.0, 0.7))
    asked = 4 * torch.rand(200, generator=g, dtype=torch.float64) - 0.5
    expected = slow_attack(members.numpy(), strangers.numpy(), asked.numpy())
    assert 10 < expected < 90
    assert svc_attack(members, strangers, asked) == expected


def test_both_sides_count_alike():
    """With the same values on both sides, an attack that saw all members would call everybody one: 0 %."""
    g = torch.Generator().manual_seed(0)
    members, strangers, asked = (torch.rand(n, generator=g) for n in (4000, 200, 1000))
    lopsided = SVC(C=3, gamma="auto").fit(
        torch.cat([members, strangers])[:, None].numpy(), np.repeat([1, 0], [4000, 200])
    )
    assert (lopsided.predict(asked[:, None].numpy()) == 0).mean() == 0
    assert 10 < svc_attack(members, strangers, asked) < 90


def test_who_is_fitted_on_is_the_seeds_choice(monkeypatch):
    seen = []
    fit = SVC.fit
    monkeypatch.setattr(SVC, "fit", lambda self, x, y: seen.append((x, y)) or fit(self, x, y))
    monkeypatch.setattr(membership, "SVC_SAMPLES", 30)
    members, strangers, asked = torch.arange(100.0), torch.arange(200.0, 240.0), torch.arange(7.0)
    for seed in (0, 0, 1):
        svc_attack(members, strangers, asked, seed=seed)
    for x, y in seen:
        assert len(set(x[:, 0].tolist())) == 60, "nobody twice"
        assert set(x[y == 1, 0].tolist()) <= set(members.tolist())
        assert set(x[y == 0, 0].tolist()) <= set(strangers.tolist())
        assert (y == 1).sum() == (y == 0).sum() == 30
    assert np.array_equal(seen[0][0], seen[1][0])
    assert not np.array_equal(seen[0][0], seen[2][0])


def test_a_large_set_does_not_take_long():
    """The worst case: nothing tells the two sides apart, so nearly every sample is a support vector."""
    g = torch.Generator().manual_seed(0)
    members, strangers, asked = (torch.rand(n, generator=g, dtype=torch.float64) for n in (50_000, 10_000, 5_000))
    start = time.process_time()
    svc_attack(members, strangers, asked)
    assert time.process_time() - start < 5, f"{SVC_SAMPLES} samples a side are too many"


def test_modified_entropy_of_a_sure_model_is_exact():
    """Against 60 digits; at a margin of 60 nats, 1 − p rounds to 0 in float64. Tolerance: a few roundings."""
    getcontext().prec = 60
    logits = torch.tensor([[60.0, 1.0, 0.0], [0.0, 60.0, 2.0], [3.0, 1.0, 2.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 2])
    expected = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        weights = [Decimal(value).exp() for value in row]
        probs = [weight / sum(weights) for weight in weights]
        wrong = sum(p * (1 - p).ln() for c, p in enumerate(probs) if c != label)
        expected.append(float(-(1 - probs[label]) * probs[label].ln() - wrong))
    assert modified_entropy(logits.log_softmax(1), labels).tolist() == pytest.approx(expected, rel=1e-12)
    assert expected[1] > 100


# Joined to the other measures.

LABELS = {"forget": [0, 1, 2, 0], "retain": [0, 1, 2] * 4, "test": [0, 1, 2] * 3}


def sure_and_unsure(labels=LABELS, sure=("forget", "forget", *["retain"] * 12)):
    """A model that is sure (margin 8) of all rows of the retain set and two of the forget set, unsure of others."""
    rows = [(name, label) for name, values in labels.items() for label in values]
    left = list(sure)
    logits = []
    for name, label in rows:
        margin = 8.0 if name in left else 0.5
        if name in left:
            left.remove(name)
        logits.append(logits_for([label], margin=margin)[0])
    return Table(torch.stack(logits))


def test_the_share_that_looks_new_in_the_same_single_pass():
    model = sure_and_unsure()
    found = untrain.evaluate(model, **batches(LABELS), device="cpu", svc_attacks=True)
    assert [getattr(found, name) for name in SVC_ATTACKS] == [50, 50, 50]
    assert not set(found.missing) & set(SVC_ATTACKS)
    assert model.calls == 4, "one pass over each of three sets, and one look when the task is prepared"


def test_the_statistics_are_those_of_the_own_label():
    """Sure and wrong: the entropy sees a member, the own label's confidence and the modified entropy do not."""
    right = sure_and_unsure()
    wrong = Table(right.logits.clone())
    wrong.logits[:2] = wrong.logits[:2].roll(1, 1)
    found = untrain.evaluate(wrong, **batches(LABELS), device="cpu", svc_attacks=True)
    assert (found.SVC_confidence, found.SVC_entropy) == (100, 50)
    assert found.SVC_modified_entropy > 50


def test_they_are_not_run_unless_asked_for():
    found = untrain.evaluate(sure_and_unsure(), **batches(LABELS), device="cpu")
    assert [getattr(found, name) for name in SVC_ATTACKS] == [None] * 3
    assert {found.missing[name] for name in SVC_ATTACKS} == {"not asked for: svc_attacks=True"}


def test_a_retrained_model_is_attacked_too():
    model, other = sure_and_unsure(), sure_and_unsure(sure=["retain"] * 12)
    found = untrain.evaluate(model, **batches(LABELS), reference=other, device="cpu", svc_attacks=True)
    assert found.SVC_entropy == 50
    assert math.isfinite(found.AvgD)
    assert untrain.evaluate(other, **batches(LABELS), device="cpu", svc_attacks=True).SVC_entropy == 100


def test_non_members_are_of_the_classes_that_stay():
    """Class 2 is forgotten whole. The model is sure of that class's test images: they must not count as strangers."""
    labels = {"forget": [2, 2], "retain": [0, 1] * 6, "test": [0, 1, 2] * 4}
    model = sure_and_unsure(labels, sure=["retain"] * 12)
    first = len(labels["forget"]) + len(labels["retain"])
    rows = [first + i for i, label in enumerate(labels["test"]) if label == 2]
    asked = [0]
    model.logits[rows + asked] = logits_for([2] * 5, margin=8.0)
    found = untrain.evaluate(model, **batches(labels), device="cpu", svc_attacks=True)
    assert [getattr(found, name) for name in SVC_ATTACKS] == [50, 50, 50]
    only = {**labels, "test": [2] * 12}
    found = untrain.evaluate(model, **batches(only), device="cpu", svc_attacks=True)
    assert [getattr(found, name) for name in SVC_ATTACKS] == [None] * 3
    assert {found.missing[name] for name in SVC_ATTACKS} == {NO_STRANGERS}
