"""What a search judges a classifier's settings by, without a retrained model.

Held-out data show what a retrained model would do: a trial is held against how the original treats data that it never
saw, since that is how a retrained model would treat the forget set.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.domain import Division, SearchObjective
from untrain.metrics.accuracy import accuracy
from untrain.metrics.membership import entropy_attack
from untrain.objectives import share_heldout
from untrain.tasks.classification.evaluate import Predictions, predictions

if TYPE_CHECKING:
    from untrain.tasks.classification.domain import ClassificationDomain


@dataclass(frozen=True)
class Goal:
    """What a retrained model would do, as far as the original and held-out data tell; all in %.

    Attributes:
        FA: accuracy on the forget set.
        RA: accuracy on the retain set.
        HA: accuracy on held-out data.
        MIA: share of the forget set that the attack would call member; None where no class of it is retained.
    """

    FA: float
    RA: float
    HA: float
    MIA: float | None


@dataclass(frozen=True)
class Observation:
    """What a model says about the sets that a trial is judged by.

    Attributes:
        forget: the forget set.
        retain: the retain set, the attack's members.
        one: one half of the held-out data that no method was given.
        other: the other half.
    """

    forget: Predictions
    retain: Predictions
    one: Predictions
    other: Predictions

    @property
    def held(self) -> Tensor:
        """Of which forget samples the retain set holds the class, bool [F]."""
        return torch.isin(self.forget.labels, self.retain.labels)

    @property
    def held_out_accuracy(self) -> float:
        """Over both halves, in %."""
        return accuracy(torch.cat([self.one.correct, self.other.correct]))

    @property
    def certainty(self) -> Tensor:
        """Probability of the true label of each held-out sample, [H]."""
        return torch.cat([self.one.losses, self.other.losses]).neg().exp()

    @property
    def held_out_members(self) -> float:
        """The share of held-out data called members, in %: each half by the attack that is fitted on the other."""
        return (self._called(self.one, self.other.entropies) + self._called(self.other, self.one.entropies)) / 2

    @property
    def forget_members(self) -> float:
        """The share of forget samples, of retained classes, called members, in %; mean of both attacks."""
        asked = self.forget.entropies[self.held]
        return (self._called(self.one, asked) + self._called(self.other, asked)) / 2

    def _called(self, outside: Predictions, entropies: Tensor) -> float:
        return entropy_attack(self.retain.entropies, outside.entropies, entropies)


def goal(original: Observation) -> Goal:
    """The values that a trial should reach, from what the original says.

    Of the forget samples whose class is retained, as many should be right as of held-out data, and the attack should
    call as many of them members. Of those whose class is not retained, none should be right.
    """
    unseen, held = original.held_out_accuracy, original.held
    return Goal(
        FA=unseen * held.double().mean().item(),
        RA=accuracy(original.retain.correct),
        HA=unseen,
        MIA=original.held_out_members if held.any() else None,
    )


def heldout_score(seen: Observation, original: Observation) -> float:
    """How far a model is from what a retrained one would do, in points; the lower the better.

    Mean of |FA − FA₀|, |RA − RA₀|, |HA − HA₀|, |MIA − MIA₀| where it can be had, and the distances of the certainty
    on the forget set and on held-out data to the original's on held-out data.
    """
    aim = goal(original)
    gaps = [
        abs(accuracy(seen.forget.correct) - aim.FA),
        abs(accuracy(seen.retain.correct) - aim.RA),
        abs(seen.held_out_accuracy - aim.HA),
        forget_certainty_gap(seen, original.certainty),
        certainty_gap(seen.certainty, original.certainty),
    ]
    if aim.MIA is not None:
        gaps.append(abs(seen.forget_members - aim.MIA))
    return sum(gaps) / len(gaps)


def certainty_gap(a: Tensor, b: Tensor) -> float:
    """Wasserstein-1 distance of two samples of probabilities, in points (0 to 100)."""
    from scipy.stats import wasserstein_distance

    return 100 * float(wasserstein_distance(a.numpy(), b.numpy()))


def forget_certainty_gap(seen: Observation, unseen: Tensor) -> float:
    """The same for the forget set: to `unseen` where the class is retained, to no certainty at all where it is not."""
    certainty, held = seen.forget.losses.neg().exp(), seen.held
    share = held.double().mean().item()
    known = certainty_gap(certainty[held], unseen) if held.any() else 0.0
    gone = 100 * certainty[~held].mean().item() if share < 1 else 0.0
    return share * known + (1 - share) * gone


@dataclass(frozen=True, eq=False)
class HeldoutObjective(SearchObjective):
    """A classifier's forget set, the held-out data shared out.

    Attributes:
        division: as methods see it: with their part of the held-out data.
        judged: the streams of `Observation`, by its names.
        domain: the classifier's.
    """

    division: Division
    judged: dict[str, Stream]
    domain: "ClassificationDomain"

    def observe(self, module: nn.Module) -> Observation:
        """Takes its predictions on the forget set, the retain set and both halves of the held-out data."""
        task, engine = self.domain.task, self.domain.context.engine
        return Observation(**{name: predictions(module, task, stream, engine) for name, stream in self.judged.items()})

    def score(self, seen: Observation, original: Observation) -> float:
        """Scores a trial; see `heldout_score`."""
        return heldout_score(seen, original)

    def facts(self) -> Any:
        """Returns hashes of the sets."""
        return [stream.fingerprint() for stream in self.judged.values()]


def heldout_objectives(domain: "ClassificationDomain", division: Division, own: float) -> list[HeldoutObjective]:
    """Shares the held-out data out, for each forget set; see `share_heldout`."""
    return [HeldoutObjective(part, judged, domain) for part, judged in share_heldout(domain, division, own)]
