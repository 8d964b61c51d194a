"""Likeness of features and of margins, against formulas and invariances."""

import numpy as np
import pytest

from untrain.metrics.similarity import klom, linear_cka


def test_cka_is_that_of_centred_gram_matrices():
    """The same by kernels, ⟨HKH, HLH⟩ / ‖HKH‖ ‖HLH‖; tolerance of float64."""
    rng = np.random.default_rng(0)
    x, y = 5 + rng.normal(size=(40, 7)), rng.normal(size=(40, 4))
    y[:, 0] += x[:, 0]
    centring = np.eye(40) - 1 / 40
    k, l = (centring @ each @ each.T @ centring for each in (x, y))  # noqa: E741
    wanted = (k * l).sum() / (np.linalg.norm(k) * np.linalg.norm(l))
    assert linear_cka(x, y) == pytest.approx(wanted, rel=1e-12) and 0 < wanted < 1


def test_cka_knows_no_rotation_scale_or_shift():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 6)).astype(np.float32)
    turned, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert linear_cka(x, 3 * x @ turned + 2) == pytest.approx(1, abs=1e-9)
    assert linear_cka(x, rng.normal(size=(300, 6))) < 0.05
    assert linear_cka(x, np.zeros((300, 6))) == 0


def test_klom_is_the_divergence_of_histograms():
    """Two bins are used, with 3 and 1 of 4 models against 1 and 3."""
    one, other = np.array([[0.0, 0, 0, 1]]).T, np.array([[0.0, 1, 1, 1]]).T
    empty = 18 * 1e-5 * np.log(1)
    assert klom(one, other) == pytest.approx(0.75 * np.log(3) + 0.25 * np.log(1 / 3) + empty, rel=1e-12)
    assert klom(one, one) == 0
    same = np.full((4, 2), 3.0)
    assert klom(same, same) == 0, "a margin that never changes"
