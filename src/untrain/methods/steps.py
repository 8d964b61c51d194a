"""What the steps of methods are made of: batches, losses, one optimiser step. Each is written once, for any number of
processes and any precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from untrain.data.streams import Stream
from untrain.engine import Engine, local_parts, preserve_modes
from untrain.errors import Diverged, ModelError, SettingError
from untrain.lazy import nn, torch
from untrain.methods.base import Decay, Optimizer, Problem, State
from untrain.models.modes import set_training
from untrain.rows import count_rows, cut, parts_of
from untrain.types import Batch, Task

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim.lr_scheduler import LRScheduler

FEWEST = 16
"""Rows that batch normalisation needs, to take statistics of a batch or of a part of one."""


def schedule(optimizer: torch.optim.Optimizer, decay: Decay, steps: int) -> LRScheduler:
    """The learning-rate schedule over this many optimiser steps; stepped after each."""
    if decay == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def sample_losses(
    task: Task, module: nn.Module, stream: Stream, engine: Engine, title: str, limit: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """The loss of each sample of a set, the module in evaluation mode; the same in every process.

    Args:
        task: of the losses.
        module: left in evaluation mode.
        stream: the set.
        engine: computes this process's share of each batch.
        title: of the progress bar.
        limit: take about so many samples; None: all.

    Returns:
        Losses, float64 [N], and the samples' conditions [N], None where they have none.
    """
    module.eval()
    losses, conditions = list[torch.Tensor](), list[torch.Tensor | None]()
    with torch.no_grad():
        for batch in engine.track(stream.once(task, "evaluate", limit=limit), title, stream.passes(limit)):
            with engine.forward_pass():
                losses.append(engine.gather(task.loss(module, engine.shard(batch)).double()))
            conditions.append(task.condition(batch))
    known = [condition for condition in conditions if condition is not None]
    return torch.cat(losses), torch.cat(known) if len(known) == len(losses) else None


def rate_of(state: State, optimizer: str = "optimizer") -> float:
    """The learning rate of an optimiser's next step."""
    return float(state.optimizers[optimizer].param_groups[0]["lr"])


def descend(
    state: State,
    optimizer: str,
    *,
    weight: float = 1.0,
    max_norm: float | None = None,
    penalty: Callable[[], Tensor] | None = None,
    split: int = 1,
) -> float:
    """One training step on the next retain batch, or one on each of its parts; returns its mean loss.

    Args:
        state: the run; its count of retain batches moves on.
        optimizer: the optimiser's name in the state; its schedule is stepped too.
        weight: the loss is multiplied by this.
        max_norm: gradients are clipped to this norm.
        penalty: gives a scalar of the weights alone, added to the weighted loss.
        split: number of parts.
    """
    engine, values = state.engine, []
    for part in parts_of(next_retain_batch(state), split):
        loss = engine.mean(losses_of(state, part))
        values.append(finite(engine, loss, "retain"))
        objective = weight * loss
        if penalty is not None:
            objective = objective + penalty() / engine.num_processes  # gradients are summed over the processes
        minimise(state, optimizer, objective, max_norm=max_norm)
    return fmean(values)


def fitting_split(split: int, problem: Problem) -> int:
    """In how many parts, of so many, retain batches can be taken: in one where they come ready, and in none of under
    16 rows.
    """
    return 1 if problem.retain.ready else max(1, min(split, problem.retain.rows // FEWEST))


def for_parts(optimizer: Optimizer, split: int, given: Optimizer | None) -> Optimizer:
    """The optimiser with its rate divided so that parts move weights as far as the batch: by their number for SGD, by
    its root where steps are scaled to their gradients. A rate that was given stays.

    Args:
        optimizer: with the rate for whole batches.
        split: number of parts.
        given: the optimiser as the user gave it; None: none was.
    """
    if optimizer.lr is None or (given is not None and given.lr is not None):
        return optimizer
    return replace(optimizer, lr=optimizer.lr / (split if optimizer.name == "sgd" else math.sqrt(split)))


def average(state: State, decay: float, k: int) -> None:
    """Moves the averaged weights after step k: θ̄ = Σ_i d^(k−i) θ_i / Σ_i d^(k−i) over the steps 0 … k.

    As Adam corrects its moments (Kingma, Ba 2015, section 3): the weights before the first step have no part in it, so
    an average of few steps is one of those steps and not of what training began with.
    """
    if state.averaged is None:
        return
    weight = (1 - decay) / (1 - decay ** (k + 1))
    with torch.no_grad():
        both = (local_parts(module.state_dict().values()) for module in (state.averaged, state.module))
        for mean, now in zip(*both, strict=True):
            mean.lerp_(now, weight) if mean.is_floating_point() else mean.copy_(now)


def next_retain_batch(state: State) -> Batch:
    """The next retain batch, the module in training mode; the count of retain batches moves on."""
    batch = state.problem.retain.batch(state.retained, state.problem.task, "retain")
    set_training(state.module)
    state.retained += 1
    return batch


def minimise(
    state: State,
    optimizer: str,
    objective: Tensor,
    *,
    mask: list[Tensor] | None = None,
    max_norm: float | None = None,
) -> None:
    """One optimiser step down this process's part of an objective; the optimiser's schedule is stepped too."""
    state.optimizers[optimizer].zero_grad()
    state.engine.backward(objective, state.parameters)
    update(state, optimizer, mask=mask, max_norm=max_norm)
    state.schedules[optimizer].step()


def advance(
    state: State,
    name: str,
    loss: Tensor,
    *,
    up: bool = False,
    mask: list[Tensor] | None = None,
    max_norm: float | None = None,
) -> dict[str, float]:
    """One step of the optimiser called "optimizer", down this process's part of a loss or `up`; returns what to log."""
    value = finite(state.engine, loss, name)
    minimise(state, "optimizer", -loss if up else loss, mask=mask, max_norm=max_norm)
    return {f"{name}_loss": value, "lr": rate_of(state)}


def update(state: State, optimizer: str, *, mask: list[Tensor] | None = None, max_norm: float | None = None) -> None:
    """One optimiser step on the gradients at hand: unscaled, masked, clipped, in this order."""
    chosen = state.optimizers[optimizer]
    state.engine.scaler.unscale_(chosen)
    if mask is not None:
        gradients = [parameter.grad for parameter in state.parameters if parameter.grad is not None]
        torch._foreach_mul_(local_parts(gradients), local_parts(mask))
    if max_norm is not None:
        torch.nn.utils.clip_grad_norm_(state.parameters, max_norm)
    state.engine.step(chosen)


def losses_of(state: State, batch: Batch, *, redirect: nn.Module | None = None) -> Tensor:
    """Per-sample losses of this process's share of a batch, with gradient.

    Args:
        state: the run.
        batch: whole, as drawn.
        redirect: the teacher of the redirect loss; None: the training loss.

    Returns:
        [B_p]; of an empty share, an empty tensor without gradient.

    Raises:
        SettingError: if a batch of one sample meets batch normalisation.
    """
    task = state.problem.task
    if redirect is not None:
        return for_share(state, batch, lambda share: task.redirect_loss(state.model, share, redirect))
    return for_share(state, batch, lambda share: task.loss(state.model, share))


def for_share(state: State, batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
    """Per-sample values of this process's share of a batch, in the engine's precision.

    With a microbatch the share passes in parts: their values are joined, so that whatever is made of the whole batch's
    values is made as ever, and each part's activations are computed a second time when its gradient is asked for.

    Args:
        state: the run.
        batch: whole, as drawn.
        compute: share → [B_p].

    Returns:
        [B_p]; of an empty share, an empty tensor without gradient, or of divided weights with one of zeros.

    Raises:
        SettingError: if a batch of one sample meets batch normalisation.
    """
    share = state.engine.shard(batch)
    rows = count_rows(share)
    if not rows and state.divided is None:
        return state.parameters[0].new_zeros(0, requires_grad=False)  # of the type that other processes sum
    try:
        with state.engine.forward_pass():
            if not rows:  # the others wait for this process's weights: it passes a sample, and takes nothing of it
                return compute(cut(batch, slice(1)))[:0]
            return _in_parts(state, share, compute)
    except ModelError as error:
        if "more than 1 value per channel" in str(error):
            raise SettingError(
                "a training batch of one sample reached a batch normalisation layer, which needs at least two: "
                "raise batch_size, or leave the single sample out."
            ) from error.__cause__
        raise


def _in_parts(state: State, share: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
    """Per-sample values [B_p] of a share, a part of it at a time where the engine says so.

    Each part is a checkpoint (Chen et al. 2016, *Training deep nets with sublinear memory cost*): only its values stay,
    and the backward pass goes through one part after the other.
    """
    from torch.utils.checkpoint import checkpoint

    parts = state.engine.parts(share)
    if len(parts) == 1:
        return compute(share)
    if not torch.is_grad_enabled():
        return torch.cat([compute(part) for part in parts])
    modes = [(layer, layer.training) for layer in state.module.modules()]

    def again(part: Batch) -> Tensor:
        with preserve_modes(state.module):  # by the backward pass, the step may have left the mode it computed in
            for layer, mode in modes:
                layer.training = mode
            return compute(part)

    return torch.cat([checkpoint(again, part, use_reentrant=False) for part in parts])


def mask_of(state: State) -> list[Tensor] | None:
    """The problem's mask, one bool tensor a trainable parameter; None where it has none."""
    mask = state.problem.memo.get("mask") if state.mask is None else state.mask
    if mask is None:
        return None
    return [mask[name] for name, p in state.module.named_parameters() if p.requires_grad]


def finite(engine: Engine, loss: Tensor, name: str) -> float:
    """The loss summed over processes, as a number; an error if it is NaN or infinite."""
    value = float(engine.global_sum(loss))
    if not math.isfinite(value):
        raise Diverged(f"the {name} loss became {value}. Lower the learning rate, or clip gradients (max_norm).")
    return value
