"""What an SFR-on step costs beside the bare forward and backward passes that it consists of; the Fisher is apart.

    python benchmarks/steps.py --model resnet18 --batch 128 --repeats 3

Both sides run on the same batches, in the same layout (channels_last), mode and number of threads, in turn; the table
shows medians and the median of the ratios pair by pair.
"""

import argparse
import time
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from untrain.data.sources import Arrays
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.methods.base import Optimizer, Problem
from untrain.methods.calibration import statistics
from untrain.methods.sfron import SFRon
from untrain.models.classifiers import build
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification


def problem(model: str, batch: int, engine: Engine) -> Problem:
    g = torch.Generator().manual_seed(0)
    sets = {}
    for name in ("forget", "retain"):
        images = torch.randint(0, 256, (4 * batch, 3, 32, 32), generator=g, dtype=torch.uint8)
        sets[name] = Stream(Arrays(images, torch.randint(0, 10, (4 * batch,), generator=g)), name, engine, batch)
    task = Classification(10, (0.5,) * 3, (0.25,) * 3, pad=4, flip=True)
    module = build(model, num_classes=10).to(memory_format=torch.channels_last)
    return Problem(Subject(module), task, **sets)


def bare(module: torch.nn.Module, work: Problem, batches: list, mode: str) -> None:
    """Forward and backward passes alone, on batches at hand."""
    module.train()
    for number, batch in enumerate(batches):
        with statistics(module, mode if number == 0 else "moved"):
            loss = work.task.loss(module, batch).mean()
        for parameter in module.parameters():
            parameter.grad = None
        loss.backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--retain-steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    engine = Engine.start()
    work = problem(args.model, args.batch, engine)
    work.memo["mask"] = {n: torch.rand_like(p) < 0.5 for n, p in work.subject.module.named_parameters()}
    method = SFRon(steps=100, retain_steps=args.retain_steps, optimizer=Optimizer("sgd", 1e-3, 0.9, 5e-4))
    method = method.resolved(work, engine)
    state = method.start(work, engine)
    batches = [work.forget.batch(0, work.task, "forget")]
    batches += [work.retain.batch(k, work.task, "retain") for k in range(args.retain_steps)]
    bare(state.module, work, batches[:2], "running")  # warm up
    times: dict[str, list[float]] = {"step": [], "bare": []}
    for k in range(args.repeats):
        for name, act in (
            ("step", lambda k=k: method.step(state, k)),
            ("bare", lambda: bare(state.module, work, batches, "running")),
        ):
            start = time.perf_counter()
            act()
            times[name].append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(times["step"], times["bare"], strict=True)]
    table = Table(title=f"{args.model}, batch {args.batch}, 1 + {args.retain_steps} passes, {args.threads} threads")
    for heading in ("outer step (s)", "bare passes (s)", "ratio", "ratios seen"):
        table.add_column(heading, justify="right")
    seen = " ".join(f"{r:.3f}" for r in ratios)
    table.add_row(f"{median(times['step']):.2f}", f"{median(times['bare']):.2f}", f"{median(ratios):.3f}", seen)
    Console().print(table)


if __name__ == "__main__":
    main()
