"""The diagonal of the empirical Fisher information, exact and sample by sample."""

from untrain.fisher.diagonal import fisher_diagonal

__all__ = ["fisher_diagonal"]
