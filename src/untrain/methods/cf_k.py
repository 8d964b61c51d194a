"""The last k layers trained on the retain set, the rest frozen (Goel et al. 2022: CF-k)."""

from dataclasses import dataclass
from typing import ClassVar

from untrain.methods.last_layers import LastLayers
from untrain.settings import check_arguments


@check_arguments
@dataclass(frozen=True)
class CatastrophicForgettingOfLastLayers(LastLayers):
    """Catastrophic forgetting in the last k layers: training of these goes on, on the retain set alone."""

    name: ClassVar[str] = "cf-k"
    title: ClassVar[str] = "the last k layers trained on D_r, the rest frozen (Goel et al. 2022)"
    anew: ClassVar[bool] = False
