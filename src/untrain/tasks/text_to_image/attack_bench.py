"""Where attacks on a pipeline work: its parts on one device, embedded texts, images of these, and the loss."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from untrain.diffusion.architectures.base import EMBEDS, Condition
from untrain.diffusion.images import ImageMaker, to_uint8
from untrain.diffusion.latents import decode
from untrain.diffusion.text import Prompts, embed_texts, text_encoders
from untrain.engine import Engine, on_device, preserve_state
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.attack_target import AttackTarget
from untrain.tasks.text_to_image.concepts import prompt_conditions
from untrain.tasks.text_to_image.task import TextToImage
from untrain.types import Batch


@dataclass(frozen=True, eq=False)
class AttackBench:
    """A pipeline's parts, set up for attacks on one UNet after another.

    Attributes:
        pipeline: its text encoders are on the engine's device.
        task: its per-sample functions.
        empty: its prompts of nothing, on the engine's device; the first is the empty one.
        shape: (C, h, w) of a latent.
        engine: device, precision, processes.
        sampler: how images are made.
        batch_size: images at once.
        seed: of the images' noise: image i of a prompt has the same in every model and after every attack.
    """

    pipeline: Any
    task: TextToImage
    empty: Prompts
    shape: tuple[int, ...]
    engine: Engine
    sampler: Sampler
    batch_size: int
    seed: int

    def embed(self, texts: Sequence[str]) -> Condition:
        """What becomes of texts as they are, [B, …] each."""
        with torch.no_grad():
            return embed_texts(self.pipeline, texts)

    def prompts(self, keys: Sequence[str], embedded: Condition) -> Prompts:
        """Returns embedded texts as a batch and a renderer take them: numbers from 1; keys seed the images' noise."""
        nothing = self.empty
        own = {EMBEDS: nothing.embeds, **nothing.more}
        joined = {field: torch.cat([own[field][:1], value.to(own[field])]) for field, value in embedded.items()}
        return Prompts(("", *keys), joined.pop(EMBEDS), joined, nothing.shared)

    def draw(
        self, unet: nn.Module, keys: Sequence[str], embedded: Condition, numbers: Sequence[int], label: str | None
    ) -> Tensor:
        """Makes an image of every embedded text, uint8 [N, 3, H, W] on the CPU.

        Args:
            unet: on the engine's device.
            keys: what seeds the noise with a number, [N].
            embedded: the texts, [N].
            numbers: of the images among those of their keys, [N].
            label: of the progress bar; None: no bar.
        """
        conditions = prompt_conditions(self.task, self.prompts(keys, embedded))
        decoder = partial(decode, self.pipeline.vae)
        maker = ImageMaker(
            self.task, conditions, self.shape, self.sampler, self.engine, self.seed, self.batch_size, decoder
        )
        rows = torch.arange(1, len(keys) + 1)
        made = [to_uint8(part.images).cpu() for part in maker.generate(unet, rows, torch.tensor(numbers), label)]
        return torch.cat(made)

    def losses(self, unet: nn.Module, drawn: Batch) -> Tensor:
        """The pipeline's own training loss of a drawn batch, [B of this process]; in float32 where the run is fp16."""
        with self.engine.autocast() if self.engine.precision == "bf16" else nullcontext():
            return self.task.loss(unet, self.engine.shard(drawn))

    def rows(self, target: AttackTarget, places: Sequence[int], embedded: Condition) -> Batch:
        """Returns images of the target under embedded texts, as the task draws from: [B] each."""
        posterior = target.posterior[list(places)].to(self.engine.device)
        numbers = torch.arange(1, len(places) + 1, device=self.engine.device)
        texts = self.prompts([""] * len(places), embedded).rows(numbers, torch.zeros_like(numbers))
        return {"latent_mean": posterior[:, 0], "latent_std": posterior[:, 1], "label": numbers, **texts}

    @contextmanager
    def frozen(self, unet: nn.Module) -> Iterator[None]:
        """Sets a UNet and the other parts up for the block: on the device, in evaluation mode, without a gradient."""
        parts: list[nn.Module] = [unet, self.pipeline.vae, *text_encoders(self.pipeline)]
        asked = [(weight, weight.requires_grad) for part in parts for weight in part.parameters()]
        with on_device(self.engine.device, *parts), preserve_state(nn.ModuleList(parts)):
            try:
                for part in parts:
                    part.eval().requires_grad_(False)
                yield
            finally:
                for weight, before in asked:
                    weight.requires_grad_(before)

    def descend(self, losses: Tensor, weights: Sequence[Tensor], *, mean: bool) -> None:
        """Makes `.grad` the gradient of the losses' mean, or of their sum, over all processes' parts of the batch."""
        loss = self.engine.mean(losses)
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        (loss if mean else loss * self.engine.global_batch_size(losses)).backward()
        self.engine.all_reduce_([weight.grad for weight in weights if weight.grad is not None])

    def progress(self, label: str, steps: int) -> Any:
        """Returns a bar with the time left."""
        return self.engine.progress(label, steps)


def chosen_rows(embedded: Condition, rows: Sequence[int]) -> Condition:
    """What became of some of the texts."""
    return {field: value[list(rows)] for field, value in embedded.items()}


TRIALS = 10_000
"""Trials are numbered from here on: their noise is that of no image which an attack learns from."""


def spread(count: int, among: int, first: int = 0) -> tuple[list[int], list[int]]:
    """Spreads images over prompts in turn: of each image its prompt, and its number among those of the prompt."""
    return [i % among for i in range(count)], [first + i // among for i in range(count)]
