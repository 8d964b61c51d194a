"""Where the arithmetic runs: device, precision, processes, sums over processes, compilation, clocks, progress.

Several processes share every batch: each takes its slice, and gradients are *summed* after the backward pass. No
wrapper stands around the module, so parameter names, several losses per step and per-sample gradients stay as they
are with one process. With `fsdp` the processes share the weights of the steps too (`models.fsdp`), and names stay even
then. `accelerate launch` starts the processes, on one machine or many.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from untrain.errors import Diverged, ModelError, SettingError, convert_errors
from untrain.lazy import nn, torch
from untrain.progress import Bar, show_progress
from untrain.rows import count_rows, cut
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Precision = Literal["no", "bf16", "fp16"]


@dataclass(eq=False)
class Engine:
    """Device, precision and processes of one run.

    Attributes:
        device: where models and batches live.
        precision: "no" never casts; "bf16" and "fp16" autocast the forward pass (fp16 with loss scaling).
        compile: whether training steps run through `torch.compile`; per-sample gradients never do.
        process: this process's number, 0 … num_processes − 1.
        num_processes: how many processes share each batch.
        microbatch: samples of a process's share that pass through a model at once in a training step; None: all.
        fsdp: whether the processes share trained weights, gradients and states of optimisers during a method's steps.
    """

    device: torch.device
    precision: Precision = "no"
    compile: bool = False
    process: int = 0
    num_processes: int = 1
    microbatch: int | None = None
    fsdp: bool = False
    clocks: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the precision and prepares the loss scale of fp16."""
        if self.precision not in ("no", "bf16", "fp16"):
            raise SettingError(f"precision must be 'no', 'bf16' or 'fp16', not {self.precision!r}.")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    @classmethod
    def start(
        cls,
        device: str | torch.device | None = None,
        precision: Precision = "no",
        compile: bool = False,
        microbatch: int | None = None,
        fsdp: bool = False,
    ) -> Engine:
        """The engine of this process: joins the others if `accelerate launch` (or torchrun) started several.

        Args:
            device: None takes what accelerate finds (a CUDA device where there is one, else the CPU).
            precision: see the class.
            compile: see the class.
            microbatch: see the class.
            fsdp: see the class.

        Raises:
            SettingError: if the device does not exist, or fsdp cannot run.
        """
        from accelerate import PartialState

        try:
            on_cpu = not torch.accelerator.is_available() or (device is not None and torch.device(device).type == "cpu")
            joined_before = torch.distributed.is_available() and torch.distributed.is_initialized()
            state = PartialState(cpu=on_cpu)
            if state.num_processes > 1 and not joined_before:
                atexit.register(_leave)
            chosen = torch.device(device) if device is not None else state.device
            torch.empty(0, device=chosen)
        except Exception as error:  # each backend that is not there raises something else
            raise SettingError(f"device {str(device)!r} cannot be used: {error}") from error
        if chosen.type == "meta":
            raise SettingError("device 'meta' cannot be used: tensors have no values there. Choose cpu or cuda.")
        if fsdp:
            _check_fsdp(state.num_processes, precision, compile=compile, microbatch=microbatch)
        return cls(chosen, precision, compile, state.process_index, state.num_processes, microbatch, fsdp)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes files."""
        return self.process == 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision around a forward pass; nothing at precision "no"."""
        if self.precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16 if self.precision == "bf16" else torch.float16)

    @contextmanager
    def forward_pass(self) -> Iterator[None]:
        """Mixed precision around a forward pass, whose errors are the model's: it is the user's own code."""
        with convert_errors(ModelError, "the model cannot run on a batch"), self.autocast():
            yield

    def compiled(self, module: nn.Module) -> nn.Module:
        """The module as training steps call it; it shares the module's parameters."""
        return torch.compile(module) if self.compile else module  # type: ignore[return-value]

    def to_device(self, batch: Batch) -> Batch:
        """The batch's tensors on the engine's device."""
        return {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}

    def shard(self, batch: Batch) -> Batch:
        """This process's contiguous part of a batch; it can have no rows."""
        if self.num_processes == 1:
            return batch
        rows = count_rows(batch)
        first, last = (rows * p // self.num_processes for p in (self.process, self.process + 1))
        return cut(batch, slice(first, last))

    def parts(self, share: Batch) -> list[Batch]:
        """A share of a batch in parts of at most `microbatch` samples, contiguous; the share itself without that."""
        rows = count_rows(share)
        size = self.microbatch or rows
        if rows <= size:
            return [share]
        return [cut(share, slice(i, i + size)) for i in range(0, rows, size)]

    def all_reduce_(self, tensors: Iterable[Tensor]) -> None:
        """Sums each tensor over the processes, in place."""
        if self.num_processes > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def global_sum(self, values: Tensor) -> Tensor:
        """The sum of values [B] over this batch's samples in all processes, a scalar without gradient."""
        total = values.detach().sum()
        self.all_reduce_([total])
        return total

    def global_batch_size(self, values: Tensor) -> int:
        """How many samples the whole batch has, of which `values` [B] are this process's."""
        return (
            int(self.global_sum(torch.ones(len(values), device=self.device))) if self.num_processes > 1 else len(values)
        )

    def mean(self, losses: Tensor) -> Tensor:
        """This process's part of the mean over the whole batch: the parts sum to the mean, and so do gradients."""
        return losses.sum() / self.global_batch_size(losses)

    def own_part(self, tensor: Tensor) -> Tensor:
        """This process's part of a tensor's numbers, flat and in memory of its own."""
        first, last = (tensor.numel() * p // self.num_processes for p in (self.process, self.process + 1))
        return tensor.reshape(-1)[first:last].clone()

    def join_parts(self, part: Tensor, shape: Sequence[int]) -> Tensor:
        """The bool tensor of this shape of which each process has what `own_part` gave; the same in every process."""
        whole = torch.zeros(math.prod(shape), dtype=torch.uint8, device=part.device)
        first = len(whole) * self.process // self.num_processes
        whole[first : first + len(part)] = part
        self.all_reduce_([whole])
        return whole.bool().view(*shape)

    def gather(self, values: Tensor) -> Tensor:
        """The processes' tensors [B_p, …] concatenated in order of process, in every process."""
        if self.num_processes == 1:
            return values
        parts: list[Any] = [None] * self.num_processes
        torch.distributed.all_gather_object(parts, values.cpu())
        return torch.cat(parts).to(values.device)

    def backward(self, loss: Tensor, parameters: Sequence[Tensor], *, retain: bool = False) -> None:
        """Fills `.grad` with the gradient summed over processes, unscaled; parameters without one get zeros.

        The gradients of divided weights are summed during the backward pass, which every process must take then.
        """
        if loss.requires_grad:
            self.scaler.scale(loss).backward(retain_graph=retain)
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if self.num_processes > 1:
            _sum_flat([p.grad for p in parameters if p.grad is not None and not is_divided(p)])

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One optimiser step; under fp16 it is left out when a gradient overflowed, and the scale adapts.

        Raises:
            Diverged: if the step is larger than a number of the optimiser's can be.
        """
        try:
            self.scaler.step(optimizer)
        except RuntimeError as error:
            if "without overflow" not in str(error):
                raise
            raise Diverged("the optimiser's step is larger than any number. Lower the learning rate.") from error
        self.scaler.update()

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Adds the seconds of the block to the clock called `name`."""
        self._synchronise()
        start = time.perf_counter()
        try:
            yield
        finally:
            self._synchronise()
            self.clocks[name] = self.clocks.get(name, 0.0) + time.perf_counter() - start

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Broadcasts the main process's values to every process, in place."""
        if self.num_processes > 1:
            for tensor in tensors:
                torch.distributed.broadcast(tensor, 0)

    @contextmanager
    def seeded(self, seed: int) -> Iterator[None]:
        """Inside the block the global generators (which dropout draws from) start at a seed; then they are put back."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            seed_generators(seed, accelerators=self.device.type != "cpu")
            yield

    def wait(self) -> None:
        """Waits until every process is here."""
        if self.num_processes > 1:
            torch.distributed.barrier()

    def track(self, items: Iterable[T], label: str, total: int | None) -> Generator[T, None, None]:
        """The items, with progress that moves on with each; close it where not all items may be taken."""
        with self.progress(label, total) as bar:
            for item in items:
                yield item
                bar.advance()

    def progress(self, label: str, total: int | None, start: int = 0) -> AbstractContextManager[Bar]:
        """A bar or lines of progress with the time left, from the main process; see `show_progress`."""
        return show_progress(label, total, start, quiet=not self.is_main)


def is_divided(value: Any) -> bool:
    """Whether it is a tensor of which this process has a part (a DTensor of torch)."""
    return isinstance(value, torch.Tensor) and hasattr(value, "device_mesh")


def local_parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What this process has of each tensor, in its memory, without gradient; for what is done number by number."""
    return [t.detach().to_local() if is_divided(t) else t.detach() for t in tensors]  # type: ignore[attr-defined]


@contextmanager
def preserve_modes(module: nn.Module) -> Iterator[nn.Module]:
    """Puts every layer back, after the block, into the mode (training or evaluation) that it was in before."""
    modes = [(layer, layer.training) for layer in module.modules()]
    try:
        yield module
    finally:
        for layer, mode in modes:
            layer.training = mode


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[nn.Module]:
    """Puts back, after the block, all that a forward pass may move: modes, buffers, random states.

    Also tensors that are attributes of layers: hooks of pruning and of weight normalisation put a layer's weight there.
    """
    buffers = [
        (layer, name, buffer, buffer.clone())
        for layer in module.modules()
        for name, buffer in layer._buffers.items()
        if buffer is not None
    ]
    tensors = [(layer, name, tensor) for layer in module.modules() for name, tensor in tensor_attributes(layer)]
    cuda = sorted({p.device.index for p in module.parameters() if p.device.type == "cuda"})
    with preserve_modes(module), torch.random.fork_rng(devices=cuda):
        try:
            yield module
        finally:
            for layer, name, buffer, copy in buffers:
                layer._buffers[name] = buffer
                if not torch.equal(buffer, copy):  # by content: batch norm moves its statistics under no version
                    with torch.no_grad():
                        buffer.copy_(copy)
            for layer, name, tensor in tensors:
                layer.__dict__[name] = tensor


def tensor_attributes(layer: nn.Module) -> list[tuple[str, Tensor]]:
    """Tensors that a layer holds beside its parameters and buffers, by name."""
    return [(name, value) for name, value in vars(layer).items() if isinstance(value, torch.Tensor)]


@contextmanager
def on_device(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Moves modules to a device for the block; afterwards each is where its first parameter was before.

    What is quantised, or moved by hooks of its own (offloading), stays: to move it is another library's.
    """
    homes = [(m, next((p.device for p in m.parameters()), device)) for m in modules if can_move(m)]
    try:
        for module, _ in homes:
            module.to(device)
        yield
    finally:
        for module, home in homes:
            module.to(home)


@contextmanager
def set_aside(*modules: nn.Module) -> Iterator[None]:
    """Modules that are on an accelerator are on the CPU for the block, and then where they were.

    What is quantised, or moved by hooks of its own (offloading), stays: to move it is another library's.
    """
    away = [module for module in modules if can_move(module)]
    homes = {id(module): next((p.device for p in module.parameters()), torch.device("cpu")) for module in away}
    try:
        for module in away:
            module.to("cpu")
        yield
    finally:
        for module in away:
            module.to(homes[id(module)])


def can_move(module: nn.Module) -> bool:
    """Whether a module may be moved: not one that is quantised, or moved by hooks of its own (offloading)."""
    return not getattr(module, "is_quantized", False) and not hasattr(module, "_hf_hook")


def seed_of(seed: int, *names: object) -> int:
    """A seed for one purpose: a hash of the run's seed and names, so that no two purposes share numbers."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def seed_generators(seed: int, *, accelerators: bool) -> None:
    """Seeds torch's global generators; without those of accelerators, for which torch takes a millisecond.

    For each kind of accelerator that is not in use `torch.manual_seed` keeps the seed until it is, with a traceback.
    """
    if accelerators:
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def generator_of(seed: int, *names: object) -> torch.Generator:
    """A CPU generator for one purpose; the same on every device."""
    return torch.Generator().manual_seed(seed_of(seed, *names))


def _check_fsdp(processes: int, precision: Precision, *, compile: bool, microbatch: int | None) -> None:
    """Refuses what does not go together with divided weights."""
    if processes == 1:
        raise SettingError(
            "fsdp divides weights among processes, and there is one. Start several, as by accelerate launch "
            "--num_processes 4 or torchrun --nproc-per-node 4, or leave fsdp out."
        )
    beside = {
        "precision=fp16": (precision == "fp16", "choose precision bf16, which needs no loss scale"),
        "compile": (compile, "leave compile out"),
        "microbatch": (microbatch is not None, "leave microbatch out, and lower batch_size"),
    }
    for name, (there, remedy) in beside.items():
        if there:
            raise SettingError(f"fsdp does not run together with {name} yet: {remedy}, or leave fsdp out.")


def _sum_flat(gradients: list[Tensor]) -> None:
    """Sums gradients over processes with one message per type instead of one per parameter."""
    for dtype in {gradient.dtype for gradient in gradients}:
        same = [gradient for gradient in gradients if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in same])
        torch.distributed.all_reduce(flat)
        for gradient, part in zip(same, flat.split([g.numel() for g in same]), strict=True):
            gradient.copy_(part.view_as(gradient))


def _leave() -> None:
    """Leaves the group of processes before the interpreter ends, which the group's threads do not outlive safely."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
