"""What tasks of diffusion models share: the schedule of the noise, drawn timesteps, x_t, and squared errors.

Ho, Jain, Abbeel: *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, whose symbols these are:
x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from untrain.engine import preserve_modes
from untrain.errors import SettingError
from untrain.lazy import nn, torch
from untrain.sampling import Sampler, denoise, noise_of
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

Schedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Draws = Literal["antithetic", "uniform"]
Reduction = Literal["mean", "sum"]
LATENTS = ("latent_mean", "latent_std")


@dataclass(frozen=True)
class DiffusionProcess:
    """The diffusion that a generator is trained on, how it is trained, and what follows from both.

    Drawn batches hold x₀ as "input", [B, C, H, W], and "timestep" and "noise" for each sample.
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
    draws: Draws = "antithetic"
    """Timesteps of a batch: pairs t and T − 1 − t, or each by itself."""
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
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_t, [T], float64."""
        return _alphas_cumprod(self.schedule, self.timesteps, self.beta_start, self.beta_end)

    def scales(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t) of every sample, [B, 1, 1, 1] each, as wide as `like`."""
        kept = self.alphas_cumprod.to(like.device)[timestep][:, None, None, None]
        return kept.sqrt().to(like.dtype), (1 - kept).sqrt().to(like.dtype)

    def drawn_timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Timesteps of a batch, int64 [count], on the CPU."""
        if self.draws == "uniform":
            return torch.randint(0, self.timesteps, (count,), generator=generator)
        half = torch.randint(0, self.timesteps, ((count + 1) // 2,), generator=generator)
        return torch.cat([half, self.timesteps - 1 - half])[:count]

    def at(self, batch: Batch, timestep: Tensor, seen: Tensor | None = None) -> Batch:
        """The drawn batch at these timesteps, [B]: its input noised so far, or x_t = `seen`, [B, C, H, W]."""
        moved = {**batch, "timestep": timestep}
        for key in ("seen", "target"):  # of the timestep that it was drawn at
            moved.pop(key, None)
        return moved if seen is None else {**moved, "seen": seen}

    def noisy(self, batch: Batch) -> Tensor:
        """x_t, [B, C, H, W]: the batch's "seen" where it has one, else the noised input."""
        if "seen" in batch:
            return batch["seen"]
        signal, noise = self.scales(batch["timestep"], batch["input"])
        return signal * batch["input"] + noise * batch["noise"]

    def squared(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared distance, averaged or summed over all but the first dimension, [B]."""
        errors = (a - b).square().flatten(1)
        return errors.sum(1) if self.reduction == "sum" else errors.mean(1)

    def divergence(self, outputs: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Squared distance of predictions, [B]; up to a factor the KL of the two Gaussians. No temperature."""
        return self.squared(outputs, targets)

    def guided(self, model: nn.Module, batch: Batch, scale: float) -> Tensor:
        """The noise ε(x, ∅) + w (ε(x, c) − ε(x, ∅)) predicted for a drawn batch, w the guidance scale; a task's own."""
        raise NotImplementedError

    def generate(
        self,
        model: nn.Module,
        batch: Batch,
        generators: Sequence[torch.Generator],
        sampler: Sampler,
        *,
        until: int = -1,
        advance: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """Images or latents of the batch's condition, [B, C, H, W] as its input; modes are put back, no gradient flows.

        Args:
            model: predicts noise; looked at in evaluation mode.
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

        kept = self.alphas_cumprod
        if sampler.solver == "lms":
            self._check_multistep(until)
            with torch.no_grad(), preserve_modes(model):
                model.eval()
                return multistep(predict, noise(), kept, sampler.steps, advance)
        clip = getattr(self, "clip_samples", False) if sampler.clip is None else sampler.clip
        with torch.no_grad(), preserve_modes(model):
            model.eval()
            return denoise(predict, noise(), kept, sampler, noise=noise, clip=clip, until=until, advance=advance)

    def _check_multistep(self, until: int) -> None:
        if until >= 0:
            raise SettingError("the solver lms cannot stop on the way: give a sampler of the solver ddim here.")
        if getattr(self, "prediction", "epsilon") != "epsilon":
            raise SettingError("the solver lms visits times between steps, at which v is not known: take ddim.")


def multistep(
    predict: Callable[[Tensor, float], Tensor],
    x: Tensor,
    alphas_cumprod: Tensor,
    steps: int,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """x₀ from x_T by the linear multistep method of order 4, as diffusers has it.

    Args:
        predict: (x_t, t) → the predicted noise, [B, …]; t need not be whole.
        x: noise, x_T [B, …].
        alphas_cumprod: ᾱ_t, [T].
        steps: how many.
        advance: called after each step.

    Returns:
        [B, …], as x.
    """
    from diffusers import LMSDiscreteScheduler

    before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    betas = (1 - alphas_cumprod / before).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of numpy 2, about how diffusers makes arrays
        scheduler: Any = LMSDiscreteScheduler(num_train_timesteps=len(betas), trained_betas=betas)
        scheduler.set_timesteps(steps)
    x = x * scheduler.init_noise_sigma.to(x)
    for t in scheduler.timesteps:
        noise = predict(scheduler.scale_model_input(x, t).to(x.dtype), float(t))
        x = scheduler.step(noise, t, x).prev_sample.to(noise.dtype)
        advance()
    return x


@lru_cache(maxsize=8)
def _alphas_cumprod(schedule: Schedule, steps: int, start: float, end: float) -> Tensor:
    try:
        from diffusers import DDPMScheduler
    except ImportError as error:
        raise SettingError("generators need diffusers: pip install 'untrain[diffusion]'.") from error
    made: Any = DDPMScheduler(num_train_timesteps=steps, beta_start=start, beta_end=end, beta_schedule=schedule)
    return (1 - made.betas.double()).cumprod(0)
