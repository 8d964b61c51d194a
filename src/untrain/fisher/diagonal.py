"""Fisher diagonal of any model whose samples do not influence each other, in little more than a training pass.

Layers that `layers` knows give their per-sample gradients during one ordinary backward pass; whatever else uses a
parameter goes to `fallback`. Which is which is not assumed but found out, batch by batch: the autograd graph shows
whether a parameter has uses that were not recorded, and a probe shows whether rows belong to samples as they seem to.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from untrain.engine import Engine, preserve_state
from untrain.errors import DataError, Diverged, EmptySet, ModelError, SettingError
from untrain.fisher.fallback import Losses
from untrain.fisher.recording import inspect, recorder
from untrain.fisher.samples import Findings, SampleSquares, check_losses
from untrain.rows import count_rows
from untrain.types import Batch, Estimator, Params, Task


def fisher_diagonal(
    model: nn.Module,
    task: Task,
    batches: Iterable[Batch],
    *,
    estimator: Estimator = "sample",
    engine: Engine | None = None,
    found: Findings | None = None,
) -> Params:
    """Diagonal of the empirical Fisher information, F_j = mean_n (∂ℓ_n / ∂θ_j)².

    One pass over the batches in evaluation mode. The model comes back as it was: modes, buffers, `.grad`,
    `requires_grad`; no random number generator moves. Memory beyond a training pass is a bounded workspace and one
    tensor a parameter.

    Args:
        model: the model; only its parameters with `requires_grad` are looked at.
        task: gives the losses [B].
        batches: batches as the task draws them; every tensor [B, …]. With several processes each gets all of them
            and takes its share.
        estimator: "sample" squares each sample's gradient, and does not depend on how samples are batched; "batch"
            squares the gradients of batch means and averages over batches, each counted once whatever its size, as
            published code does, and so depends on the batch size.
        engine: device, precision and processes; None: one process, the model's device and precision.
        found: what was found out of this model and task on other batches, and takes what is found out here; the model
            must not have changed, but for its weights' values.

    Returns:
        Parameter name → tensor of the parameter's shape, float32 or wider, ≥ 0; exactly 0 where the losses do not
        depend on a parameter.

    Raises:
        EmptySet: if there is no sample.
        DataError: if a batch holds values that are not finite.
        Diverged: if a loss or gradient is not finite.
        InexactFisher: if a sample's loss depends on other samples or on random numbers, or a gradient cannot be had.
        ModelError: if nothing is trainable or the task does not return one loss a sample.

    Source: Huang et al. 2024, eq. for the saliency matrix; reference/fisher.safetensors.
    """
    if estimator not in ("sample", "batch"):
        raise SettingError(f"estimator must be 'sample' or 'batch', not {estimator!r}.")
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ModelError("the model has no parameter with requires_grad, so it has no Fisher diagonal.")
    losses = Losses(model, task, engine.autocast if engine is not None else nullcontext)
    totals = {name: _zeros(p) for name, p in parameters.items()}
    with _undisturbed(model):
        if estimator == "batch":
            count = _add_batch_squares(losses, parameters, batches, totals, engine)
        else:
            count = _add_sample_squares(losses, parameters, batches, totals, engine, found or Findings())
    if count == 0:
        raise EmptySet("the Fisher diagonal needs at least one sample, but the batches hold none.")
    return {name: totals.pop(name).div_(count).contiguous() for name in parameters}


def _zeros(parameter: Tensor) -> Tensor:
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros_like(parameter, dtype=wide, requires_grad=False)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and gradients on inside; afterwards modes, buffers and random states are what they were."""
    with preserve_state(model), torch.inference_mode(False), torch.enable_grad():
        model.eval()
        yield


def _shares(batches: Iterable[Batch], engine: Engine | None, device: torch.device) -> Iterator[tuple[int, int, Batch]]:
    """(number of the batch, its size over all processes, this process's rows on the device); empty ones left out."""
    for number, batch in enumerate(batches):
        sizes = {len(value) for value in batch.values()}
        if len(sizes) != 1:
            raise DataError(f"the tensors of batch {number} have different lengths: {sorted(sizes)}.")
        size = sizes.pop()
        if size:
            own = batch if engine is None else engine.shard(batch)
            yield number, size, {key: value.to(device, non_blocking=True) for key, value in own.items()}


def _add_batch_squares(
    losses: Losses,
    parameters: Mapping[str, Tensor],
    batches: Iterable[Batch],
    totals: Params,
    engine: Engine | None,
) -> int:
    """Adds (∂ mean ℓ / ∂θ)² of every batch; with several processes gradients are summed before squaring."""
    count = 0
    device = _device(parameters, engine)
    for number, size, batch in _shares(batches, engine, device):
        grads: Sequence[Tensor | None] = [None] * len(totals)
        if count_rows(batch):
            found = losses(batch)
            check_losses(found, batch, number)
            inspect(found, [])
            grads = torch.autograd.grad(found.sum() / size, list(parameters.values()), allow_unused=True)
        means = [
            torch.zeros_like(t) if g is None else g.to(t.dtype) for t, g in zip(totals.values(), grads, strict=True)
        ]
        del grads
        if engine is not None:
            engine.all_reduce_(means)
        for total, mean in zip(totals.values(), means, strict=True):
            total.addcmul_(mean, mean)
        del means, mean  # or they would still be there beside the next batch's
        _check_finite(totals, number)
        count += 1
    return count


def _add_sample_squares(
    losses: Losses,
    parameters: Mapping[str, Tensor],
    batches: Iterable[Batch],
    totals: Params,
    engine: Engine | None,
    found: Findings,
) -> int:
    """Adds Σ_n (∂ℓ_n/∂θ)²; processes are summed once, at the end."""
    count = 0
    device = _device(parameters, engine)
    with recorder(losses.model, {id(p): name for name, p in parameters.items()}) as record:
        squares = SampleSquares(losses, parameters, totals, record, found)
        for number, size, batch in _shares(batches, engine, device):
            if count_rows(batch):
                squares.add(batch, number)
                _check_finite(totals, number)
            count += size
    if engine is not None:
        engine.all_reduce_(totals.values())
    return count


def _device(parameters: Mapping[str, Tensor], engine: Engine | None) -> torch.device:
    return engine.device if engine is not None else next(iter(parameters.values())).device


def _check_finite(totals: Params, number: int) -> None:
    """One pass over the sums after each batch, so that the message can name the batch."""
    norms = torch._foreach_norm(list(totals.values()))
    for name, norm in zip(totals, norms, strict=True):
        if not bool(norm.isfinite()):
            raise Diverged(
                f"a per-sample gradient of {name!r} in batch {number} is not finite although the losses are. "
                "Check the model's weights, or use a wider precision."
            )
