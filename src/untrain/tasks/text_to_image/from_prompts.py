"""Concepts without images: x_t is made on the way, by the original, from the prompts alone.

Row i of a set stands for the image that the original would make of its prompt and of noise i. A drawn batch holds where
these images are at timestep t on their way from noise: no image is made before the first step, and none to its end. On
such x_t ESD trains (Gandikota, Materzyńska, Fiotto-Kaufman, Bau: *Erasing Concepts from Diffusion Models*, ICCV 2023),
there of the model as it is in each step; here they are the original's, as images made before are.

Nobody knows what noise was added to an x_t of this kind. What the training loss compares with is told by the original:

    forget, evaluate:  ε*(x_t, ∅) + w (ε*(x_t, c) − ε*(x_t, ∅)), the expected noise of an image made with guidance w;
    train, retain:     ε*(x_t, c), or ε*(x_t, ∅) where the prompt is dropped, so that nothing that is kept moves;
    fisher:            the first, and standard normal noise: a draw of the Gaussian that a squared error stands for, of
                       which the mean of squared gradients is the Fisher information (Martens 2020, section 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from untrain.engine import Engine, generator_of
from untrain.errors import SettingError, spell
from untrain.methods.forgetting import frozen
from untrain.rows import cut
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.task import TextToImage, conditioned
from untrain.types import Batch, Role

START = "start"
"""Of rows that stand for images that were never made: the number of the noise that each begins at, int64 [B]."""


class Starts:
    """Rows that stand for images, in place of latents.

    Args:
        labels: the numbers of their prompts, [N].
        shape: (C, h, w) of a latent.
        numbers: of their noise, [N]; None: from 0.
        device: of what it gives.
    """

    def __init__(
        self,
        labels: Tensor,
        shape: Sequence[int],
        numbers: Tensor | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.labels, self.shape, self.device = labels, tuple(shape), torch.device(device)
        self.numbers = torch.arange(len(labels)) if numbers is None else numbers

    def batch(self, indices: Tensor) -> Batch:
        """Rows at these positions, with x₀ unknown: zeros as "input"."""
        chosen = indices.cpu()
        rows = {"input": torch.zeros(len(chosen), *self.shape), "label": self.labels[chosen], "index": chosen}
        return {name: values.to(self.device) for name, values in {**rows, START: self.numbers[chosen]}.items()}

    def select(self, indices: Tensor) -> "Starts":
        """These rows alone, numbered from 0; each begins at the noise that it began at."""
        chosen = indices.cpu()
        return Starts(self.labels[chosen], self.shape, self.numbers[chosen], self.device)

    def to(self, device: torch.device | str) -> "Starts":
        """The same rows on another device."""
        return Starts(self.labels, self.shape, self.numbers, device)


@dataclass(frozen=True, eq=False)
class Way:
    """How x_t is made.

    Attributes:
        sampler: which timesteps are visited, and at what guidance.
        engine: where; each process makes its share.
        seed: of the noise.
        original: makes x_t, and is never changed; None: `prepare` takes a copy of the model that it is given.
    """

    sampler: Sampler
    engine: Engine
    seed: int
    original: nn.Module | None = None


class FromPrompts(TextToImage):
    """`TextToImage` whose rows may stand for images that were never made; `work_from_prompts` makes it."""

    way: Way

    def prepare(self, model: nn.Module, batch: Batch) -> "FromPrompts":
        """As of `TextToImage`; with the original, which costs a copy of what is trained, if it has none yet."""
        super().prepare(model, batch)
        if self.way.original is not None:
            return self
        return work_from_prompts(self, replace(self.way, original=frozen(model)))

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """As of `TextToImage`; of rows that stand for images, x_t on the way and what the original predicts there.

        One pair of timesteps is drawn for the whole batch, as far from the first visited one as from the last, and half
        of the rows are at each. In the role "evaluate", in which conditions are looked at, x_t is zeros.
        """
        if START not in batch:
            return super().draw(batch, generator, role)
        start, width = batch[START], torch.promote_types(batch["prompt"].dtype, torch.float32)
        rows = {key: value for key, value in batch.items() if key != START}
        drawn = super().draw({**rows, "input": batch["input"].to(width)}, generator, role)
        if role == "evaluate":
            return {**{key: value for key, value in drawn.items() if key != "noise"}, "seen": drawn["input"]}
        visited = self.visited(self.way.sampler)
        first = int(torch.randint(len(visited), (), generator=generator))
        half = (len(start) + 1) // 2
        pair = ((visited[first], slice(0, half)), (visited[-1 - first], slice(half, len(start))))
        parts = [self._seen(cut(drawn, part), start[part], t, role) for t, part in pair if len(start[part])]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def _seen(self, rows: Batch, start: Tensor, t: float, role: Role) -> Batch:
        """Drawn rows at timestep t: x_t as "seen", "target", and as "input" the x₀ that the target speaks of."""
        engine, original = self.way.engine, self.way.original
        if original is None:
            raise SettingError("the task does not know the original yet: call prepare(model, batch) first.")
        share = engine.shard({**rows, START: start})
        numbers, seen, target = share.pop(START).tolist(), share["input"], share["input"]
        if numbers:  # this process can have no share of a small batch
            generators = [generator_of(self.way.seed, "from prompts", i) for i in numbers]
            with torch.no_grad(), engine.autocast():
                asked = conditioned(share, "prompt")
                seen = self.generate(original, asked, generators, self.way.sampler, until=t)
                target = self._expected(original, self._at(share, t, seen), role).to(seen.dtype)
        seen, target = engine.gather(seen), engine.gather(target)
        batch = self._at(rows, t, seen)
        clean = self.path.clean(self._direction(target, batch), seen, batch["timestep"])
        return {**batch, "input": clean, "target": target + rows["noise"] if role == "fisher" else target}

    def _at(self, batch: Batch, t: float, seen: Tensor) -> Batch:
        return self.at(batch, torch.full_like(batch["timestep"], t), seen)

    def _expected(self, original: nn.Module, share: Batch, role: Role) -> Tensor:
        """What the original predicts, ε or v, [B, C, h, w]; guided, unless it is to stay as it is."""
        stays = role in ("train", "retain")
        if not stays and self.kind.guidance == "input":
            return self.guided(original, share, self.way.sampler.guidance_scale)  # of a flow, which predicts directions
        found = self.outputs(original, share)
        if stays:
            return found
        none, w = self.outputs(original, self.variant(share, "unconditional")), self.way.sampler.guidance_scale
        return none + w * (found - none)

    def noisy(self, batch: Batch) -> Tensor:
        """As of `TextToImage`.

        Raises:
            SettingError: of rows whose images a method asks for, though there are none.
        """
        if "seen" not in batch and "noise" not in batch:
            raise SettingError(
                "the method looks at images, and concepts have none where it works from prompts alone: leave out "
                f"{spell('concepts.images.from_prompts', 'images=ConceptImages(from_prompts=…)')}, or take a method "
                "that redirects, such as sfron."
            )
        return super().noisy(batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """As of `TextToImage`; the target is what the original predicts."""
        if "target" not in batch:
            self.noisy({key: value for key, value in batch.items() if key != "seen"})
        return super().loss(model, batch)


def work_from_prompts(task: TextToImage, way: Way) -> FromPrompts:
    """The task for rows that stand for images that were never made, as well as for latents."""
    made = FromPrompts(**{each.name: getattr(task, each.name) for each in fields(task)})
    object.__setattr__(made, "way", way)
    return made
