"""Forgotten and unseen samples in one mixed order, as a model is asked for them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from untrain.audit.one_model import FEWEST_OF_EACH
from untrain.data.checks import check_places
from untrain.data.content import content_of
from untrain.data.streams import Stream
from untrain.engine import generator_of
from untrain.errors import DataError, Overlap, convert_errors
from untrain.rows import count_rows
from untrain.types import Batch, Role, Task

MOST_ASKED = 2_000
"""Samples of each kind that are asked, at most: chosen by the seed."""
ASKED_AT_ONCE = 500
"""Samples of a batch."""


class _AsTheyAre:
    """Draws nothing: batches as their set gives them."""

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        return batch


@dataclass(frozen=True, eq=False)
class MixedSamples:
    """Samples of both kinds.

    Attributes:
        batches: ready ones, in an order that mixes the kinds, so that nothing about a batch tells of which it is.
        forgotten: which samples are, bool [N], in that order.
        labels: their classes, int64 [N]; all 0 where a task has none.
    """

    batches: list[Batch]
    forgotten: np.ndarray
    labels: np.ndarray


def mix_samples(forget: Stream, unseen: Stream, task: Task, seed: int) -> MixedSamples:
    """Reads samples of both kinds and mixes them.

    Args:
        forget: what was to be forgotten.
        unseen: what the model was never given.
        task: prepared; knows the samples' classes.
        seed: of the order, and of the choice where there are more than `MOST_ASKED`.

    Raises:
        DataError: if there are too few, or the two kinds cannot be put into one batch.
    """
    columns, labels = zip(*(_read(stream, task) for stream in (forget, unseen)), strict=True)
    counts = [len(each) for each in labels]
    if min(counts) < FEWEST_OF_EACH:
        raise DataError(
            f"there are {counts[0]} forgotten and {counts[1]} unseen samples: fewer than {FEWEST_OF_EACH} of a kind "
            "tell nothing. Give more."
        )
    if columns[0].keys() != columns[1].keys():
        names = [", ".join(sorted(each)) for each in columns]
        raise DataError(f"forgotten samples have {names[0]}, unseen ones {names[1]}: give both the same names.")
    order = torch.randperm(sum(counts), generator=generator_of(seed, "mixed"))
    with convert_errors(DataError, "forgotten and unseen samples cannot be put into one batch"):
        whole = {name: torch.cat([each[name] for each in columns])[order] for name in columns[0]}
    batches = [
        {name: values[first : first + ASKED_AT_ONCE] for name, values in whole.items()}
        for first in range(0, len(order), ASKED_AT_ONCE)
    ]
    place = order.numpy()
    return MixedSamples(batches, place < counts[0], torch.cat(labels).numpy()[place])


def _read(stream: Stream, task: Task) -> tuple[Mapping[str, Tensor], Tensor]:
    """A set's samples by name, on the CPU, and their classes."""
    read: list[Batch] = []
    labels: list[Tensor] = []
    for batch in stream.once(_AsTheyAre(), "evaluate", limit=MOST_ASKED):  # type: ignore[arg-type]
        with convert_errors(DataError, f"the classes of the {stream.name} set cannot be read"):
            classes = task.condition(task.draw(dict(batch), generator_of(0, "labels"), "evaluate"))
        rows = count_rows(batch)
        labels.append(torch.zeros(rows, dtype=torch.int64) if classes is None else classes.cpu())
        read.append({name: values.cpu() for name, values in batch.items() if name != "index"})
    with convert_errors(DataError, f"batches of the {stream.name} set cannot be joined"):
        whole = {name: torch.cat([batch[name] for batch in read]) for name in read[0]}
    return whole, torch.cat(labels)


def check_unseen(sets: Mapping[str, object], streams: Mapping[str, Stream]) -> None:
    """Refuses unseen samples that are also forgotten or retained: by place, by id, or by content.

    Args:
        sets: "forget", "retain" and "unseen", as they were given.
        streams: the same as batches.

    Raises:
        Overlap: names the sets and the first sample.
    """
    check_places(sets)
    unseen = content_of(streams["unseen"])
    for name in ("forget", "retain"):
        equal = unseen.equal_to(content_of(streams[name]))
        if equal:
            raise Overlap(
                f"{len(equal)} unseen samples are equal to samples of the {name} set (first: number {equal[0][0]} and "
                f"number {equal[0][1]}): the model was given them. Leave them out of unseen."
            )
