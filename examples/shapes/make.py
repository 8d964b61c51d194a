"""Renders captioned shapes and trains a small text-to-image pipeline on them, in minutes on two cores.

    python examples/shapes/make.py
    python examples/shapes/make.py --seed 1
    python examples/shapes/make.py --flow

It writes OUT/images, a folder of captioned images as `datasets` reads one, and OUT/pipeline-SEED, a folder that
diffusers loads: a small Stable Diffusion. With `--flow` that is OUT/flow-SEED, a small Stable Diffusion 3. A folder
that is there, made with the same settings, is left as it is; none is ever half-written.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from parts import WINDOW, build_flow_pipeline, build_pipeline
from render import CAPTIONS, SIZE, Captioned, render_shapes, write_images

RECORD = "made.json"
"""The settings that a folder was made with, in it."""

VAE_RATE, VAE_BATCH = 1e-3, 16
UNET_RATE, UNET_BATCH = 2e-3, 32
FLOW_RATE, FLOW_BATCH = 2e-3, 32
"""Adam's rate at the first step; by half a cosine it falls to 0. And the images in a step."""
KL = 1e-5
"""Weight of the KL divergence of the VAE's posterior, beside the squared error of a pixel; means over elements."""
DROP = 0.1
"""Share of captions that are not told, so that guidance has something to guide away from."""
EMA = 0.99
"""Decay, in each step, of the average of the weights of UNet or transformer, which is what is kept."""
MAX_NORM = 1.0
"""Gradients are clipped to this norm."""
STEPS, FLOW_STEPS = 1400, 3000
"""Of the training of UNet and transformer, unless others are asked for."""
SECONDS_BETWEEN_LINES = 10


def main() -> None:
    """Makes what is not there yet."""
    args = parse_args()
    transformers.utils.logging.disable_progress_bar()  # of saving
    images = {"count": args.count}
    name, train, steps = ("flow", train_flow_pipeline, FLOW_STEPS) if args.flow else ("pipeline", train_pipeline, STEPS)
    steps = steps if args.steps is None else args.steps
    pipeline = images | {"seed": args.seed, "steps": steps, "vae_steps": args.vae_steps}
    make_once(args.out / "images", images, lambda folder: write_parts(folder, args.count))
    make_once(
        args.out / f"{name}-{args.seed}",
        pipeline,
        lambda folder: train(render_shapes("train", args.count), args.seed, args.vae_steps, steps).save_pretrained(
            folder
        ),
    )


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Renders captioned shapes and trains a small text-to-image pipeline on them."
    )
    out = Path(__file__).parent / "out"
    parser.add_argument("--out", type=Path, default=out, help="folder of images and pipelines (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the pipeline; the images have none (%(default)s)")
    parser.add_argument("--count", type=int, default=4000, help="images to train on; a quarter more to test on")
    parser.add_argument("--flow", action="store_true", help="a Stable Diffusion 3, in place of a Stable Diffusion")
    parser.add_argument(
        "--steps", type=int, help=f"training steps of the UNet ({STEPS}), or of the transformer ({FLOW_STEPS})"
    )
    parser.add_argument("--vae-steps", type=int, default=800, help="training steps of the VAE (%(default)s)")
    args = parser.parse_args()
    if args.count < 4 or args.vae_steps < 1 or (args.steps is not None and args.steps < 1):
        parser.error("--count must be at least 4, --steps and --vae-steps at least 1")
    return args


def make_once(place: Path, settings: dict[str, Any], make: Callable[[Path], object]) -> None:
    """Makes a folder, whole or not at all; one that was made with these settings is left as it is."""
    if place.exists():
        record = place / RECORD
        known = json.loads(record.read_text()) if record.is_file() else None
        if known != settings:
            sys.exit(f"{place} was not made with {settings} but with {known}: remove it, or choose another --out.")
        print(f"{place} is there")
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as temporary:
        folder = Path(temporary) / place.name
        make(folder)
        (folder / RECORD).write_text(json.dumps(settings))
        folder.rename(place)
    print(f"{place} is made")


def write_parts(folder: Path, count: int) -> None:
    """Writes the images to train on, and a quarter as many to test on."""
    for part, size in (("train", count), ("test", count // 4)):
        write_images(render_shapes(part, size), folder / part)


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────


def train_pipeline(data: Captioned, seed: int, vae_steps: int, steps: int) -> Any:
    """Trains a StableDiffusionPipeline on captioned images: first its VAE, then, on the latents, its UNet."""
    pipeline: Any = build_pipeline(CAPTIONS, SIZE, seed)
    generator = torch.Generator().manual_seed(seed)
    images = data.images.float() / 127.5 - 1
    train_vae(pipeline.vae, images, vae_steps, generator)
    train_unet(pipeline, images, data.labels, steps, generator)
    return pipeline


def train_vae(vae: Any, images: Tensor, steps: int, generator: torch.Generator) -> None:
    """Trains a VAE, and sets its scaling factor so that latents have a standard deviation of 1."""
    batches = shuffle(len(images), VAE_BATCH, generator)

    def loss() -> Tensor:
        return reconstruction_loss(vae, images[next(batches)], generator)

    descend("VAE", vae, loss, steps, VAE_RATE)
    vae.eval().requires_grad_(False)
    some = torch.linspace(0, len(images) - 1, min(len(images), 512)).round().long()
    vae.register_to_config(scaling_factor=round(1 / float(encode(vae, images[some])[0].std()), 6))


def reconstruction_loss(vae: Any, x: Tensor, generator: torch.Generator) -> Tensor:
    """Mean of (x̂ − x)² + kl · ½ (μ² + σ² − 1 − log σ²) over elements and images x [B, 3, H, W]; x̂ is of μ + σ ε."""
    posterior = vae.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator)
    error = vae.decode(posterior.mean + posterior.std * noise).sample - x
    return error.square().mean() + KL * posterior.kl().mean() / posterior.mean[0].numel()


def train_unet(pipeline: Any, images: Tensor, labels: Tensor, steps: int, generator: torch.Generator) -> None:
    """Trains a pipeline's UNet on the latents of captioned images: the squared error of v.

    Timesteps come in pairs t and T − 1 − t, whose losses together vary less than two others'.
    """
    scheduler, scale, unet = pipeline.scheduler, pipeline.vae.config.scaling_factor, pipeline.unet
    mean, std = (scale * part for part in encode(pipeline.vae, images))
    with torch.no_grad():
        prompts, empty = pipeline.encode_prompt(list(CAPTIONS), "cpu", 1, True)
    batches = shuffle(len(images), UNET_BATCH, generator)
    timesteps = scheduler.config.num_train_timesteps

    def loss() -> Tensor:
        rows = next(batches)
        x = mean[rows] + std[rows] * torch.randn(mean[rows].shape, generator=generator)
        half = torch.randint(timesteps, (len(rows) // 2,), generator=generator)
        t = torch.cat([half, timesteps - 1 - half])
        noise = torch.randn(x.shape, generator=generator)
        dropped = torch.rand(len(rows), generator=generator) < DROP
        prompt = torch.where(dropped[:, None, None], empty[:1], prompts[labels[rows]])
        predicted = unet(scheduler.add_noise(x, noise, t), t, encoder_hidden_states=prompt).sample
        return (predicted - scheduler.get_velocity(x, noise, t)).square().mean()

    descend("UNet", unet, loss, steps, UNET_RATE, EMA)
    unet.eval()


def train_flow_pipeline(data: Captioned, seed: int, vae_steps: int, steps: int) -> Any:
    """Trains a StableDiffusion3Pipeline on captioned images: first its VAE, then, on the latents, its transformer."""
    pipeline: Any = build_flow_pipeline(CAPTIONS, SIZE, seed)
    generator = torch.Generator().manual_seed(seed)
    images = data.images.float() / 127.5 - 1
    train_vae(pipeline.vae, images, vae_steps, generator)
    train_transformer(pipeline, images, data.labels, steps, generator)
    return pipeline


def train_transformer(pipeline: Any, images: Tensor, labels: Tensor, steps: int, generator: torch.Generator) -> None:
    """Trains a pipeline's transformer on the latents of captioned images: the squared error of the velocity.

    Times are logit-normal (Esser et al. 2024), in pairs u and 1 − u, and shifted as the scheduler says.
    """
    transformer, scale, shift = pipeline.transformer, pipeline.vae.config.scaling_factor, pipeline.scheduler.shift
    mean, std = (scale * part for part in encode(pipeline.vae, images))
    with torch.no_grad():
        prompts, empty, pooled, empty_pooled = pipeline.encode_prompt(
            list(CAPTIONS), None, None, "cpu", negative_prompt=""
        )
    absent = prompts.shape[1] - WINDOW
    prompts, empty = prompts[:, : WINDOW + 1], empty[:, : WINDOW + 1]
    batches = shuffle(len(images), FLOW_BATCH, generator)
    timesteps = pipeline.scheduler.config.num_train_timesteps

    def loss() -> Tensor:
        rows = next(batches)
        x = mean[rows] + std[rows] * torch.randn(mean[rows].shape, generator=generator)
        half = torch.randn(len(rows) // 2, generator=generator).sigmoid()
        u = torch.cat([half, 1 - half])
        sigma = shift * u / (1 + (shift - 1) * u)
        noise = torch.randn(x.shape, generator=generator)
        dropped = torch.rand(len(rows), generator=generator) < DROP
        told = labels[rows]
        with Repeated(absent):
            predicted = transformer(
                hidden_states=torch.lerp(x, noise, sigma[:, None, None, None]),
                timestep=timesteps * sigma,
                encoder_hidden_states=torch.where(dropped[:, None, None], empty[:1], prompts[told]),
                pooled_projections=torch.where(dropped[:, None], empty_pooled[:1], pooled[told]),
            ).sample
        return (predicted - (noise - x)).square().mean()

    descend("transformer", transformer, loss, steps, FLOW_RATE, EMA)
    transformer.eval()


class Repeated(TorchFunctionMode):
    """Inside the block the last token of each attention counts as `count` equal ones.

    That is what the pipeline's 256 zeros in place of T5's tokens are: equal at first, and so after every layer. One of
    them, whose attention score has log `count` added, gives the same in an eighth of the time.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Adds the logarithm to the last column of an attention's scores."""
        kwargs = kwargs or {}
        if func is nn.functional.scaled_dot_product_attention:
            query, key, *_ = args
            bias = query.new_zeros(1, key.shape[-2])
            bias[:, -1] = math.log(self.count)
            kwargs = {**kwargs, "attn_mask": bias}
        return func(*args, **kwargs)


def descend(
    name: str, model: nn.Module, loss: Callable[[], Tensor], steps: int, rate: float, ema: float | None = None
) -> None:
    """Trains a model by Adam, its gradients clipped and its rate falling to 0 by half a cosine.

    Args:
        name: of the model, in the lines of progress.
        model: is changed in place.
        loss: draws a batch and returns its mean loss.
        steps: how many.
        rate: of the first step.
        ema: decay d of the averaged weights Σ_i d^(k−i) θ_i / Σ_i d^(k−i), which the model has in the end; None: its
            last ones.
    """
    weights: list[Tensor] = [weight for weight in model.parameters() if weight.requires_grad]
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.Adam(weights, rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    started = said = time.monotonic()
    for k in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        norm = nn.utils.clip_grad_norm_(weights, MAX_NORM, foreach=True)
        if not norm.isfinite():
            sys.exit(f"the {name}'s gradient is not finite in step {k + 1}: nothing is kept.")
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            share = 1.0 if ema is None else (1 - ema) / (1 - ema ** (k + 1))
            torch._foreach_lerp_(averages, weights, share)
        now = time.monotonic()
        if now - said >= SECONDS_BETWEEN_LINES or k + 1 == steps:
            said, left = now, (now - started) / (k + 1) * (steps - k - 1)
            print(f"{name}: step {k + 1} of {steps}, loss {value.item():.4f}, {left:.0f} s left", flush=True)
    with torch.no_grad():
        for weight, average in zip(weights, averages, strict=True):
            weight.copy_(average)


def shuffle(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields full batches of the numbers below `count` for ever: one permutation after another."""
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < batch_size:
            left = torch.cat([left, torch.randperm(count, generator=generator)])
        yield left[:batch_size]
        left = left[batch_size:]


@torch.no_grad()
def encode(vae: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every image's latent, before scaling."""
    parts = [vae.encode(part).latent_dist for part in images.split(64)]
    return torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped: nothing half-made is left")
