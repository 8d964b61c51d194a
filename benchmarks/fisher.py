"""Speed and memory of the per-sample Fisher diagonal.

    python benchmarks/fisher.py                                 # against a plain forward and backward pass
    python benchmarks/fisher.py --models resnet50 --batch 64 --threads 4
    python benchmarks/fisher.py --scaling                       # time and memory as parameters, batch and data grow
    python benchmarks/fisher.py --samples                       # how many samples the saliency mask needs

Both sides run in evaluation mode, in the same memory layout, on the same threads. Times are medians; ratios are
medians over interleaved pairs, so that what else the machine does meets both sides. Memory is the difference of the
peak resident sizes of two fresh processes that each do one thing.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from untrain.fisher import fisher_diagonal
from untrain.models.classifiers import build
from untrain.saliency import saliency_mask
from untrain.tasks.classification.task import Classification
from untrain.types import Batch, Params, Task

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
CLASSES = 10


def prepare(name: str, layout: str, batch: int, size: int, width: int | None = None) -> tuple[nn.Module, Batch]:
    """A model with random weights in evaluation mode and one batch of noise for it."""
    torch.manual_seed(0)
    options = {} if width is None else {"width": width}
    model = build(name, num_classes=CLASSES, in_channels=3, image_size=size, **options).eval()
    model.to(memory_format=LAYOUTS[layout])
    images = torch.randn(batch, 3, size, size).to(memory_format=LAYOUTS[layout])
    return model, {"input": images, "label": torch.randint(CLASSES, (batch,))}


def plain_pass(model: nn.Module, batch: Batch) -> None:
    """One forward and backward pass with the gradients of all parameters."""
    F.cross_entropy(model(batch["input"]), batch["label"], reduction="none").sum().backward()
    for parameter in model.parameters():
        parameter.grad = None


def obvious_pass(model: nn.Module, batch: Batch, chunk: int = 16) -> Params:
    """The Fisher diagonal by vmap(grad) over chunks of samples: every sample's gradient in memory."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(weights: Params, image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, (weights, buffers), (image[None],)), label[None])

    totals = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for images, labels in zip(batch["input"].split(chunk), batch["label"].split(chunk), strict=True):
        for name, g in vmap(grad(loss), (None, 0, 0))(parameters, images, labels).items():
            totals[name] += g.square().sum(0)
    return {name: total / len(batch["label"]) for name, total in totals.items()}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def pairs(model: nn.Module, batch: Batch, batches: int, repeats: int) -> tuple[float, float, float]:
    """Median seconds a batch of the plain and of the Fisher pass, and the median ratio of interleaved pairs."""
    task = Classification(num_classes=CLASSES)

    def plain() -> None:
        for _ in range(batches):
            plain_pass(model, batch)

    def fisher() -> None:
        fisher_diagonal(model, task, [batch] * batches)

    plain()
    fisher()
    times = [(seconds(plain) / batches, seconds(fisher) / batches) for _ in range(repeats)]
    return (
        statistics.median(p for p, _ in times),
        statistics.median(f for _, f in times),
        statistics.median(f / p for p, f in times),
    )


def peak(mode: str, arguments: argparse.Namespace, name: str, layout: str, batch: int, width: int | None) -> float:
    """Peak resident size in GB of a fresh process that does one kind of pass twice."""
    command = [
        *(sys.executable, __file__, "--measure", mode, "--models", name, "--layouts", layout),
        *("--batch", str(batch), "--size", str(arguments.size), "--threads", str(arguments.threads)),
        *(("--width", str(width)) if width else ()),
    ]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["peak"])


def measure(arguments: argparse.Namespace) -> None:
    model, batch = prepare(
        arguments.models[0], arguments.layouts[0], arguments.batch, arguments.size, arguments.width or None
    )
    for _ in range(2):
        if arguments.measure == "plain":
            plain_pass(model, batch)
        else:
            fisher_diagonal(model, Classification(num_classes=CLASSES), [batch])
    print(json.dumps({"peak": peak_resident()}))


def peak_resident() -> float:
    """This process's peak resident size in GB (2³⁰ bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss starts at the parent's peak, which may be larger
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def compare(arguments: argparse.Namespace) -> None:
    """The main table."""
    print("| model | layout | plain s | Fisher s | ratio | vmap(grad) s | plain peak GB | Fisher: more GB |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.models:
        for layout in arguments.layouts:
            model, batch = prepare(name, layout, arguments.batch, arguments.size)
            plain, fisher, ratio = pairs(model, batch, arguments.batches, arguments.repeats)
            obvious_pass(model, batch)
            obvious = statistics.median(seconds(lambda m=model, b=batch: obvious_pass(m, b)) for _ in range(3))
            low, high = (peak(mode, arguments, name, layout, arguments.batch, None) for mode in ("plain", "fisher"))
            row = (f"{plain:.3f}", f"{fisher:.3f}", f"{ratio:.2f}", f"{obvious:.3f}", f"{low:.2f}", f"{high - low:.2f}")
            print(f"| {name} | {layout} | {' | '.join(row)} |", flush=True)


def scaling(arguments: argparse.Namespace) -> None:
    """Time and memory as width (parameters), batch and number of batches grow, one at a time."""
    print("| model | width | parameters | batch | batches | Fisher s | ratio | Fisher: more GB |")
    print("|---|---|---|---|---|---|---|---|")
    name, layout = arguments.models[0], arguments.layouts[-1]
    base = (16, arguments.batch, 2)
    cases = [base, (32, *base[1:]), (64, *base[1:])]
    cases += [(base[0], batch, base[2]) for batch in (arguments.batch // 4, 2 * arguments.batch)]
    cases += [(*base[:2], batches) for batches in (4, 8)]
    for width, size, batches in cases:
        model, batch = prepare(name, layout, size, arguments.size, width)
        _, fisher, ratio = pairs(model, batch, batches, arguments.repeats)
        more = peak("fisher", arguments, name, layout, size, width) - peak(
            "plain", arguments, name, layout, size, width
        )
        count = sum(p.numel() for p in model.parameters())
        row = (f"{fisher * batches:.3f}", f"{ratio:.2f}", f"{more:.2f}")
        print(f"| {name} | {width} | {count:,} | {size} | {batches} | {' | '.join(row)} |", flush=True)


def agreement(
    model: nn.Module, task: Task, forget: Sequence[Batch], retain: Sequence[Batch], counts: Iterable[int] = ()
) -> list[tuple[int, float, float]]:
    """How the saliency mask F_f ≥ F_r from the first n samples of each set agrees with that from all of them.

    Args:
        model: a trained model.
        task: its task.
        forget: the forget set as drawn batches.
        retain: the retain set as drawn batches.
        counts: the numbers n; by default 64, 128, … up to the larger set's size.

    Returns:
        (n, share of all weights on which the masks agree, intersection over union of the kept weights) for each n.
    """
    total = max(sum(len(b["label"]) for b in batches) for batches in (forget, retain))
    chosen = list(counts) or [n for k in range(6, 40) if (n := 2**k) < total] + [total]

    def mask(n: int) -> Tensor:
        fishers = [fisher_diagonal(model, task, first(batches, n)) for batches in (forget, retain)]
        return torch.cat([m.flatten() for m in saliency_mask(*fishers).values()])

    full = mask(total)
    found = []
    for n in chosen:
        some = mask(n)
        both, either = (some & full).sum(), (some | full).sum()
        found.append((n, float((some == full).float().mean()), float(both / either.clamp_min(1))))
    return found


def first(batches: Iterable[Batch], count: int) -> Iterable[Batch]:
    """The batches' first samples, the last batch cut."""
    for batch in batches:
        size = len(next(iter(batch.values())))
        yield {key: value[:count] for key, value in batch.items()}
        count -= size
        if count <= 0:
            return


def samples(arguments: argparse.Namespace) -> None:
    """The table of `agreement` for a small CNN trained on scikit-learn's digits, a random 10 % forgotten."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = torch.tensor(digits.images).float().unsqueeze(1) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    model = build("small-cnn", num_classes=CLASSES, in_channels=1, image_size=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(arguments.epochs):
        for rows in torch.randperm(len(labels)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    accuracy = float((model.eval()(images).argmax(1) == labels).float().mean())
    parts = order.split([len(order) // 10, len(order) - len(order) // 10])
    forget, retain = ([{"input": images[rows], "label": labels[rows]} for rows in part.split(128)] for part in parts)
    print(f"digits, small-cnn, {arguments.epochs} epochs, accuracy {accuracy:.3f}, forget set of {len(parts[0])}")
    print("| samples | weights on which the mask agrees | intersection over union |")
    print("|---|---|---|")
    for n, share, overlap in agreement(model, Classification(num_classes=CLASSES), forget, retain):
        print(f"| {n} | {share:.4f} | {overlap:.4f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet18"], help="names of classifiers")
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=list(LAYOUTS))
    parser.add_argument("--batch", type=int, default=128, help="samples a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches a timed pass")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images, pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of timed passes")
    parser.add_argument("--width", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=20, help="training of the model of --samples")
    parser.add_argument("--scaling", action="store_true", help="the table of growth")
    parser.add_argument("--samples", action="store_true", help="the table of Fisher samples")
    parser.add_argument("--measure", choices=["plain", "fisher"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        measure(arguments)
    elif arguments.samples:
        samples(arguments)
    elif arguments.scaling:
        scaling(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
