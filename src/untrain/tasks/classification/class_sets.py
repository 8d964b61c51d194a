"""Which samples an audit by references asks a classifier about, the same for all models."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from untrain.data.source import Source
from untrain.data.splits import Subset
from untrain.data.streams import Stream
from untrain.domain import Division, Domain
from untrain.errors import DataError
from untrain.tasks.classification.class_audit import BESIDE, FEW, FEWEST_FEATURES, GIVEN, MOST_FEATURES
from untrain.tasks.classification.signals import ASKED_AT_ONCE

FEWEST_ASKED = 20
"""Samples that a recall is of."""


def forgotten_classes(domain: Domain, division: Division) -> list[int]:
    """Returns the classes that are forgotten whole; none where a sample of another class is forgotten too."""
    labels, split = domain.source.labels, division.split
    forgotten, retained = (set(labels[part].tolist()) for part in (split.forget, split.retain))
    return [] if forgotten & retained else sorted(forgotten)


def check_class_sets(domain: Domain, division: Division) -> None:
    """Refuses a run with too few samples to ask models about.

    Raises:
        DataError: names the class that has no test image, or says how few samples there are.
    """
    whole, names = forgotten_classes(domain, division), domain.source.classes
    for number in whole:
        if not len(_of_class(division.test, [number])):
            raise DataError(
                f"there is no test image of the class {names[number]!r}, which is forgotten: whether it is recognised "
                "can only be told by images that no model was trained on. Give the data a test part that has it "
                "(data.test_fraction cuts one off)."
            )
    count = len(_of_class(division.test, whole)) if whole else len(division.split.forget) - GIVEN
    if count < FEWEST_ASKED:
        kind = "test images of the forgotten class" if whole else f"samples to forget beside {GIVEN} for relearning"
        raise DataError(f"there are {count} {kind}: by fewer than {FEWEST_ASKED} no recall can be told.")


def class_sets(domain: Domain, division: Division, seed: int) -> dict[str, Stream]:
    """Chooses the samples; see `ask_class`, which takes them.

    Args:
        domain: has them.
        division: which are forgotten and kept.
        seed: of the choice, and of batches.
    """
    split, whole, labels = division.split, forgotten_classes(domain, division), domain.source.labels
    if whole:
        given = torch.cat([_some(split.forget[labels[split.forget] == c], GIVEN, seed, 2) for c in whole])
        asked: Source = Subset(division.test, _of_class(division.test, whole))
    else:
        given = _some(split.forget, GIVEN, seed, 2)
        asked = Subset(domain.data, split.forget[~torch.isin(split.forget, given)])
    train = torch.cat([split.retain, split.forget] if whole else [split.retain])
    few = [_some(train[labels[train] == c], FEW, seed, 3) for c in labels[train].unique().tolist()]
    sets: Mapping[str, tuple[Source, int]] = {
        "asked": (asked, ASKED_AT_ONCE),
        "given": (Subset(domain.data, given), len(given)),
        "beside": (Subset(domain.data, split.retain), BESIDE),
        "few": (Subset(domain.data, torch.cat(few)), ASKED_AT_ONCE),
        "alike": (_alike(domain, division, asked, seed), ASKED_AT_ONCE),
        "forgotten": (Subset(domain.data, _some(split.forget, MOST_FEATURES, seed, 4)), ASKED_AT_ONCE),
        "base": (Subset(domain.data, split.retain), ASKED_AT_ONCE),
    }
    test = _of_class(division.test, labels[split.retain].unique().tolist())
    sets = {**sets, **({"test": (Subset(division.test, test), ASKED_AT_ONCE)} if len(test) else {})}
    # the audit's seed: that of a model's own run would choose other batches for each
    return {name: Stream(data, name, domain.context.engine, size, seed) for name, (data, size) in sets.items()}


def _alike(domain: Domain, division: Division, asked: Source, seed: int) -> Source:
    """Samples whose features are compared: those asked about, or forgotten ones where these are too few."""
    few = len(asked) < FEWEST_FEATURES
    data, positions = (domain.data, division.split.forget) if few else (asked, torch.arange(len(asked)))
    return Subset(data, _some(positions, MOST_FEATURES, seed, 5))


def _of_class(source: Source, classes: list[int]) -> Tensor:
    """Positions of the samples of some classes."""
    return torch.isin(source.labels, torch.tensor(classes)).nonzero()[:, 0]


def _some(positions: Tensor, count: int, seed: int, purpose: int) -> Tensor:
    """Some positions by the seed, ascending; all where there are no more."""
    order = np.random.default_rng([seed, purpose]).permutation(len(positions))
    return positions[torch.from_numpy(np.sort(order[:count]))]
