"""How alike two models are in what they make of the same samples: of their features, and of many models' margins."""

import numpy as np

BINS, EMPTY = 20, 1e-5
"""Of a histogram of margins, and the share that an empty bin is given."""


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Computes linear centred kernel alignment, ‖XᵀY‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F) with columns centred; 0 … 1.

    Turning, mirroring or scaling all features changes nothing. With fewer samples than features it is too near 1.

    Args:
        one: X, features of the samples by one model, [N, D].
        other: Y, by another, [N, D'].

    Source: Kornblith et al. 2019, *Similarity of Neural Network Representations Revisited*.
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in (one, other))
    x, y = x - x.mean(0), y - y.mean(0)
    size = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / size) if size else 0.0


def klom(one: np.ndarray, other: np.ndarray) -> float:
    """Computes the KL divergence of margins: mean over samples of KL(one ‖ other) of histograms over models, nats.

    Bins share the range of both. It is above 0 for equal models too, and the more the fewer there are.

    Args:
        one: margins of each model and sample, [K, N].
        other: [R, N].

    Source: Rinberg, Georgiev et al. 2024, *Attribute-to-Delete* (KLoM).
    """
    both = np.concatenate([one, other]).astype(np.float64)
    low, width = both.min(0), np.ptp(both, axis=0)
    bins = np.minimum(BINS * (both - low) / np.where(width > 0, width, 1), BINS - 1).astype(int)
    shares = [(part[:, :, None] == np.arange(BINS)).mean(0) for part in (bins[: len(one)], bins[len(one) :])]
    p, q = (np.maximum(share, EMPTY) for share in shares)
    return float((p * np.log(p / q)).sum(1).mean())
