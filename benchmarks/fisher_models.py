"""The per-sample Fisher diagonal of five networks, against a plain forward and backward pass.

    python benchmarks/fisher_models.py                                # all five at batch 64
    python benchmarks/fisher_models.py --models vit gpt2 --batch 16 --repeats 5
    python benchmarks/fisher_models.py --layout channels_last --models resnet18 unet ddpm

Processor seconds on one thread, in evaluation mode, random weights: "first" is a Fisher pass over one batch, probe
included, "further" what each batch after it takes, both divided by the plain pass; medians over interleaved repeats.
"Memory" is the peak of what a Fisher pass adds to the process, divided by that of a plain pass (glibc only). "Error" is
the largest difference from a loop over single samples in float64, divided by the largest entry of its tensor.
"""

import argparse
import copy
import ctypes
import gc
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untrain.allocator import keep_freed_memory
from untrain.diffusion.denoisers import build_denoiser
from untrain.fisher import fisher_diagonal
from untrain.models.classifiers import build
from untrain.types import Batch

Made = tuple[nn.Module, Batch, Callable[[nn.Module, Batch], Tensor]]


def vit(batch: int) -> Made:
    """Six layers of width 192 on 64×64 pixels in patches of 8."""
    from transformers import ViTConfig, ViTForImageClassification

    size = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
    model = ViTForImageClassification(ViTConfig(**size, image_size=64, patch_size=8, num_labels=10))
    return model, labelled(batch, 64), lambda m, b: cross_entropy(m(b["input"]).logits, b)


def resnet18(batch: int) -> Made:
    model = build("resnet18", num_classes=10, in_channels=3, image_size=32)
    return model, labelled(batch, 32), lambda m, b: cross_entropy(m(b["input"]), b)


def gpt2(batch: int) -> Made:
    """Four layers of width 192, texts of 64 tokens of 1,000."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_layer": 4, "n_head": 4, "n_embd": 192, "vocab_size": 1000, "n_positions": 64}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits, tokens = model(input_ids=batch["input"]).logits, batch["input"]
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none").mean(1)

    return model, {"input": torch.randint(1000, (batch, 64))}, loss


def unet(batch: int) -> Made:
    """A small UNet2DConditionModel on latents of 4×16×16."""
    from diffusers import UNet2DConditionModel

    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    widths = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 64, "norm_num_groups": 16}
    model = UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, **blocks, **widths)
    states = torch.randn(batch, 20, 64)

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["input"], batch["t"], encoder_hidden_states=batch["states"]).sample

    return model, noised(batch, 4, 16) | {"states": states}, partial(noise_error, predict)


def ddpm(batch: int) -> Made:
    """The network of Ho et al. 2020 for 32×32 images, with ten classes and one that stands for none."""
    model = build_denoiser("ddpm-cifar10", num_classes=10)
    classes = torch.randint(11, (batch,))

    def predict(model: nn.Module, batch: Batch) -> Tensor:
        return model(batch["input"], batch["t"], class_labels=batch["class"]).sample

    return model, noised(batch, 3, 32) | {"class": classes}, partial(noise_error, predict)


MODELS = {"resnet18": resnet18, "vit": vit, "unet": unet, "gpt2": gpt2, "ddpm": ddpm}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def labelled(batch: int, size: int) -> Batch:
    return {"input": torch.randn(batch, 3, size, size), "label": torch.randint(10, (batch,))}


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits, batch["label"], reduction="none")


def noised(batch: int, channels: int, size: int) -> Batch:
    shape = (batch, channels, size, size)
    return {"input": torch.randn(shape), "t": torch.randint(1000, (batch,)), "noise": torch.randn(shape)}


def noise_error(predict: Callable[[nn.Module, Batch], Tensor], model: nn.Module, batch: Batch) -> Tensor:
    return (predict(model, batch) - batch["noise"]).square().flatten(1).mean(1)


class LossTask:
    """A task that has nothing but a loss."""

    def __init__(self, loss: Callable[[nn.Module, Batch], Tensor]) -> None:
        self.loss = loss


def plain_pass(model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor]) -> float:
    """Processor seconds of one forward and backward pass."""
    start = time.process_time()
    loss(model, batch).sum().backward()
    model.zero_grad()
    return time.process_time() - start


def fisher_pass(model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor]) -> tuple[float, float]:
    """Processor seconds of the first of two batches, and of the second."""
    times = []

    def batches() -> Iterator[Batch]:
        for _ in range(2):
            times.append(time.process_time())
            yield batch

    fisher_diagonal(model, LossTask(loss), batches())
    times.append(time.process_time())
    return times[1] - times[0], times[2] - times[1]


def peak_memory(work: Callable[[], object]) -> float:
    """GiB that the process's resident memory grows by at the peak, over what it had before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, or it would be there before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    work()
    return resident("VmHWM") - before


def resident(name: str) -> float:
    """An entry of this process's status in GiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 2**20


def error(model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor], samples: int) -> float:
    """The largest difference from a loop over single samples, both in float64, of a tensor's largest entry."""
    wide = copy.deepcopy(model).double()
    some = {key: value[:samples] for key, value in batch.items()}
    some = {key: value.double() if value.is_floating_point() else value for key, value in some.items()}
    expected = {name: torch.zeros_like(p) for name, p in wide.named_parameters()}
    for row in range(samples):
        loss(wide, {key: value[row : row + 1] for key, value in some.items()}).sum().backward()
        for name, parameter in wide.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad.square() / samples
        wide.zero_grad()
    found = fisher_diagonal(wide, LossTask(loss), [some])
    # A gradient that is zero in exact arithmetic, such as that of an attention's key bias, is rounding noise in both.
    noise = 1e-12 * max(float(value.max()) for value in expected.values())
    return max(float((found[n] - e).abs().max()) / max(float(e.max()), noise) for n, e in expected.items())


def made(name: str, options: argparse.Namespace) -> Made:
    torch.manual_seed(0)
    model, batch, loss = MODELS[name](options.batch)
    return model.eval().to(memory_format=LAYOUTS[options.layout]), batch, loss


def memory(work: Made) -> str:
    """Peak of a Fisher pass over that of a plain pass."""
    if platform.libc_ver()[0] != "glibc":
        return "–"
    ours, bare = (peak_memory(lambda act=act: act(*work)) for act in (fisher_pass, plain_pass))
    return f"{ours / bare:.2f}" if bare > 0 else "–"


def times(work: Made, repeats: int) -> tuple[float, float, float]:
    """Seconds of a plain pass, of the first and of a further Fisher batch."""
    found = []
    for _ in range(repeats):
        before = plain_pass(*work)
        ours = fisher_pass(*work)
        found.append(((before + plain_pass(*work)) / 2, *ours))
    bare, first, further = (median(each) for each in zip(*found, strict=True))
    return bare, first, further


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layout", choices=LAYOUTS, default="contiguous", help="of the model's weights")
    parser.add_argument("--exact", type=int, default=4, help="samples that the error is taken over")
    options = parser.parse_args()
    torch.set_num_threads(1)
    peaks = {name: memory(made(name, options)) for name in options.models}
    keep_freed_memory()  # as the command does; what is kept counts as resident, so peaks come before
    print("| model | batch | plain s | further batch | first batch | memory | error |\n|---|---|---|---|---|---|---|")
    for name in options.models:
        work = made(name, options)
        bare, first, further = times(work, options.repeats)
        ratios = f"{bare:.2f} | {further / bare:.2f} | {first / bare:.2f} | {peaks[name]}"
        print(f"| {name} | {options.batch} | {ratios} | {error(*work, options.exact):.0e} |", flush=True)


if __name__ == "__main__":
    main()
