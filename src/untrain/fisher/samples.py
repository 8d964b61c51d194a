"""Sums of squared per-sample gradients, batch by batch, each parameter by the cheapest way that is exact for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from untrain.errors import DataError, Diverged, InexactFisher, ModelError
from untrain.fisher import layers
from untrain.fisher.broadcast import Broadcast, Layout
from untrain.fisher.fallback import Fallback, Losses, close
from untrain.fisher.recording import Recorder, Use, inspect, release
from untrain.rows import count_rows, cut
from untrain.types import Batch, Params

CHUNK_BYTES = {"cpu": 2 * 2**20, "other": 64 * 2**20}
"""Size of the largest tensor of one chunk of samples, unless one sample's is larger. On a CPU a chunk should stay in
the cache: on 2 cores with 1 MiB each of second-level cache, ResNet-20 and ResNet-18 take the same time with 1 to
4 MiB and a tenth to a quarter more with 8; larger chunks make fewer calls."""

PROBES = 3
"""Samples in a probe; few layouts have a dimension that is a multiple of 3 by accident, and those it sees through."""


@dataclass
class Findings:
    """What probes found out of a model; it holds for other batches too, so that each model is probed once.

    Attributes:
        separate: the layouts that hold.
        seen: the layouts that a probe was made for.
        sizes: whether batches of one (False) and of several samples (True) were probed.
    """

    separate: set[Layout] = field(default_factory=set)
    seen: set[Layout | None] = field(default_factory=set)
    sizes: set[bool] = field(default_factory=set)


class SampleSquares:
    """Adds Σ_n (∂ℓ_n/∂θ)² of batches to running totals.

    Args:
        losses: the model's losses.
        parameters: what is wanted, by name.
        totals: the running sums, by name.
        record: the hooks on the model.
        found: what is known of the model.
    """

    def __init__(
        self,
        losses: Losses,
        parameters: Mapping[str, Tensor],
        totals: Params,
        record: Recorder,
        found: Findings,
    ) -> None:
        self.losses = losses
        self.parameters = parameters
        self.totals = totals
        self.record = record
        self.fallback = Fallback(losses)
        self.probe = Probe(losses, record, found)

    def add(self, batch: Batch, number: int) -> None:
        """Adds the squares of batch `number`."""
        uses: list[Use] = []
        try:
            with self.record.forward(uses):
                losses = self.losses(batch)
            check_losses(losses, batch, number)
            left = self._add_recorded(batch, losses, uses)
        finally:
            release(uses)
        del losses
        if left:
            chosen = {name: p for name, p in self.parameters.items() if name in left}
            for gradients in self.fallback.gradients(chosen, batch):
                for name, gradient in gradients.items():  # these may share memory: nothing in place
                    self.totals[name] += gradient.to(self.totals[name].dtype).square().sum(0)

    def _add_recorded(self, batch: Batch, losses: Tensor, uses: list[Use]) -> set[str]:
        """Adds what the recorded uses give; returns the names of the parameters for which they do not suffice."""
        graph = inspect(losses, uses)
        samples = len(losses)
        uses_of: dict[str, list[Use]] = {name: [] for name in self.parameters}
        for use in graph.uses:
            for name in use.keys.values():
                uses_of[name].append(use)
        spread: dict[str, list[Broadcast]] = {}
        for name, parameter in self.parameters.items():
            operations = graph.operations.get(id(parameter), 0)
            alike = operations == len(uses_of[name]) and all(use.layout(samples) for use in uses_of[name])
            if not alike or (operations == 0 and graph.opaque):
                del uses_of[name]
                spread[name] = [] if operations == 0 else graph.broadcasts(name, parameter, samples) or []
        layouts = {use.layout(samples) for use in graph.uses}
        self.probe.see(batch, losses, layouts, {each.layout: each.name for s in spread.values() for each in s})
        known = [each for each in spread.values() if each and self.probe.trusts(each, samples)]
        arrivals = Arrivals(self.totals, uses_of, samples, self.probe.found.separate)
        places = [place for each in known for place in each]
        found = iter(
            self.record.backward(
                losses,
                torch.ones_like(losses),
                graph.roots,
                arrivals.take,
                also=[place.edge for place in places],
                retain=False,
            )
        )
        for each in known:
            _add_broadcasts(self.totals[each[0].name], [(place, next(found)) for place in each])
        return spread.keys() - {each[0].name for each in known} | arrivals.left()


class Arrivals:
    """Turns output gradients into sums of squares as they arrive during one backward pass.

    A parameter that is used several times has its per-sample gradients summed before they are squared, so its uses
    wait for the last of them.

    Args:
        totals: the running sums, by name.
        uses_of: the uses that make up each parameter's gradient.
        samples: B.
        separate: layouts that are known to hold.
    """

    def __init__(self, totals: Params, uses_of: Mapping[str, list[Use]], samples: int, separate: set[Layout]) -> None:
        self.totals = totals
        self.outstanding = {name: len(uses) for name, uses in uses_of.items()}
        self.waiting: dict[str, list[Part]] = {name: [] for name in uses_of}
        self.samples = samples
        self.separate = separate
        self.unclear: set[str] = set()

    def take(self, use: Use, grad: Tensor | None) -> None:
        """Takes the gradient of one use's output; None stands for zeros."""
        layout = use.layout(self.samples)
        known = layout is not None and (self.samples == 1 or layout in self.separate)
        # A layout that no probe could see, because gradients there were zero, matters only if they no longer are.
        zero = grad is None or (not known and not bool(grad.any()))
        for own, name in use.keys.items():
            if name not in self.outstanding or name in self.unclear:
                continue
            self.outstanding[name] -= 1
            if not zero and not known:
                self.unclear.add(name)
                self.waiting[name].clear()
                continue
            if grad is not None and not zero:
                rows = use.rows(self.samples) if own == "weight" else use.input.unflatten(0, (self.samples, -1))
                self.waiting[name].append((use, own, rows, grad.detach().unflatten(0, (self.samples, -1))))
            if self.outstanding[name] == 0:
                _add_parts(self.totals[name], self.waiting.pop(name))

    def left(self) -> set[str]:
        """Parameters of which nothing was added: a layout was not known, or a gradient never came."""
        return self.unclear | {name for name, count in self.outstanding.items() if count}


Part = tuple[Use, str, Tensor, Tensor]
"""A use, the parameter's name in its module, the input [B, k, …], the output's gradient [B, k, …]."""


def _add_parts(total: Tensor, parts: list[Part]) -> None:
    """Adds Σ_n (Σ_parts ∂ℓ_n/∂θ)² to the total, in chunks of samples."""
    if not parts:
        return
    parts = [(use, own, _as_float(rows, total), grad.to(total.dtype)) for use, own, rows, grad in parts]
    if len(parts) == 1:
        use, own, rows, grad = parts[0]
        squares = layers.squares(use.module, own, rows, grad)
        if squares is not None:
            total.add_(squares)
            return
    samples = len(parts[0][3])
    budget = CHUNK_BYTES["cpu" if total.device.type == "cpu" else "other"]
    largest = max(total.numel(), *(t[0].numel() for part in parts for t in part[2:]))
    step = max(1, budget // (largest * total.element_size()))
    for first in range(0, samples, step):
        chunk = slice(first, first + step)
        gradient: Tensor | None = None
        for use, own, rows, grad in parts:
            part = use.gradient(use.module, own, rows[chunk], grad[chunk])
            gradient = part if gradient is None else gradient.add_(part)
        if gradient is not None:
            _add_squares(total, gradient)


def _add_broadcasts(total: Tensor, places: list[tuple[Broadcast, Tensor | None]]) -> None:
    """Adds Σ_n (Σ_places ∂ℓ_n/∂θ)² of a parameter that is broadcast over samples, in chunks of samples."""
    there = [(place, place.rows(grad.to(total.dtype))) for place, grad in places if grad is not None]
    if not there:
        return
    samples = len(there[0][1])
    step = max(1, CHUNK_BYTES["other"] // (total.numel() * total.element_size()))
    for first in range(0, samples, step):
        parts = [place.gradients(rows[first : first + step]) for place, rows in there]
        total.add_((sum(parts[1:], parts[0])).square().sum(0))


def _as_float(rows: Tensor, like: Tensor) -> Tensor:
    return rows.to(like.dtype) if rows.is_floating_point() else rows


def _add_squares(total: Tensor, gradient: Tensor) -> None:
    """Adds Σ_n gradient[n]² to the total; `gradient` [b, *shape] is overwritten."""
    if len(gradient) == 1:
        total.addcmul_(gradient[0], gradient[0])
    else:
        total.add_(gradient.square_().sum(0))


class Probe:
    """Finds out on a few samples whether rows belong to samples as they seem to, and samples to themselves.

    The gradients of one sample's loss alone must be exactly zero in the rows of all other samples. Then the rows of
    a sample hold all of its gradient, whatever the model does between its layers. Zeros are exact, so there is no
    tolerance to choose. A layer is trusted once two samples at least have shown a gradient there.

    Args:
        losses: the model's losses.
        record: the hooks on the model.
        found: takes what is found out.
    """

    def __init__(self, losses: Losses, record: Recorder, found: Findings) -> None:
        self.losses = losses
        self.record = record
        self.found = found

    def trusts(self, places: list[Broadcast], samples: int) -> bool:
        """Whether the rows of all places where a parameter is broadcast are known to belong to samples."""
        return samples == 1 or all(place.layout in self.found.separate for place in places)

    def see(self, batch: Batch, losses: Tensor, layouts: set[Layout | None], spread: Mapping[Layout, str] = {}) -> None:
        """Probes the batch if it shows anything new. Nothing can be mixed up in a batch of one.

        Args:
            batch: the batch.
            losses: of it.
            layouts: of the recorded uses.
            spread: layout of each place where a parameter is broadcast → the parameter's name.

        Raises:
            InexactFisher: if a sample's loss depends on the other samples or on random numbers.
        """
        several = len(losses) > 1
        layouts = {*layouts, *spread}
        if several in self.found.sizes and (not several or self.found.seen.issuperset(layouts)):
            return
        # The samples with the largest losses: a loss near zero has a gradient that may be zero everywhere.
        rows = losses.detach().topk(min(PROBES, len(losses))).indices.sort().values
        few = cut(batch, rows)
        uses: list[Use] = []
        before = _random_state(losses.device)
        try:
            if several:
                with self.record.forward(uses):
                    probed = self.losses(few)
            else:
                probed = _values(self.losses, few)
            self._check_purity(few, probed.detach(), drawn=not torch.equal(before, _random_state(losses.device)))
            self.found.sizes.add(several)
            if several:
                self._check_separation(probed, uses, {*spread.values()})
                self.found.seen |= layouts
        finally:
            release(uses)

    def _check_purity(self, batch: Batch, losses: Tensor, *, drawn: bool) -> None:
        """The loss of a sample must stay the same when the others are replaced, and when it is computed again.

        Shapes and positions are the same each time, so the numbers should be too, to the last bit; the tolerance is
        for devices that sum in varying order.

        Args:
            batch: a few samples.
            losses: of them.
            drawn: whether a generator moved when they were computed.
        """
        tolerance = (1e-2 if self.losses.coarse(losses.device) else 1e-4) * (losses.abs().max() + 1e-6)
        # A few times, since a small model's dropout can fall on the same units twice.
        for _ in range(8 if drawn else 0):
            self._check_repeats(batch, losses, tolerance)
        for row in sorted({0, len(losses) - 1}):
            alone = {key: value[row : row + 1].expand_as(value).contiguous() for key, value in batch.items()}
            if bool((_values(self.losses, alone)[row] - losses[row]).abs() > tolerance):
                self._check_repeats(batch, losses, tolerance)
                raise InexactFisher(
                    "the loss of a sample changes with the other samples of its batch, so there is no per-sample "
                    f"gradient.{_mixers(self.losses.model)} Use batches of one sample, or change the model."
                )

    def _check_repeats(self, batch: Batch, losses: Tensor, tolerance: Tensor) -> None:
        if bool(((_values(self.losses, batch) - losses).abs() > tolerance).any()):
            raise InexactFisher(
                "the loss of the same batch differs from one call to the next, so it draws random numbers in "
                "evaluation mode. Draw them in the task's draw(), and switch off random layers when not training."
            )

    def _check_separation(self, losses: Tensor, uses: list[Use], spread: set[str]) -> None:
        """Sends one sample's gradient back at a time; two of three that show one everywhere rule out any exchange."""
        graph = inspect(losses, uses)
        weights = {name: p for name, p in self.losses.model.named_parameters() if name in spread}
        found = {name: graph.broadcasts(name, p, len(losses)) or [] for name, p in weights.items()}
        places = [place for each in found.values() for place in each]
        wanted = {layout for use in graph.uses if (layout := use.layout(len(losses))) is not None}
        wanted |= {place.layout for place in places}
        shown: dict[Layout, int] = {}
        broken: set[Layout] = set()
        for sample in range(len(losses) if graph.roots or places else 0):
            if all(layout in broken or shown.get(layout, 0) > 1 for layout in wanted):
                break
            touch = partial(_touch, sample, shown, broken)

            def look(use: Use, grad: Tensor | None, touch: Callable[[Layout, Tensor], None] = touch) -> None:
                layout = use.layout(len(losses))
                if layout is not None and grad is not None:
                    touch(layout, grad.reshape(len(losses), -1))

            seed = torch.zeros_like(losses)
            seed[sample] = 1
            also = [*(place.edge for place in places), *(weights.values() if sample == 0 else ())]
            grads = self.record.backward(losses, seed, graph.roots, look, also=also, retain=sample + 1 < len(losses))
            for place, grad in zip(places, grads, strict=False):
                if grad is not None:
                    touch(place.layout, grad.reshape(len(losses), -1))
            if sample == 0:
                broken |= _wrong(found, weights, grads)
        self.found.separate |= {layout for layout, count in shown.items() if count > 1}
        self.found.separate -= broken


def _values(losses: Losses, batch: Batch) -> Tensor:
    """Losses [B] without what their gradients would need, computed as they are with it: without a graph a model may
    take another way. Beside the graph of a large model's batch there is hardly room for another.
    """
    try:
        with torch.autograd.graph.saved_tensors_hooks(_forget, _forget):
            return losses(batch).detach()
    except ModelError:  # transforms of torch.func within a model refuse such hooks
        return losses(batch).detach()


def _forget(_: Any) -> Any:
    """What is saved for a gradient that nobody asks for."""
    return None


def _touch(sample: int, shown: dict[Layout, int], broken: set[Layout], layout: Layout, rows: Tensor) -> None:
    """Notes where the gradient [B, …] of one sample's loss is not zero: in its own row, or in another's."""
    touched = rows.ne(0).any(1)
    shown[layout] = shown.get(layout, 0) + int(touched[sample])
    if int(touched.sum()) > int(touched[sample]):
        broken.add(layout)


def _wrong(
    found: Mapping[str, list[Broadcast]], weights: Mapping[str, Tensor], grads: Sequence[Tensor | None]
) -> set[Layout]:
    """Layouts of parameters whose gradient of the first sample is not what autograd gives: hooks may change that.

    Args:
        found: the places where each parameter is broadcast.
        weights: the parameters.
        grads: gradients of the first sample's loss: where the places are, then of the parameters.
    """
    wrong: set[Layout] = set()
    arrived = iter(grads)
    parts = {
        name: [place.gradients(place.rows(grad)[:1])[0] for place in each if (grad := next(arrived)) is not None]
        for name, each in found.items()
    }
    for (name, each), expected in zip(found.items(), arrived, strict=True):
        own = sum(parts[name][1:], parts[name][0]) if parts[name] else torch.zeros_like(weights[name])
        if not close(own, torch.zeros_like(own) if expected is None else expected):
            wrong |= {place.layout for place in each}
    return wrong


def check_losses(losses: Tensor, batch: Batch, number: int) -> None:
    """Raises unless the losses are one finite number a sample.

    Raises:
        ModelError: if they are not [B].
        DataError: if a value of the batch is not finite.
        Diverged: if a loss is not finite although the batch is.
    """
    samples = count_rows(batch)
    if losses.shape != (samples,):
        raise ModelError(
            f"the task's loss must return one loss a sample, shape ({samples},), but returned {tuple(losses.shape)}. "
            "Leave the reduction out (reduction='none')."
        )
    bad = (~losses.detach().isfinite()).nonzero()
    if not len(bad):
        return
    row = int(bad[0])
    name = f"sample {row} of batch {number}"
    if "index" in batch:
        name += f" (index {int(batch['index'][row])})"
    for key, value in batch.items():
        if value.is_floating_point() and not bool(value[row].isfinite().all()):
            raise DataError(f"{key!r} of {name} holds values that are not finite. Remove or repair that sample.")
    raise Diverged(
        f"the loss of {name} is {float(losses[row].detach())}. Check the model's weights, or use a wider precision."
    )


def _mixers(model: nn.Module) -> str:
    """Names the normalisation layers that use the batch's statistics even in evaluation mode."""
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.running_mean is None or module.training)
    ]
    listed = ", ".join(map(repr, names[:5]))
    return f" Batch norm without running statistics: {listed}." if names else ""


def _random_state(device: torch.device) -> Tensor:
    """The states of the generators that a model would draw from."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)
