"""What a search judges settings by, without a retrained model; for each kind of model its own bench.

For classifiers, held-out data show what a retrained model would do. A generator is judged by what it should do: nothing
recognised of the forgotten class, as much as before of the others, images no further from real ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from untrain.api import content_of
from untrain.compare.statistics import mean
from untrain.data.splits import Split, Subset
from untrain.data.streams import Stream
from untrain.engine import generator_of
from untrain.errors import DataError
from untrain.metrics.accuracy import accuracy
from untrain.metrics.membership import entropy_attack
from untrain.runs.stages import Workshop, make
from untrain.tasks.classification.evaluate import Predictions, predictions

FEWEST = 20
"""Held-out samples below which nothing can be judged by them."""
SAMPLES = 40
"""Images of each class that a generator's settings are judged by; the comparison itself draws other ones."""


class Bench(ABC):
    """One forget set of a search.

    Attributes:
        shop: its workshop, as methods see it.
    """

    shop: Workshop

    @abstractmethod
    def seen(self, module: nn.Module) -> Any:
        """What is seen of a model."""

    @abstractmethod
    def criterion(self, seen: Any, original: Any) -> float:
        """How far a model is from what it should be, in points, by what was seen of it; the lower the better."""

    @abstractmethod
    def facts(self) -> Any:
        """What the criterion depends on besides the model, as JSON."""


def benches_of(shop: Workshop, own: float) -> Sequence[Bench]:
    """The benches of a search's workshop.

    Args:
        shop: with the whole of the held-out data.
        own: the part of these that methods are given, in [0, 1).

    Raises:
        DataError: if too little is left to judge by.
    """
    return _classifier_benches(shop, own) if shop.kind.holds_out else [GeneratorBench(shop)]


@dataclass(frozen=True)
class GeneratorBench(Bench):
    """A generator's forgotten class."""

    shop: Workshop

    def seen(self, module: nn.Module) -> dict[str, Any]:
        """FA and RA in %, FD: as an evaluation has them, of fewer samples of other noise."""
        kind, shop = self.shop.kind, self.shop
        found = kind.measure({"model": module}, shop.split, shop.judged(), (), partial(make, shop), samples=SAMPLES)
        return found["models"]["model"]

    def criterion(self, seen: Any, original: Any) -> float:
        """Mean of FA, of the points of RA that were lost, and of the per cent by which the distance to real images
        grew. What could not be had is left out: a detector of nudity knows no RA, and images of prompts are not
        compared with real ones.
        """
        parts = [seen["FA"]]
        if seen.get("RA") is not None:
            parts.append(max(0.0, original["RA"] - seen["RA"]))
        if original.get("FD"):
            parts.append(max(0.0, 100 * (seen["FD"] / original["FD"] - 1)))
        return mean(parts) or 0.0

    def facts(self) -> Any:
        """How samples are made, and by what they are judged."""
        return [self.shop.kind.measured(), SAMPLES]


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
class Seen:
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


def goal(original: Seen) -> Goal:
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


def criterion(seen: Seen, original: Seen) -> float:
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


def forget_certainty_gap(seen: Seen, unseen: Tensor) -> float:
    """The same for the forget set: to `unseen` where the class is retained, to no certainty at all where it is not."""
    certainty, held = seen.forget.losses.neg().exp(), seen.held
    share = held.double().mean().item()
    known = certainty_gap(certainty[held], unseen) if held.any() else 0.0
    gone = 100 * certainty[~held].mean().item() if share < 1 else 0.0
    return share * known + (1 - share) * gone


@dataclass(frozen=True)
class ClassifierBench(Bench):
    """A classifier's forget set, the held-out data shared out.

    Attributes:
        shop: as methods see it: with their part of the held-out data.
        judged: the streams of `Seen`, by its names.
    """

    shop: Workshop
    judged: dict[str, Stream]

    def seen(self, module: nn.Module) -> Seen:
        """Its predictions on the forget set, the retain set and both halves of the held-out data."""
        task, engine = self.shop.task, self.shop.engine
        return Seen(**{name: predictions(module, task, stream, engine) for name, stream in self.judged.items()})

    def criterion(self, seen: Seen, original: Seen) -> float:
        """See the function `criterion`."""
        return criterion(seen, original)

    def facts(self) -> Any:
        """The sets."""
        return [content_of(stream) for stream in self.judged.values()]


def _classifier_benches(shop: Workshop, own: float) -> list[ClassifierBench]:
    """Shares the held-out data out: to the methods, and in two halves to the criterion; for each forget set.

    Raises:
        DataError: if too few are left to judge by.
    """
    order = torch.randperm(len(shop.holdout), generator=generator_of(shop.recipe.seed, "tuning"))
    given = round(own * len(order))
    half = given + (len(order) - given) // 2
    parts = [Subset(shop.holdout, part.sort().values) for part in (order[:given], order[given:half], order[half:])]
    if len(parts[1]) < FEWEST // 2:
        raise DataError(
            f"only {len(order) - given} held-out samples are left to judge settings by, at least {FEWEST} are needed: "
            "raise forget.holdout, or set compare.trials to 0."
        )
    recipe, engine = shop.recipe, shop.engine
    halves = [Stream(part, "holdout", engine, recipe.batch_size, recipe.seed) for part in parts[1:]]
    benches = []
    for split in _splits(shop.split, recipe.seed):
        part = replace(shop, split=split, holdout=parts[0])
        sets = {"forget": part.stream("forget"), "retain": part.stream("retain")}
        benches.append(ClassifierBench(part, {**sets, "one": halves[0], "other": halves[1]}))
    return benches


def _splits(split: Split, seed: int) -> list[Split]:
    """The split, and where it is random a second one: other samples of the same training data are forgotten."""
    count, retain = len(split.forget), split.retain
    if split.kind != "fraction" or count > len(retain):
        return [split]
    order = torch.randperm(len(retain), generator=generator_of(seed, "tuning", "second forget set"))
    second, rest = retain[order[:count]], retain[order[count:]]
    return [split, replace(split, forget=second.sort().values, retain=torch.cat([split.forget, rest]).sort().values)]
