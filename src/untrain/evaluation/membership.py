"""Membership inference: does the model still treat the forget set as something it was trained on?"""

import numpy as np
from torch import Tensor


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
    log_rest = (-probs).log1p().clamp_min(-1e4)
    own, log_own = (values.gather(1, labels[:, None]).squeeze(1) for values in (probs, log_probs.clamp_min(-1e4)))
    others = (probs * log_rest).sum(dim=1) - own * log_rest.gather(1, labels[:, None]).squeeze(1)
    return -(1 - own) * log_own - others


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


def _column(values: Tensor) -> np.ndarray:
    return values.double().cpu().numpy()[:, None]
