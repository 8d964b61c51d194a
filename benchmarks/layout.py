"""Forward and backward passes in training mode with channels last, against the usual layout.

    python benchmarks/layout.py
    python benchmarks/layout.py --models resnet18 --batch 64 --repeats 5

Processor seconds on one thread, inputs as they come (contiguous), only the weights are laid out: the minimum over
interleaved repeats of each, and their ratio. "Rule" is what `untrain.models.layout` decides.
"""

import argparse
import time
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untrain.allocator import keep_freed_memory
from untrain.diffusion.denoisers import build_denoiser
from untrain.engine import Engine
from untrain.models.classifiers import build
from untrain.models.layout import prefers_channels_last

Made = tuple[nn.Module, tuple[Tensor, ...]]


def classifier(name: str, channels: int, size: int) -> Callable[[int], Made]:
    def make(batch: int) -> Made:
        model = build(name, num_classes=10, in_channels=channels, image_size=size)
        return model, (torch.randn(batch, channels, size, size),)

    return make


def denoiser(name: str, size: int) -> Callable[[int], Made]:
    def make(batch: int) -> Made:
        model = build_denoiser(name, num_classes=10, image_size=size)
        return model, (torch.randn(batch, 3, size, size), torch.randint(1000, (batch,)), torch.randint(10, (batch,)))

    return make


def grouped(groups: int) -> Callable[[int], Made]:
    """Six pairs of a grouped and a pointwise convolution: of 64 groups as in MobileNet, of 8 as in ResNeXt."""

    def pair() -> list[nn.Module]:
        own = nn.Conv2d(64, 64, 3, padding=1, groups=groups)
        return [own, nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 1), nn.BatchNorm2d(64), nn.ReLU()]

    def make(batch: int) -> Made:
        layers = [nn.Conv2d(3, 64, 3, 2, 1), *(layer for _ in range(6) for layer in pair())]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
        return model, (torch.randn(batch, 3, 32, 32),)

    return make


def plain(batch: int) -> Made:
    """Four convolutions without normalisation, halving the image by pooling, as in AlexNet and VGG."""
    widths = [3, 32, 64, 128, 128]
    layers = [
        layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10)), (torch.randn(batch, 3, 32, 32),)


MODELS: dict[str, Callable[[int], Made]] = {
    "small-cnn": classifier("small-cnn", 1, 28),
    "plain": plain,
    "depthwise": grouped(64),
    "grouped": grouped(8),
    "resnet20": classifier("resnet20", 3, 32),
    "resnet18": classifier("resnet18", 3, 32),
    "unet-small": denoiser("unet-small", 8),
    "ddpm-cifar10": denoiser("ddpm-cifar10", 32),
}
SMALLER = {"resnet18": 4, "ddpm-cifar10": 16}
"""By how much a batch of a large network is smaller than the others'."""


def training_pass(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Processor seconds of one pass."""
    start = time.process_time()
    output = model(*inputs)
    output = getattr(output, "sample", output)
    F.mse_loss(output, torch.zeros_like(output)).backward()
    model.zero_grad()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, default=64, help="a quarter of it for ResNet-18, a sixteenth for DDPM")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep-memory", action="store_true", help="that is freed, as commands do; calls do not")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.keep_memory:
        keep_freed_memory()
    engine = Engine(torch.device("cpu"))
    print("| model | batch | contiguous s | channels last s | ratio | rule |\n|---|---|---|---|---|---|")
    for name in options.models:
        torch.manual_seed(0)
        batch = max(2, options.batch // SMALLER.get(name, 1))
        model, inputs = MODELS[name](batch)
        rule = "channels last" if prefers_channels_last(model, engine) else "as it is"
        layouts = (torch.contiguous_format, torch.channels_last)
        times: dict[torch.memory_format, list[float]] = {layout: [] for layout in layouts}
        for repeat in range(options.repeats + 1):
            for layout in layouts:
                found = training_pass(model.to(memory_format=layout), inputs)
                if repeat:  # the first warms up
                    times[layout].append(found)
        usual, last = (min(times[layout]) for layout in layouts)
        print(f"| {name} | {batch} | {usual:.3f} | {last:.3f} | {usual / last:.2f} | {rule} |", flush=True)


if __name__ == "__main__":
    main()
