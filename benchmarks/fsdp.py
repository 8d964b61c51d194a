"""What memory a process takes at most while SFR-on runs: alone, among several, and with the weights divided (fsdp).

    python benchmarks/fsdp.py
    torchrun --nproc-per-node 2 benchmarks/fsdp.py
    torchrun --nproc-per-node 2 benchmarks/fsdp.py --fsdp

The model is a chain of linear layers, with few samples, so that weights and what belongs to them are what counts. As in
a run, the original stays beside the model that is changed. Memory is the resident set's peak on Linux, beyond what
there was before the original was made; freed blocks go back to the system at once.
"""

import argparse
import ctypes
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.methods.base import Optimizer, Problem
from untrain.methods.loop import run
from untrain.methods.sfron import SFRon
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification

M_MMAP_THRESHOLD = -3
"""Of glibc's mallopt: blocks from this size on are pages of their own."""


def memory(name: str) -> float:
    """A line of this process's status, in MB: VmRSS, what is resident, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def samples(count: int, width: int, seed: int) -> TensorDataset:
    g = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, width, generator=g), torch.randint(0, 5, (count,), generator=g))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--fsdp", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    engine = Engine.start("cpu", fsdp=args.fsdp)
    sets = {name: Stream(samples(8, args.width, i), name, engine, 4) for i, name in enumerate(("forget", "retain"))}
    before = memory("VmRSS")
    torch.manual_seed(0)
    layers = [layer for _ in range(args.depth) for layer in (nn.Linear(args.width, args.width), nn.GELU())]
    original = nn.Sequential(*layers, nn.Linear(args.width, 5))
    whole = sum(parameter.numel() * parameter.element_size() for parameter in original.parameters()) / 2**20
    adam = Optimizer("adam", 1e-4)
    method = SFRon(steps=args.steps, retain_steps=1, optimizer=adam, forget_optimizer=adam, calibrate=False)
    subject = Subject(original).copy(share=args.fsdp)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    run(method, Problem(subject, Classification(num_classes=5), **sets), engine)
    taken = memory("VmHWM") - before
    if engine.is_main:
        print("| processes | fsdp | weights MB | peak of a process MB | in weights |\n|---|---|---|---|---|")
        how = "yes" if args.fsdp else "no"
        print(f"| {engine.num_processes} | {how} | {whole:.0f} | {taken:.0f} | {taken / whole:.2f} |", flush=True)
    engine.wait()


if __name__ == "__main__":
    main()
