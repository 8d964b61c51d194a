"""Samplers of diffusion models: from noise to images, along the steps of the diffusion or over some of them.

Song, Meng, Ermon: *Denoising Diffusion Implicit Models*, ICLR 2021. With η = 1 over all steps it is DDPM's sampler.
Written here, because the schedulers of diffusers know neither quadratic spacing nor a stop on the way; on what both
can do, a test holds them to the same images: DDIMScheduler with leading spacing and `use_clipped_model_output`, and
DDPMScheduler with the small fixed variance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.settings import check_arguments

if TYPE_CHECKING:
    from torch import Tensor

Spacing = Literal["uniform", "quadratic", "linspace"]
Solver = Literal["ddim", "lms"]


@check_arguments
@dataclass(frozen=True)
class Sampler:
    """How images are made of noise."""

    steps: int = 50
    """Timesteps that are visited."""
    eta: float = 0.0
    """η, the noise that is put back at each step: 0 for DDIM, 1 for DDPM."""
    spacing: Spacing = "uniform"
    """Of the visited timesteps: "uniform"; "quadratic" with more of them near 0; or "linspace", uniform from T − 1 to
    0, both included."""
    guidance_scale: float = 1.0
    """w in ε(x, ∅) + w (ε(x, c) − ε(x, ∅)), as diffusers counts it; 1: the condition alone."""
    solver: Solver = "ddim"
    """"ddim", which on a flow is Euler's method; or "lms": the linear multistep method of diffusers'
    LMSDiscreteScheduler, from T − 1 to 0, as published evaluations of Stable Diffusion have it."""
    clip: bool | None = None
    """Whether the guess of x₀ is kept in [−1, 1] at each step; null: of pixels yes, of latents no."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if self.steps < 1 or not 0 <= self.eta <= 1:
            raise SettingError(f"a sampler needs steps ≥ 1 and η in [0, 1], not {self.steps} and {self.eta}.")
        if self.guidance_scale <= 0:
            raise SettingError(f"guidance_scale must be above 0, not {self.guidance_scale}.")
        if self.solver == "lms" and (self.eta or self.clip or self.spacing == "quadratic"):
            raise SettingError("the solver lms puts no noise back, clips nothing, has its own spacing: leave eta 0.")

    @property
    def is_guided(self) -> bool:
        """Whether images are steered away from what the model makes without a condition."""
        return self.guidance_scale != 1

    def visited(self, total: int) -> list[int]:
        """The timesteps that are visited, falling; the last is 0. `total` is T, steps of the diffusion.

        Uniform: T / S · k where S divides T, else as linspace: a stride of ⌊T / S⌋ would leave out the noisiest
        timesteps, though x_T is pure noise. Linspace: (T − 1) / (S − 1) · k, rounded. Quadratic:
        ⌊0.8 T (k / (S − 1))²⌋; those that fall together near 0 are visited once, as a step from t to t changes nothing.
        k = 0, …, S − 1. The solver lms visits those of linspace, not rounded.

        Raises:
            SettingError: if there are more steps than T.

        Source: Song et al. 2021, appendix D.2, "linear" and "quadratic"; 0.8 is of their published code. Linspace is
        that of diffusers, and of the published code of DiT.
        """
        if self.steps > total:
            raise SettingError(f"a diffusion of {total} steps cannot be sampled in {self.steps}.")
        last = max(1, self.steps - 1)
        if self.spacing == "quadratic":
            return sorted({4 * total * k * k // (5 * last * last) for k in range(self.steps)}, reverse=True)
        if self.spacing == "uniform" and self.solver == "ddim" and total % self.steps == 0:
            return [k * (total // self.steps) for k in range(self.steps)][::-1]
        return [round(k * ((total - 1) / last)) for k in range(self.steps)][::-1]


def denoise(
    predict: Callable[[Tensor, int], Tensor],
    x: Tensor,
    alphas_cumprod: Tensor,
    sampler: Sampler,
    *,
    noise: Callable[[], Tensor],
    clip: bool,
    until: int = -1,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """x₀ from x_T, or x_t where it stops on the way.

    Args:
        predict: (x_t, t) → the predicted noise, [B, …].
        x: noise, x_T [B, …].
        alphas_cumprod: ᾱ_t, [T].
        sampler: which steps, and η.
        noise: draws new noise of x's shape, where η > 0.
        clip: whether the guessed x₀ is kept in [−1, 1]: right for pixels, wrong for latents.
        until: the last timestep that is not visited any more; the result is x at this timestep. −1: x₀. No later
            than the first visited one there is nothing to do: x itself.
        advance: called after each step.

    Returns:
        [B, …], as x.

    Source: Song et al. 2021, eq. 12.
    """
    steps = [t for t in sampler.visited(len(alphas_cumprod)) if t > until]
    for t, before in pairwise([*steps, until]):
        now, then = float(alphas_cumprod[t]), float(alphas_cumprod[before]) if before >= 0 else 1.0
        predicted = predict(x, t)
        clean = (x - (1 - now) ** 0.5 * predicted) / now**0.5
        if clip:
            clean = clean.clamp(-1, 1)
            predicted = (x - now**0.5 * clean) / (1 - now) ** 0.5
        sigma = sampler.eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5
        x = then**0.5 * clean + max(0.0, 1 - then - sigma**2) ** 0.5 * predicted
        if sigma > 0:
            x = x + sigma * noise()
        advance()
    return x


def integrate(
    predict: Callable[[Tensor, float], Tensor],
    x: Tensor,
    times: Sequence[float],
    total: float,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """X at the last time, by Euler's method along a velocity: x ← x + (σ_next − σ) v(x, t), σ = t / T.

    Along a straight path it is DDIM's step.

    Args:
        predict: (x_t, t) → the velocity dx/dσ, [B, …].
        x: at the first time, [B, …].
        times: t, in the order in which they are passed through.
        total: T.
        advance: called after each step.
    """
    for now, then in pairwise(times):
        x = x + (then - now) / total * predict(x, now)
        advance()
    return x


def noise_of(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal noise [B, *shape], each row from a generator of its own: no image depends on its batch."""
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])
