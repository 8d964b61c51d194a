"""How far two models' predictions on the same samples are apart."""

import torch
from torch import Tensor


def kl_divergence(reference: Tensor, log_probs: Tensor) -> float:
    """Mean over samples of KL(p_reference ‖ p), in nats; both log-probabilities [N, C]."""
    return _kl(reference, log_probs).mean().item()


def js_divergence(reference: Tensor, log_probs: Tensor) -> float:
    """Mean over samples of the Jensen–Shannon divergence, in nats (at most log 2); log-probabilities [N, C]."""
    middle = torch.logaddexp(reference, log_probs) - torch.tensor(2.0, dtype=reference.dtype).log()
    middle = torch.where(reference == log_probs, reference, middle)  # exactly 0 where the models agree
    return (0.5 * _kl(reference, middle) + 0.5 * _kl(log_probs, middle)).mean().item()


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ_c p (log p − log q), [N]; a class with p = 0 counts 0."""
    probs = log_p.exp()
    return torch.where(probs > 0, probs * (log_p - log_q), 0.0).sum(dim=1)
