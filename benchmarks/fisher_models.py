"""The per-sample Fisher diagonal of models of other libraries, against a plain forward and backward pass.

    python benchmarks/fisher_models.py --models vit gpt2 unet resnet18 --batch 64

Processor seconds on one thread, in evaluation mode, random weights: "first" is a Fisher pass over one batch, probe
included, "further" what each batch after it takes, both divided by the plain pass; medians of interleaved repeats.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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

    model = GPT2LMHeadModel(GPT2Config(n_layer=4, n_head=4, n_embd=192, vocab_size=1000, n_positions=64))

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
    noise, states = torch.randn(batch, 4, 16, 16), torch.randn(batch, 20, 64)
    drawn = {"input": torch.randn_like(noise), "t": torch.randint(1000, (batch,)), "states": states, "noise": noise}

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        predicted = model(batch["input"], batch["t"], encoder_hidden_states=batch["states"]).sample
        return (predicted - batch["noise"]).square().flatten(1).mean(1)

    return model, drawn, loss


MODELS = {"resnet18": resnet18, "vit": vit, "gpt2": gpt2, "unet": unet}


def labelled(batch: int, size: int) -> Batch:
    return {"input": torch.randn(batch, 3, size, size), "label": torch.randint(10, (batch,))}


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(logits, batch["label"], reduction="none")


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(name: str, size: int, repeats: int) -> tuple[float, float, float]:
    """Seconds of a plain pass; of the first and of a further Fisher batch, in plain passes."""
    torch.manual_seed(0)
    model, batch, loss = MODELS[name](size)
    model.eval()

    class Task:
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return loss(model, batch)

    def plain() -> None:
        loss(model, batch).sum().backward()
        model.zero_grad()

    def fisher(batches: int) -> None:
        fisher_diagonal(model, Task(), [batch] * batches)

    plain()
    fisher(1)
    found = []
    for _ in range(repeats):
        bare = median(seconds(plain) for _ in range(3))
        one, three = (seconds(lambda n=n: fisher(n)) for n in (1, 3))
        found.append((bare, one / bare, (three - one) / 2 / bare))
    bare, first, further = (median(each) for each in zip(*found, strict=True))
    return bare, first, further


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | batch | plain s | first batch | further batch |\n|---|---|---|---|---|")
    for name in options.models:
        bare, first, further = measure(name, options.batch, options.repeats)
        print(f"| {name} | {options.batch} | {bare:.3f} | {first:.2f} | {further:.2f} |", flush=True)


if __name__ == "__main__":
    main()
