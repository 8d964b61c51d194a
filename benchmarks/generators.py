"""What SFR-on costs on full-size generators: seconds of a Fisher batch and of a step, and peak memory.

    python benchmarks/generators.py                                        # ddpm-cifar10, batch 128
    python benchmarks/generators.py --models ddpm-cifar10 dit-xl-2 --batch 128 1
    python benchmarks/generators.py --device cuda --models dit-xl-2 --batch 4
    python benchmarks/generators.py --models unet-small --size 8 --batch 4 --options '{"layers_per_block": 1}'

Random weights, changed in place, and random images or latents (a DiT's are 4×32×32). Each model runs in a process of
its own: one batch of each set for the Fisher, then outer steps of SFR-on of one forget and one retain step, both
optimisers Adam. The first outer step makes the optimisers' states and is shown apart. "Computed" is what weights,
gradients, two moments for each of both optimisers, and the mask take; the rest of the peak is activations, the two
Fishers before there are optimisers, and the libraries.
"""

import argparse
import json
import subprocess
import sys
import time
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fisher import peak_resident
from untrain.data.samples import Arrays
from untrain.data.streams import Stream
from untrain.diffusion.denoisers import build_denoiser
from untrain.engine import Engine
from untrain.fisher import fisher_diagonal
from untrain.methods.base import Optimizer, Problem
from untrain.methods.sfron import SFRon
from untrain.models.subject import Subject
from untrain.saliency import saliency_mask
from untrain.tasks.class_diffusion.task import ClassDiffusion

GIB = 2**30
CLASSES = {"unet": 10, "dit": 1000}


def problem(name: str, batch: int, size: int, options: dict[str, Any], engine: Engine) -> Problem:
    """A model with random weights on the engine's device, and two sets of random images or latents."""
    kind = "dit" if name.startswith("dit") else "unet"
    channels, classes = (4 if kind == "dit" else 3), CLASSES[kind]
    module = build_denoiser(name, num_classes=classes, in_channels=channels, image_size=size, **options)
    module.to(engine.device)
    g, sets = torch.Generator().manual_seed(0), {}
    for set_name, low, high in (("forget", 0, 1), ("retain", 1, classes)):
        inputs = torch.randn(2 * batch, channels, size, size, generator=g).clamp(-1, 1)
        labels = torch.randint(low, high, (2 * batch,), generator=g)
        labels[-1] = high - 1
        names = [str(c) for c in range(classes)]
        sets[set_name] = Stream(Arrays(inputs, labels, names), set_name, engine, batch)
    task = ClassDiffusion(num_classes=classes, clip_samples=kind == "unet")
    few = {key: value[:1] for key, value in sets["forget"].batch(0, task, "evaluate").items()}
    with torch.no_grad():
        return Problem(Subject(module), task.prepare(module.eval(), few), **sets)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One model: its parameters, seconds, and bytes."""
    engine = Engine.start(arguments.device)
    work = problem(arguments.models[0], arguments.batch[0], arguments.size, arguments.options, engine)
    module = work.subject.module
    loaded = peak(engine)
    fishers, seconds = [], []
    for stream in (work.forget, work.retain):
        start = now(engine)
        batches = [stream.batch(0, work.task, "fisher")]
        fishers.append(fisher_diagonal(module, work.task, batches, engine=engine))
        seconds.append(now(engine) - start)
    work.memo["mask"] = saliency_mask(*fishers)
    del fishers
    adam = Optimizer("adam", 1e-4)
    method = SFRon(steps=arguments.steps, optimizer=adam, forget_optimizer=adam).resolved(work, engine)
    state, times = method.start(work, engine), []
    for k in range(arguments.steps):
        start = now(engine)
        method.step(state, k)
        times.append(now(engine) - start)
    trained = [p for p in module.parameters() if p.requires_grad]
    own = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    each = sum(p.numel() * p.element_size() for p in trained)
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "fisher": min(seconds),
        "first": times[0],
        "step": median(times[1:] or times),
        "loaded": loaded,
        "peak": peak(engine),
        "computed": own + each * (1 + 2 * len(state.optimizers)) + sum(p.numel() for p in trained),
    }


def now(engine: Engine) -> float:
    """The time once the device has done all that it was told."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    return time.perf_counter()


def peak(engine: Engine) -> float:
    """The most memory so far in bytes: of the CUDA device, else resident in this process."""
    if engine.device.type == "cuda":
        return torch.cuda.max_memory_allocated(engine.device)
    return peak_resident() * GIB


def apart(arguments: argparse.Namespace, model: str, batch: int) -> dict[str, float]:
    """What `measure` finds in a process of its own."""
    command = [sys.executable, __file__, "--measure", "--models", model, "--batch", str(batch)]
    command += ["--size", str(arguments.size), "--steps", str(arguments.steps)]
    command += ["--threads", str(arguments.threads), "--options", json.dumps(arguments.options)]
    command += [] if arguments.device is None else ["--device", arguments.device]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ddpm-cifar10"], help="names of noise predictors")
    parser.add_argument("--batch", nargs="+", type=int, default=[128], help="of each model, or one for all")
    parser.add_argument("--size", type=int, default=32, help="height and width of an image or latent")
    parser.add_argument("--steps", type=int, default=2, help="outer steps")
    parser.add_argument("--device", default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--options", type=json.loads, default={}, help="JSON: more arguments of the models' builder")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if len(arguments.batch) not in (1, len(arguments.models)):
        parser.error(f"--batch needs one number, or one for each of the {len(arguments.models)} models")
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return
    batches = arguments.batch * (len(arguments.models) if len(arguments.batch) == 1 else 1)
    table = Table(title=f"SFR-on on generators, {arguments.device or 'default device'}, {arguments.threads} threads")
    columns = ("model", "batch", "parameters", "s a Fisher batch", "s first step", "s a step")
    for heading in (*columns, "GiB with weights", "GiB peak", "GiB computed"):
        table.add_column(heading, justify="right")
    for model, batch in zip(arguments.models, batches, strict=True):
        found = apart(arguments, model, batch)
        times = (f"{found[name]:.2f}" for name in ("fisher", "first", "step"))
        memory = (f"{found[name] / GIB:.2f}" for name in ("loaded", "peak", "computed"))
        table.add_row(model, str(batch), f"{found['parameters']:,}", *times, *memory)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
