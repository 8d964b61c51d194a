"""What tasks of generators share: the path of the noise, drawn timesteps, x_t, squared errors, images from noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from untrain.diffusion.paths import BetaPath, Draws, Flow, FlowPath, NoisePath, Schedule
from untrain.engine import preserve_modes
from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.sampling import Sampler, noise_of
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["mean", "sum"]
LATENTS = ("latent_mean", "latent_std")


@dataclass(frozen=True)
class DiffusionProcess:
    """The diffusion or flow that a generator is trained on, how it is trained, and what follows from both.

    Drawn batches hold x₀ as "input", [B, C, H, W], and "timestep" and "noise" for each sample. What depends on how
    noise is mixed in goes through `path`.
    """

    asks_teacher: ClassVar[bool] = True

    timesteps: int = 1000
    """T, steps of the diffusion."""
    schedule: Schedule = "linear"
    """How β grows over the steps, by the names of diffusers."""
    beta_start: float = 1e-4
    """β of the first step."""
    beta_end: float = 0.02
    """β of the last step. A pipeline's or a checkpoint's own schedule takes the place of these four."""
    flow: Flow | None = None
    """Of a model trained by flow matching: how; the schedule of β is then left aside. Null: it is none."""
    draws: Draws = "antithetic"
    """Timesteps of a batch: pairs t and T − 1 − t (of a flow, before the shift, u and 1 − u), or each by itself."""
    drop: float = 0.1
    """Probability that a sample's condition is dropped in training and in retain steps; never when forgetting."""
    reduction: Reduction = "mean"
    """Of the squared error over pixels. "mean" keeps a gradient's norm independent of the image size, so that one
    clipping norm fits all; published DDPM settings (α, clipping) are for "sum"."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not 0 <= self.drop < 1 or self.timesteps < 1 or not 0 < self.beta_start <= self.beta_end < 1:
            raise SettingError("drop must be in [0, 1), timesteps ≥ 1 and 0 < beta_start ≤ beta_end < 1.")

    @property
    def path(self) -> NoisePath:
        """How images become noise, and noise images."""
        return self.beta_path if self.flow is None else FlowPath(self.timesteps, self.flow)

    @property
    def beta_path(self) -> BetaPath:
        """The schedule of β, of models that are no flows."""
        prediction = getattr(self, "prediction", "epsilon")
        return BetaPath(self.timesteps, self.schedule, self.beta_start, self.beta_end, prediction)

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_t, [T], float64, of models that are no flows."""
        return self.beta_path.alphas_cumprod

    def drawn_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps of a batch, [count], on the CPU: int64, or float32 of a flow."""
        return self.path.draw(count, generator, self.draws)

    def visited(self, sampler: Sampler) -> list[float]:
        """The timesteps that a sampler visits, falling."""
        return self.path.visited(sampler)

    def at(self, batch: Batch, timestep: Tensor, seen: Tensor | None = None) -> Batch:
        """The drawn batch at these timesteps, [B]: its input noised so far, or x_t = `seen`, [B, C, H, W].

        Whole numbers are numbers of timesteps, 0 … T − 1; real ones are timesteps of a flow.
        """
        moved = {**batch, "timestep": timestep if timestep.is_floating_point() else self.path.numbered(timestep)}
        for key in ("seen", "target"):  # of the timestep that it was drawn at
            moved.pop(key, None)
        return moved if seen is None else {**moved, "seen": seen}

    def noisy(self, batch: Batch) -> Tensor:
        """x_t, [B, C, H, W]: the batch's "seen" where it has one, else the noised input."""
        if "seen" in batch:
            return batch["seen"]
        return self.path.noisy(batch["input"], batch["noise"], batch["timestep"])

    def target(self, batch: Batch) -> Tensor:
        """What a model is to predict for a drawn batch, [B, C, H, W]: its "target" if it has one, else the path's."""
        if "target" in batch:
            return batch["target"]
        return self.path.target(batch["input"], batch["noise"], batch["timestep"])

    def denoising_loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        """The weighted squared error of what was predicted for a drawn batch, [B]."""
        return self.path.weight(batch["timestep"]) * self.squared(predicted, self.target(batch))

    def squared(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared distance, averaged or summed over all but the first dimension, [B]."""
        errors = (a - b).square().flatten(1)
        return errors.sum(1) if self.reduction == "sum" else errors.mean(1)

    def divergence(self, outputs: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Squared distance of predictions, [B]; up to a factor the KL of the two Gaussians. No temperature."""
        return self.squared(outputs, targets)

    def guided(self, model: nn.Module, batch: Batch, scale: float) -> Tensor:
        """The guided direction of a drawn batch, ε(x, ∅) + w (ε(x, c) − ε(x, ∅)), or of velocities; a task's own."""
        raise NotImplementedError

    def generate(
        self,
        model: nn.Module,
        batch: Batch,
        generators: Sequence[torch.Generator],
        sampler: Sampler,
        *,
        until: float = -1,
        advance: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Images or latents of the batch's condition, [B, C, H, W] as its input; modes are put back, no gradient flows.

        Args:
            model: predicts noise or velocity; looked at in evaluation mode.
            batch: "condition" says of what, the shape of "input" how large.
            generators: of each image's noise, on the CPU.
            sampler: steps, η, guidance scale.
            until: stop at this timestep and give x_t; −1: give x₀.
            advance: called after each step.
        """
        like = batch["input"]

        def noise() -> Tensor:
            return noise_of(generators, like.shape[1:]).to(like)

        def predict(x: Tensor, t: float) -> Tensor:
            timestep = torch.full((len(like),), t, device=like.device)
            return self.guided(model, self.at(batch, timestep, x), sampler.guidance_scale).to(x.dtype)

        clip = getattr(self, "clip_samples", False) if sampler.clip is None else sampler.clip
        with torch.no_grad(), preserve_modes(model):
            model.eval()
            return self.path.denoise(predict, noise(), sampler, noise=noise, clip=clip, until=until, advance=advance)
