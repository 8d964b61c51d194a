"""The last k layers made fresh and trained on the retain set, the rest frozen (Goel et al. 2022: EU-k)."""

from dataclasses import dataclass
from typing import ClassVar

from untrain.methods.last_layers import LastLayers
from untrain.settings import check_arguments


@check_arguments
@dataclass(frozen=True)
class ExactUnlearningOfLastLayers(LastLayers):
    """Exact unlearning of the last k layers: they begin anew, on the features of the layers before them."""

    name: ClassVar[str] = "eu-k"
    title: ClassVar[str] = "the last k layers made fresh and trained on D_r, the rest frozen (Goel et al. 2022)"
    anew: ClassVar[bool] = True
