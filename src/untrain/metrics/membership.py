"""Membership inference: does the model still treat the forget set as something it was trained on?"""

import numpy as np
import torch
from torch import Tensor

from untrain.engine import generator_of

SVC_SAMPLES = 2500
"""Most samples of each side that a support vector attack is fitted on: its time grows with their square or faster,
and three attacks on so many take about a second."""


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy −Σ_c p_c log p_c of the prediction, in nats.

    Args:
        log_probs: log-probabilities [N, C].

    Returns:
        [N].
    """
    return -(log_probs.exp() * log_probs.clamp_min(-1e4)).sum(dim=1)


def modified_entropy(log_probs: Tensor, labels: Tensor) -> Tensor:
    """−(1 − p_y) log p_y − Σ_{c≠y} p_c log(1 − p_c), each sample with its own label, in nats.

    Args:
        log_probs: log-probabilities [N, C].
        labels: [N].

    Returns:
        [N].

    Source: Song & Mittal, *Systematic evaluation of privacy risks of machine learning models*, USENIX Security 2021.
    """
    probs = log_probs.exp()
    top = log_probs.argmax(dim=1, keepdim=True)
    others = log_probs.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_rest = (-probs).log1p().scatter(1, top, others)  # of the largest p, 1 − p would round to 0
    own = labels[:, None]
    wrong = (probs * log_rest.clamp_min(-1e4)).scatter(1, own, 0.0).sum(dim=1)
    right = (1 - probs.gather(1, own)) * log_probs.clamp_min(-1e4).gather(1, own)
    return -right.squeeze(1) - wrong


def entropy_attack(retain: Tensor, test: Tensor, forget: Tensor) -> float:
    """MIA: logistic regression on the prediction's entropy; the share of the forget set called member, in %.

    Args:
        retain: entropies of members, [N_r].
        test: entropies of non-members, [N_t]; the classes are weighted to count alike.
        forget: entropies of the samples in question, [N_f].

    Source: the attack of Huang et al. 2024; entropy unscaled, scikit-learn's default C.
    """
    from sklearn.linear_model import LogisticRegression

    features = np.concatenate([_column(retain), _column(test)])
    member = np.concatenate([np.ones(len(retain)), np.zeros(len(test))])
    attack = LogisticRegression(class_weight="balanced").fit(features, member)
    return 100 * float(attack.predict(_column(forget)).mean())


def svc_attack(retain: Tensor, test: Tensor, forget: Tensor, *, seed: int = 0) -> float:
    """SVC-MIA: a support vector classifier on one statistic; the share of the forget set called non-member, in %.

    RBF kernel, C = 3, γ = "auto" (1 here, as there is one feature; the statistic is not scaled). Both sides count
    alike: each gives min(N_r, N_t, `SVC_SAMPLES`) samples, the larger side's chosen by the seed.

    Args:
        retain: the statistic of members, [N_r].
        test: of non-members, [N_t].
        forget: of the samples in question, [N_f]; all of them are asked about.
        seed: of the choice; models with sets of the same sizes are judged on the same samples.

    Source: the attack of Fan et al. 2024 as its public code has it, which takes as many members as test samples.
    """
    from sklearn.svm import SVC

    count = min(len(retain), len(test), SVC_SAMPLES)
    sides = [_column(_some(values, count, name, seed)) for name, values in (("retain", retain), ("test", test))]
    attack = SVC(C=3, gamma="auto").fit(np.concatenate(sides), np.repeat([1, 0], count))
    return 100 * float((attack.predict(_column(forget)) == 0).mean())


def _some(values: Tensor, count: int, name: str, seed: int) -> Tensor:
    if len(values) == count:
        return values
    order = torch.randperm(len(values), generator=generator_of(seed, "svc", name))
    return values[order[:count].sort().values.to(values.device)]


def _column(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()[:, None]
