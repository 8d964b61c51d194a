"""A method's steps without values: shapes alone, on the meta device, which tell memory and passes before a run begins.

The method's own code runs, whatever it is: its start, and a few of its steps. What it asks of a number is answered by
1, of a comparison by yes; no sample is read beyond one batch's shapes, and no weight has a value. So all that does not
depend on values is exact, and what does (a rate that is searched, a loss that decides when to stop) is said to be a
guess.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import LARGE, Method, Problem, State
from untrain.methods.learning_rate import most_passes
from untrain.methods.loop import attach_adapters
from untrain.methods.shortfalls import forget_loss, forget_loss_before
from untrain.types import Batch, Role, Task

META = torch.device("meta")
ASKED = 100_000
"""Numbers that one method may ask for: a loop that waits for a value would never end."""


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of all tensors on a device that are alive, and their peak, while it is entered.

    Tensors are counted by their storages, from the operation that makes them to the moment they are freed. What a
    library allocates within an operation (workspaces of convolutions) is no tensor and is not counted, nor is what an
    allocator holds in reserve.

    Args:
        device: whose tensors are counted.

    Attributes:
        live: bytes at this moment.
        peak: the most that there were at one moment.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation and counts what it makes."""
        made = self.answer(func, args, kwargs or {})
        self.count(made)
        return made

    def answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation."""
        return func(*args, **kwargs)

    def count(self, tensors: Any) -> int:
        """Counts tensors, anywhere in nested lists and mappings, that are not counted yet; returns their bytes."""
        added = 0
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor) and tensor.device.type == self.device.type:
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._sizes:
                    self._sizes[key] = storage.nbytes()
                    added += self._sizes[key]
                    weakref.finalize(storage, self._freed, key).atexit = False
        self.live += added
        self.peak = max(self.peak, self.live)
        return added

    def _freed(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


class ShapesAlone(TensorMemory):
    """Memory of tensors without values: what an operation asks of a value is answered by 1, or by “none”."""

    def __init__(self) -> None:
        super().__init__(META)
        self.asked = 0

    def answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of an operation, or a number in its place."""
        aten = torch.ops.aten
        packet = getattr(func, "overloadpacket", None)
        if packet is aten._local_scalar_dense and args[0].is_meta:
            self.asked += 1
            if self.asked > ASKED:
                raise SettingError("it goes on until some value is reached, which nobody knows before it runs.")
            kind = args[0].dtype
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        if packet is aten.equal and args[0].is_meta:
            return True
        if packet is aten._unique2 and args[0].is_meta:  # as many as there can be
            flat = args[0].reshape(-1)
            return flat.clone(), torch.empty_like(args[0], dtype=torch.int64), torch.empty_like(flat, dtype=torch.int64)
        if packet is aten.nonzero and args[0].is_meta:  # of what would be wrong: nothing is
            return args[0].new_empty((0, args[0].ndim), dtype=torch.int64)
        if packet in (aten.index, aten.index_put, aten.index_put_) and args[0].is_meta:
            return func(args[0], _all_of(args[1]), *args[2:], **kwargs)
        if packet is aten._to_copy and args[0].is_meta and _device_of(kwargs) not in (None, "meta"):
            return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if packet is aten.copy_ and args[1].is_meta and not args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)


def _all_of(indices: Any) -> list[Tensor | None]:
    """Indices in which a mask is taken to choose all, since nobody knows how many it chooses."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.is_meta and index.dtype == torch.bool:
            found += [torch.empty(index.numel(), dtype=torch.int64, device=META) for _ in range(index.ndim)]
        else:
            found.append(index)
    return found


def _device_of(kwargs: Any) -> str | None:
    device = kwargs.get("device")
    return None if device is None else torch.device(device).type


@dataclass
class Passes:
    """Batches that went through a model.

    Attributes:
        forward: forward passes, those of copies and teachers included.
        backward: backward passes.
    """

    forward: float = 0.0
    backward: float = 0.0

    def __sub__(self, other: "Passes") -> "Passes":
        """What came since the other was noted."""
        return Passes(self.forward - other.forward, self.backward - other.backward)

    def add(self, other: "Passes", times: float = 1.0) -> None:
        """Adds others, so many times."""
        self.forward += times * other.forward
        self.backward += times * other.backward

    def copy(self) -> "Passes":
        """Notes what there is now."""
        return Passes(self.forward, self.backward)


@dataclass(eq=False)
class CountingEngine(Engine):
    """An engine without a device, which counts passes.

    It says that it is not the main process, and so writes and says nothing.

    Attributes:
        passes: those so far, of engines that were made of this one too.
    """

    device: torch.device = META
    process: int = 1
    passes: Passes = field(default_factory=Passes)

    def backward(self, loss: Tensor, parameters: Any, *, retain: bool = False) -> None:
        """Counts it, too."""
        self.passes.backward += 1
        super().backward(loss, parameters, retain=retain)

    @contextmanager
    def counting(self, module: nn.Module) -> Iterator[None]:
        """Counts forward passes of a model, and of the copies that are made of it meanwhile."""
        hook = module.register_forward_hook(_ForwardCount(self.passes))
        try:
            yield
        finally:
            hook.remove()


@dataclass(eq=False)
class _ForwardCount:
    """A hook that counts, and that copies of a model share: it is no function of the model, so it can go along."""

    passes: Passes

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.passes.forward += 1

    def __deepcopy__(self, memo: Any) -> "_ForwardCount":
        return self


class ShapedStream(Stream):
    """A set of which no more than one batch's shapes is looked at: every batch is the same few samples.

    Args:
        stream: the set.
        few: a batch as read, not yet drawn, on the CPU; its rows stand for all samples. None: the set's own batches.
        engine: counts passes.
    """

    def __init__(self, stream: Stream, few: Batch | None, engine: CountingEngine) -> None:
        self.__dict__.update(stream.__dict__)
        self.few = few
        self.counter = engine

    def batch(self, k: int, task: Task, role: Role) -> Batch:
        """Batch k, without values."""
        if self.few is None:
            return _without_values(super().batch(k, task, role))
        return self._shaped(self.rows, task, role)

    def once(
        self, task: Task, role: Role, *, limit: int | None = None, batch_size: int | None = None, time: int = 0
    ) -> Iterator[Batch]:
        """One batch in place of all; the passes that it is used for count as often as there are batches."""
        rows = batch_size or self.batch_size
        samples = self.size if limit is None else min(limit, self.size)
        times = len(self.data) if self.ready else -(-samples // rows)
        before = self.counter.passes.copy()
        yield self._shaped(min(rows, samples), task, role)
        self.counter.passes.add(self.counter.passes - before, times - 1)

    def some(self, positions: Tensor, task: Task, role: Role) -> Iterator[Batch]:
        """One batch in place of all, likewise."""
        times = -(-len(positions) // self.batch_size)
        if times:
            before = self.counter.passes.copy()
            yield self._shaped(min(self.batch_size, len(positions)), task, role)
            self.counter.passes.add(self.counter.passes - before, times - 1)

    def _shaped(self, rows: int, task: Task, role: Role) -> Batch:
        if self.few is None:
            positions = torch.arange(rows) % self.size
            raw = self.gather(positions, "shapes") if not self.ready else self.data[0]
        else:
            first = len(next(iter(self.few.values())))
            raw = {key: value[torch.arange(rows) % first] for key, value in self.few.items()}
        return _without_values(task.draw(raw, torch.Generator().manual_seed(0), role))


def _without_values(batch: Batch) -> Batch:
    return {key: value.to(META) for key, value in batch.items()}


class ShapedProblem(Problem):
    """A problem without values: what would be searched for is taken to be found."""

    searched = False

    def remember(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The result called `name`; of a search for a learning rate any rate."""
        if name == "learning rate" and name not in self.memo:
            self.searched = True
            self.memo[name] = {key: torch.tensor(1e-3, dtype=torch.float64) for key in ("lr", "passes")}
        return super().remember(name, compute)


@dataclass(frozen=True)
class Footprint:
    """What one method, or the training of one model, takes on one device.

    Attributes:
        weights: bytes of the model that is changed, buffers included.
        gradients: bytes of gradients.
        optimizer: bytes of the states of all optimisers.
        found: bytes of what is found before the first step and kept: masks, Fisher diagonals.
        copies: bytes of frozen copies, averages and the last good weights.
        activations: bytes of everything else at the peak: activations, batches, what an operation needs in between.
        saved: bytes of the checkpoint that the run goes on from, on disk, while it lasts.
        mask: bytes of the mask that stays on disk.
        learned: bytes of the adapters that the run keeps in the place of weights, on disk; None: it trains weights.
        steps: the method's steps.
        before: passes before the first step and after the last.
        each: passes of a step, on average over those that were tried.
        guesses: what is a guess, as sentences.
    """

    weights: int
    gradients: int
    optimizer: int
    found: int
    copies: int
    activations: int
    saved: int
    mask: int
    learned: int | None
    steps: int
    before: Passes
    each: Passes
    guesses: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Bytes at the peak."""
        return self.weights + self.gradients + self.optimizer + self.found + self.copies + self.activations

    @property
    def passes(self) -> Passes:
        """Of the whole run."""
        found = self.before.copy()
        found.add(self.each, self.steps)
        return found


def try_method(method: Method, problem: ShapedProblem, engine: CountingEngine) -> Footprint:
    """Runs a method's start and some of its steps without values.

    Args:
        method: its settings may be open.
        problem: its module on the meta device, its sets `ShapedStream`.
        engine: counts.

    Raises:
        Exception: whatever the method raises where it cannot do without values.
    """
    module, memory = problem.subject.module, ShapesAlone()
    guesses = []
    if problem.subject.adapters is not None:
        attach_adapters(problem)
    with memory, engine.counting(module):
        memory.count([*module.parameters(), *module.buffers()])
        before = engine.passes.copy()
        method = method.resolved(problem, engine)
        forget_loss_before(problem, engine)
        forget_loss(problem, module, engine)  # the loop looks at it again after the last step
        state = method.start(problem, engine)
        start = engine.passes - before
        if problem.searched:
            most = most_passes(method.batches)
            start.add(Passes(most, most))
            guesses.append(f"a learning rate is searched, in {most:.0f} passes at most")
        copies = _good_copy(state)
        peak = max(memory.peak, memory.live + copies)
        tried, places = engine.passes.copy(), _places(method.total)
        for k in places:
            memory.peak = memory.live
            method.step(state, k)
            peak = max(peak, memory.peak + copies)
        each = engine.passes - tried
    parts = _parts(state, copies)
    activations = max(0, peak - sum(parts.values()))
    mask = problem.memo.get("mask")
    return Footprint(
        **parts,
        activations=activations,
        saved=_bytes(state.state_dict()) + _bytes(problem.memo),
        mask=0 if mask is None else _bytes(mask),
        learned=None if problem.subject.adapters is None else _bytes(state.parameters),
        steps=method.total,
        before=start,
        each=Passes(each.forward / len(places), each.backward / len(places)) if places else Passes(),
        guesses=tuple(guesses),
    )


def _places(total: int) -> list[int]:
    """Steps that are tried: the first two, one in the middle and the last, for methods whose steps differ."""
    chosen = [0, 1, total // 2, total - 1]
    return [k for k in dict.fromkeys(chosen) if 0 <= k < total]


def _good_copy(state: State) -> int:
    """Bytes of the last good weights, which the loop keeps of all but large models."""
    if sum(parameter.numel() for parameter in state.parameters) >= LARGE:
        return 0
    return _bytes([*state.parameters, *state.module.buffers()])


def _parts(state: State, good: int) -> dict[str, int]:
    """Bytes of what a state holds, by part; what is shared counts once."""
    seen: set[int] = set()
    beside = [*state.frozen.values(), *([] if state.averaged is None else [state.averaged])]
    return {
        "weights": _bytes([*state.module.parameters(), *state.module.buffers()], seen),
        "gradients": _bytes([p.grad for p in state.parameters], seen),
        "optimizer": sum(_bytes([*optimizer.state.values()], seen) for optimizer in state.optimizers.values()),
        "found": _bytes([state.problem.memo, state.beside], seen),
        "copies": good + sum(_bytes([*m.parameters(), *m.buffers()], seen) for m in beside),
    }


def _bytes(tensors: Any, seen: set[int] | None = None) -> int:
    """Bytes of tensors in nested lists and mappings, each storage once."""
    seen = set() if seen is None else seen
    total = 0
    for tensor in tree_leaves(tensors):
        if isinstance(tensor, Tensor):
            storage = tensor.untyped_storage()
            if storage._cdata not in seen:
                seen.add(storage._cdata)
                total += storage.nbytes()
    return total
