"""What steps on the forget set share: its rows, normalisation, and distances to a frozen teacher."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from untrain.data.streams import Stream
from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.methods.base import Problem, State
from untrain.methods.calibration import statistics
from untrain.methods.steps import FEWEST, for_share
from untrain.models.copies import copy_module
from untrain.models.modes import set_training
from untrain.rows import Rows, count_rows, cut
from untrain.types import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor

ALL = slice(None)

_LAST: WeakKeyDictionary[Stream, tuple[int, Task, Batch]] = WeakKeyDictionary()
"""The last batch drawn of a stream, which several steps take rows of; no state, since it can be drawn again."""


def forget_rows(problem: Problem, k: int) -> Batch | None:
    """The forget rows that go with retain batch k; None where it has none.

    With x = forget samples / retain batches in a pass, they are rows ⌊k x⌋ … ⌊(k + 1) x⌋ − 1 of the endless chain of
    forget batches. In exact fractions, so that a pass over the retain set is a pass over both.
    """
    forget, retain = problem.forget, problem.retain
    batches = Fraction(len(retain.data)) if retain.ready else Fraction(len(retain), retain.rows)
    first, last = (math.floor(step * len(forget) / batches) for step in (k, k + 1))
    parts = []
    while first < last:
        number, row, count = _position(forget, first)
        rows = slice(row, min(count, row + last - first))
        parts.append(cut(_drawn(forget, problem.task, number), rows))
        first += rows.stop - row
    return joined(parts) if parts else None


def _position(stream: Stream, p: int) -> tuple[int, int, int]:
    """Row p of a stream's endless chain of batches: the batch's number, the row in it, and how many rows it has."""
    if not stream.ready:
        return *divmod(p, stream.rows), stream.rows
    passes, row = divmod(p, len(stream))
    counts = [count_rows(batch) for batch in stream.data]
    i = bisect_right(list(accumulate(counts)), row)
    return passes * len(counts) + i, row - sum(counts[:i]), counts[i]


def _drawn(stream: Stream, task: Task, number: int) -> Batch:
    last = _LAST.get(stream)
    if last is None or last[0] != number or last[1] is not task:
        last = _LAST[stream] = number, task, stream.batch(number, task, "forget")
    return last[2]


def mixed(retain: Batch, forget: Batch) -> tuple[Batch, Tensor]:
    """Both batches' rows in one, forget rows spread evenly, so that each process's share has its part of them.

    Returns:
        The batch, and which of its rows are forget rows, [B] of bool on the CPU.
    """
    counts = [count_rows(batch) for batch in (retain, forget)]
    order = torch.cat([(torch.arange(n, dtype=torch.float64) + 0.5) / n for n in counts]).argsort(stable=True)
    return cut(joined([retain, forget]), order), order >= counts[0]


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of all their rows, of the keys that each has."""
    if len(batches) == 1:
        return batches[0]
    return {key: torch.cat([b[key] for b in batches]) for key in batches[0] if all(key in b for b in batches)}


def repeat_rows(batch: Batch, count: int) -> Batch:
    """So many rows of a batch, from its first on and again where they run out, then under an `index` of their own."""
    rows = torch.arange(count, device=batch["index"].device)
    size = len(batch["index"])
    further = (rows // size) * (int(batch["index"].max()) + 1)
    chosen = cut(batch, rows % size)
    return {**chosen, "index": chosen["index"] + further}


def normalises(module: nn.Module) -> bool:
    """Whether a layer of the module, in its present mode, normalises by a batch's own statistics."""
    layers = (layer for layer in module.modules() if layer.training)
    return any(isinstance(getattr(layer, "running_mean", None), torch.Tensor) for layer in layers)


@contextmanager
def training_mode(state: State, batch: Batch) -> Iterator[None]:
    """The module in training mode, for a batch of forget rows alone.

    Running statistics stay as they are: like a retrained model's, they come from retain batches alone. A batch too
    small for statistics of its own is normalised by them.
    """
    set_training(state.module)
    few = count_rows(batch) < FEWEST
    with statistics(state.module, "running" if few else "batch"):
        yield


def frozen(module: nn.Module) -> nn.Module:
    """A copy of the module as it is now, in evaluation mode, that no step changes.

    Parameters that nobody trains are shared: where a part of a large model is trained, only that part is copied.
    """
    shared = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    return copy_module(module, shared).eval().requires_grad_(False)


def divergences_of(state: State, batch: Batch, teacher: nn.Module, temperature: float = 1.0) -> Tensor:
    """Divergence of the model's outputs from a teacher's, for this process's share of a batch, with gradient.

    Args:
        state: the run.
        batch: whole, as drawn.
        teacher: a frozen module.
        temperature: T, by which both outputs are divided.

    Returns:
        [B_p], ≥ 0.
    """
    return for_share(state, batch, lambda share: divergence(state, state.model, share, teacher, temperature))


def losses_and_divergences_of(
    state: State, batch: Batch, teacher: nn.Module, temperature: float, weights: tuple[float, float]
) -> Tensor:
    """The weighted sum of losses and divergences from a teacher, [B_p], from one pass through the model."""
    from untrain.models.once_per_batch import OncePerBatch

    def weighted(share: Batch) -> Tensor:
        model = OncePerBatch(state.model)
        losses = state.problem.task.loss(model, share)
        return weights[0] * losses + weights[1] * divergence(state, model, share, teacher, temperature)

    return for_share(state, batch, weighted)


def divergence(
    state: State, model: nn.Module, share: Batch, teacher: nn.Module, temperature: float, rows: Rows = ALL
) -> Tensor:
    """Divergence of the model's outputs for the whole share from a teacher's for some rows alone, [rows]."""
    task = state.problem.task
    with torch.no_grad():
        targets = task.outputs(teacher, cut(share, rows))
    return task.divergence(task.outputs(model, share)[rows], targets, temperature)


def labels_of(task: Task, batch: Batch) -> Tensor:
    """The classes of a batch's samples, [B] of int64.

    Raises:
        SettingError: if the task has none.
    """
    labels = task.condition(batch)
    if labels is None:
        raise SettingError(f"{type(task).__name__}.condition gives no class of a sample, which this method must know.")
    return labels


def check_holdout(problem: Problem, method: str) -> Stream:
    """The held-out set, which a method cannot do without.

    Raises:
        SettingError: if there is none.
    """
    if problem.holdout is None:
        raise SettingError(
            f"method {method!r} compares with samples that the model never saw: give them as holdout, in a recipe by "
            "forget.holdout."
        )
    return problem.holdout
