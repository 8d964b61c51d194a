"""The diagonal of the empirical Fisher information, exact and sample by sample."""

from untrain.fisher.diagonal import Estimator, fisher_diagonal

__all__ = ["Estimator", "fisher_diagonal"]
