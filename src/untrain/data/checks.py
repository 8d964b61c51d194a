"""What is looked at in sets before anything is trained: hashes of their content, samples that two share, labels."""

import warnings
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch

from untrain.data.sameness import MOST_READ, check_apart, content_of, repeated, share_one_root
from untrain.data.source import Source
from untrain.data.streams import Stream
from untrain.errors import DataError, Overlap
from untrain.io import hash_tensors
from untrain.types import Task

LOOKED_AT = 64
"""Samples of a set that are drawn before the first step, where they are read or computed on access."""


def content_hash(stream: Stream) -> str:
    """Hashes a set: all its content where that is in memory, else up to 16 of its samples."""
    if isinstance(stream.data, Source):
        return stream.data.fingerprint()
    if stream.ready:
        return hash_tensors({f"{k}.{name}": t for k, batch in enumerate(stream.data) for name, t in batch.items()})
    count = len(stream) if stream.in_memory else min(16, len(stream))
    positions = torch.linspace(0, len(stream) - 1, count).round().long().unique()
    return hash_tensors(stream.gather(positions, "fingerprint"))


def check_samples(task: Task, streams: Mapping[str, Stream]) -> None:
    """Draws samples once, so that a label that does not fit is found before the first step.

    Every sample that is in memory, and `LOOKED_AT` of a set that is read on access.

    Raises:
        DataError: names the set and the sample.
    """
    for stream in streams.values():
        for _ in stream.once(task, "evaluate", limit=None if stream.in_memory else LOOKED_AT):
            pass


def check_places(sets: Mapping[str, Any]) -> None:
    """Refuses sets that share a sample, and one that has a sample twice; nothing is read.

    Args:
        sets: data sets, DataLoaders and lists of ready batches, by name.

    Raises:
        Overlap: names the two sets.
        DataError: names the sample that comes twice.
    """
    for name, data in sets.items():
        twice = None if isinstance(data, list) else repeated(data)
        if twice is not None:
            raise DataError(f"index {twice} comes twice in the {name} set. Leave it in once.")
    for a, b in combinations(sets, 2):
        try:
            check_apart(sets[a], sets[b])
        except Overlap as error:
            raise Overlap(f"{a} and {b}: {error}") from error


def check_sets(sets: Mapping[str, Any], streams: Mapping[str, Stream]) -> list[str]:
    """Refuses sets that share a sample, warns where different records are equal; see the two functions for both.

    Args:
        sets: the sets as they were given.
        streams: their batches, by the same names.

    Returns:
        Notes on what was compared.
    """
    check_places(sets)
    return compare_content(sets, streams)


def compare_content(sets: Mapping[str, Any], streams: Mapping[str, Stream]) -> list[str]:
    """Warns where different records of two sets have the same content, and says what was not compared.

    Sets that are read on access are looked at where their places tell nothing, up to `MOST_READ` samples of each.

    Args:
        sets: the sets as they were given.
        streams: their batches, by the same names.

    Returns:
        Notes: samples that are equal within a set, and sets of which not all was read.
    """
    read = [(a, b) for a, b in combinations(sets, 2) if _tells_more(sets, streams, a, b)]
    contents = {name: content_of(streams[name]) for name in {name: None for pair in read for name in pair}}
    for a, b in read:
        equal = contents[a].equal_to(contents[b])
        if equal:
            warnings.warn(
                f"{len(equal)} samples of the {a} set are equal to samples of the {b} set (first: number "
                f"{equal[0][0]} and number {equal[0][1]}). They are different records with the same content; "
                "what one set teaches, the other undoes.",
                stacklevel=4,
            )
    twice = {name: found.duplicates for name, found in contents.items() if found.duplicates}
    notes = [f"{name}: {count} samples are equal to others of the set" for name, count in twice.items()]
    partly = [name for name, found in contents.items() if found.digests and not found.whole]
    notes += [f"{name}: the content of {MOST_READ:,} samples, evenly spread, was compared" for name in partly]
    return notes


def _tells_more(sets: Mapping[str, Any], streams: Mapping[str, Stream], a: str, b: str) -> bool:
    """Whether the content of two sets can tell what their places do not."""
    return all(streams[name].in_memory for name in (a, b)) or not share_one_root(sets[a], sets[b])
