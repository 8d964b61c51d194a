"""What a search judges a generator's settings by: what it should do, seen in few images of other noise."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from untrain.domain import Division, SearchObjective

SAMPLES = 40
"""Images of each class or prompt that settings are judged by; the comparison itself draws other ones."""


@dataclass(frozen=True, eq=False)
class SampleObjective(SearchObjective):
    """What a generator forgets: nothing of it recognised, as much as before of the rest, images no further from real.

    Attributes:
        division: what is forgotten and kept.
        domain: the generators'; its `measure` takes `samples=`.
        trained: what was made of its `trainings`.
    """

    division: Division
    domain: Any
    trained: Mapping[str, nn.Module]

    def observe(self, module: nn.Module) -> dict[str, Any]:
        """Measures FA and RA in %, and FD: as an evaluation has them, of fewer samples of other noise."""
        sets = self.domain.evaluation_sets(self.division)
        measure = self.domain.measure
        found = measure({"model": module}, self.division, sets, trained=self.trained, samples=SAMPLES)
        return found.models["model"]

    def score(self, seen: Any, original: Any) -> float:
        """Returns the mean of FA, of the points of RA that were lost, and of the per cent by which the distance grew.

        What could not be had is left out: a detector of nudity knows no RA, and images of prompts are not compared
        with real ones.
        """
        parts = [seen["FA"]]
        if seen.get("RA") is not None:
            parts.append(max(0.0, original["RA"] - seen["RA"]))
        if original.get("FD"):
            parts.append(max(0.0, 100 * (seen["FD"] / original["FD"] - 1)))
        return sum(parts) / len(parts)

    def facts(self) -> Any:
        """Returns how samples are made, and by what they are judged."""
        return [self.domain.evaluation_facts(), SAMPLES]
