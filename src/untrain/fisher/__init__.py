"""The diagonal of the empirical Fisher information, exact and sample by sample."""

from untrain.fisher.diagonal import fisher_diagonal
from untrain.fisher.samples import Findings
from untrain.types import Estimator

__all__ = ["Estimator", "Findings", "fisher_diagonal"]
