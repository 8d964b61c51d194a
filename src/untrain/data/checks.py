"""What is looked at in sets before anything is trained: hashes of their content, samples that two share, labels."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch

from untrain.data.splits import check_disjoint, equal_content
from untrain.data.streams import Stream
from untrain.errors import DataError, Overlap
from untrain.io import hash_tensors
from untrain.types import Task


def content_hash(stream: Stream) -> str:
    """Hashes a set: all its content where that is in memory, else up to 16 of its samples."""
    if hasattr(stream.data, "fingerprint"):
        return str(stream.data.fingerprint())
    if stream.ready:
        return hash_tensors({f"{k}.{name}": t for k, batch in enumerate(stream.data) for name, t in batch.items()})
    count = len(stream) if stream.in_memory else min(16, len(stream))
    positions = torch.linspace(0, len(stream) - 1, count).round().long().unique()
    return hash_tensors(stream.gather(positions, "fingerprint"))


def check_samples(task: Task, streams: Mapping[str, Stream]) -> None:
    """Draws every sample that is in memory once, so that a label that does not fit is found before the first step.

    Raises:
        DataError: names the sample.
    """
    for name, stream in streams.items():
        if stream.in_memory:
            try:
                for _ in stream.once(task, "evaluate"):
                    pass
            except DataError as error:
                raise type(error)(f"{name} set: {error}") from error


def check_sets(sets: Mapping[str, Any], streams: Mapping[str, Stream]) -> None:
    """Refuses sets that share a sample by index or id; warns where samples in memory are equal.

    Args:
        sets: the sets as they were given.
        streams: their batches, by the same names.

    Raises:
        Overlap: names the two sets.
    """
    names = list(sets)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            try:
                check_disjoint(sets[a], sets[b])
            except Overlap as error:
                raise Overlap(f"{a} and {b}: {error}") from error
            equal = [] if _other_names(streams[a], streams[b]) else equal_content(streams[a].data, streams[b].data)
            if equal:
                warnings.warn(
                    f"{len(equal)} samples of the {a} set are equal to samples of the {b} set (first: number "
                    f"{equal[0][0]} and number {equal[0][1]}). They are different records with the same content; "
                    "what one set teaches, the other undoes.",
                    stacklevel=3,
                )


def _other_names(*streams: Stream) -> bool:
    """Whether ready batches name their input otherwise, so that what to compare is not known."""
    return any("input" not in batch for stream in streams if stream.ready for batch in stream.data)
