"""What is looked at in sets before anything is trained: samples that two share, equal content, labels."""

import warnings
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from untrain.data.content import MOST_READ, contents_of
from untrain.data.keys import names_samples
from untrain.data.sameness import Known, repeated
from untrain.data.streams import Stream
from untrain.errors import DataError, Overlap
from untrain.types import Batch, Task

LOOKED_AT = 64
"""Samples of a set that are drawn before the first step, where they are read or computed on access."""


def check_samples(task: Task, streams: Mapping[str, Stream]) -> None:
    """Draws samples once, so that a label that does not fit is found before the first step.

    Of a set in memory what is one number a sample, as labels are, is read, and the first sample of each number is
    drawn; every sample where there is no such thing. `LOOKED_AT` more are drawn of any set.

    Raises:
        DataError: names the set and the sample.
    """
    for stream in streams.values():
        if not stream.in_memory:
            _draw(stream.once(task, "evaluate", limit=LOOKED_AT))
            continue
        chosen = _first_of_each_number(stream)
        _draw(stream.once(task, "evaluate") if chosen is None else stream.some(chosen, task, "evaluate"))


def _draw(batches: Iterable[Batch]) -> None:
    for _ in batches:
        pass


def _first_of_each_number(stream: Stream) -> Tensor | None:
    """Positions, ascending, of the first sample of each label, and of others; None where no label is one number."""
    numbers = {name: values for name, values in (stream.numbers() or {}).items() if not names_samples(name, values)}
    if not numbers:
        return None
    found = [torch.linspace(0, len(stream) - 1, min(LOOKED_AT, len(stream)), dtype=torch.float64).round().long()]
    for values in numbers.values():
        _, first = np.unique(values.cpu().numpy(), return_index=True)
        found.append(torch.from_numpy(first))
    return torch.cat(found).unique()


def check_places(sets: Mapping[str, Any]) -> dict[str, Known]:
    """Refuses sets that share a sample, and one that has a sample twice; nothing is read.

    Args:
        sets: data sets, DataLoaders and lists of ready batches, by name.

    Returns:
        How the samples of each are known.

    Raises:
        Overlap: names the two sets.
        DataError: names the sample that comes twice.
    """
    known = {name: Known.of(data) for name, data in sets.items()}
    for name, data in sets.items():
        twice = None if isinstance(data, list) else repeated(known[name].places)
        if twice is not None:
            raise DataError(f"index {twice} comes twice in the {name} set. Leave it in once.")
    for a, b in combinations(known, 2):
        try:
            known[a].check_apart(known[b])
        except Overlap as error:
            raise Overlap(f"{a} and {b}: {error}") from error
    return known


def check_sets(sets: Mapping[str, Any], streams: Mapping[str, Stream], known: Mapping[str, Known] = {}) -> list[str]:
    """Refuses sets that share a sample, warns where different records are equal; see the two functions for both.

    Args:
        sets: the sets as they were given.
        streams: their batches, by the same names.
        known: what `check_places` gave, where these sets are those that it was asked about.

    Returns:
        Notes on what was compared.
    """
    same = all(name in known and known[name].data is data for name, data in sets.items())
    return compare_content(known if same else check_places(sets), streams)


def compare_content(known: Mapping[str, Known], streams: Mapping[str, Stream]) -> list[str]:
    """Warns where different records of two sets have the same content, and says what was not compared.

    Sets that are read on access are looked at where their places tell nothing, up to `MOST_READ` samples of each.

    Args:
        known: the sets, as `check_places` gives them.
        streams: their batches, by the same names.

    Returns:
        Notes: samples that are equal within a set, and sets of which not all was read.
    """
    read = [(a, b) for a, b in combinations(streams, 2) if _tells_more(known, streams, a, b)]
    contents = contents_of({name: streams[name] for pair in read for name in pair})
    notes = []
    for a, b in read:
        if len(contents[a].hashes) and len(contents[b].hashes) and contents[a].of_files != contents[b].of_files:
            files, values = (a, b) if contents[a].of_files else (b, a)
            notes.append(f"{files} was compared by its files, {values} by its values: equal ones are not seen")
        equal = contents[a].equal_to(contents[b])
        if equal:
            warnings.warn(
                f"{len(equal)} samples of the {a} set are equal to samples of the {b} set (first: number "
                f"{equal[0][0]} and number {equal[0][1]}). They are different records with the same content; "
                "what one set teaches, the other undoes.",
                stacklevel=4,
            )
    twice = {name: found.duplicates for name, found in contents.items() if found.duplicates}
    notes += [f"{name}: {count} samples are equal to others of the set" for name, count in twice.items()]
    partly = [name for name, found in contents.items() if len(found.hashes) and not found.whole]
    notes += [f"{name}: the content of {MOST_READ:,} samples, evenly spread, was compared" for name in partly]
    return notes


def _tells_more(known: Mapping[str, Known], streams: Mapping[str, Stream], a: str, b: str) -> bool:
    """Whether the content of two sets can tell what their places do not."""
    return all(streams[name].in_memory or streams[name].keeps for name in (a, b)) or not known[a].shares_root(known[b])
