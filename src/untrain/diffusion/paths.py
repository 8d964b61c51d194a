"""Paths from images to noise and back: the schedule of β of diffusion models, and the straight line of flow matching.

On every path x_t = a_t x₀ + b_t ε. A model predicts the path's target; a sampler walks back along what it predicts.
Tasks, methods and makers of images know a path by these functions alone.

Sources: Ho, Jain, Abbeel: *Denoising Diffusion Probabilistic Models*, NeurIPS 2020; Salimans, Ho: *Progressive
Distillation for Fast Sampling of Diffusion Models*, ICLR 2022 (v-prediction); Liu, Gong, Liu: *Flow Straight and Fast*,
ICLR 2023; Esser et al.: *Scaling Rectified Flow Transformers for High-Resolution Image Synthesis*, ICML 2024 (drawn σ,
shift); Ma et al.: *SiT: Exploring Flow and Diffusion-based Generative Models with Scalable Interpolant Transformers*,
ECCV 2024 (its convention).
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.sampling import Sampler, denoise, integrate
from untrain.settings import check_arguments

if TYPE_CHECKING:
    from torch import Tensor

Schedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Draws = Literal["antithetic", "uniform"]
Predict = Callable[["Tensor", float], "Tensor"]
"""(x_t, t) → the direction at x_t, [B, …]; see `NoisePath.direction`."""


class NoisePath(ABC):
    """How images become noise over a time t, and how noise becomes images.

    Timesteps of a batch are a tensor [B], as the model is told of them. A sampler's are numbers, falling.
    """

    timesteps: int

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator, draws: Draws) -> Tensor:
        """Timesteps of a batch to train on, [count], on the CPU: in pairs that mirror each other, or each by itself."""

    @abstractmethod
    def numbered(self, numbers: Tensor) -> Tensor:
        """The timesteps of these numbers, int64 [B] in 0 … T − 1, from almost no noise to nothing but noise."""

    @abstractmethod
    def scales(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a_t and b_t of every sample, [B, 1, 1, 1] each, as wide as `like`."""

    def noisy(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t = a_t x₀ + b_t ε, [B, C, H, W]."""
        signal, scale = self.scales(timestep, clean)
        return signal * clean + scale * noise

    def told(self, timestep: Tensor) -> Tensor:
        """Timesteps as the model is told of them, [B]."""
        return timestep

    def predicted(self, given: Tensor) -> Tensor:
        """The path's prediction, of what the model gives, [B, C, H, W] both."""
        return given

    @abstractmethod
    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What a model is to predict at x_t, [B, C, H, W]."""

    @abstractmethod
    def weight(self, timestep: Tensor) -> Tensor:
        """The weight of every sample's loss, [B], float32."""

    @abstractmethod
    def direction(self, predicted: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """What a sampler walks along, of what was predicted at x_t: ε on a schedule of β, the velocity of a flow."""

    @abstractmethod
    def clean(self, direction: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """x₀ of a direction at x_t, [B, C, H, W]."""

    @abstractmethod
    def visited(self, sampler: Sampler) -> list[float]:
        """The timesteps that a sampler visits, falling, the last one before x₀ included.

        Raises:
            SettingError: if the path cannot be sampled so.
        """

    @abstractmethod
    def denoise(
        self,
        predict: Predict,
        x: Tensor,
        sampler: Sampler,
        *,
        noise: Callable[[], Tensor],
        clip: bool,
        until: float = -1,
        advance: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """x₀ from noise, or x_t where it stops on the way; see `untrain.sampling.denoise`.

        Raises:
            SettingError: if the path cannot be sampled so.
        """


@dataclass(frozen=True)
class BetaPath(NoisePath):
    """x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε, ᾱ_t = Π (1 − β); t = 0 … T − 1 is a whole number.

    Attributes:
        timesteps: T.
        schedule: how β grows, by the names of diffusers.
        beta_start: the first β.
        beta_end: the last β.
        prediction: the target: "epsilon" (ε) or "v_prediction" (√ᾱ_t ε − √(1 − ᾱ_t) x₀).
    """

    timesteps: int
    schedule: Schedule
    beta_start: float
    beta_end: float
    prediction: str = "epsilon"

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_t, [T], float64."""
        return _alphas_cumprod(self.schedule, self.timesteps, self.beta_start, self.beta_end)

    def draw(self, count: int, generator: torch.Generator, draws: Draws) -> Tensor:
        """Uniform whole numbers; a pair is t and T − 1 − t."""
        if draws == "uniform":
            return torch.randint(0, self.timesteps, (count,), generator=generator)
        half = torch.randint(0, self.timesteps, ((count + 1) // 2,), generator=generator)
        return torch.cat([half, self.timesteps - 1 - half])[:count]

    def numbered(self, numbers: Tensor) -> Tensor:
        """Timesteps are their own numbers."""
        return numbers

    def scales(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 − ᾱ_t)."""
        kept = self.alphas_cumprod.to(like.device)[timestep][:, None, None, None]
        return kept.sqrt().to(like.dtype), (1 - kept).sqrt().to(like.dtype)

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """ε, or v."""
        if self.prediction == "epsilon":
            return noise
        signal, scale = self.scales(timestep, clean)
        return signal * noise - scale * clean

    def weight(self, timestep: Tensor) -> Tensor:
        """1: the simple loss of Ho et al."""
        return torch.ones(len(timestep), device=timestep.device)

    def direction(self, predicted: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """ε: what was predicted itself, or √ᾱ_t v + √(1 − ᾱ_t) x_t."""
        if self.prediction == "epsilon":
            return predicted
        signal, scale = self.scales(timestep, predicted)
        return signal * predicted + scale * noisy

    def clean(self, direction: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """(x_t − √(1 − ᾱ_t) ε) / √ᾱ_t."""
        signal, scale = self.scales(timestep, noisy)
        return (noisy - scale * direction) / signal

    def visited(self, sampler: Sampler) -> list[float]:
        """Whole numbers, see `Sampler.visited`."""
        return list(sampler.visited(self.timesteps))

    def denoise(
        self,
        predict: Predict,
        x: Tensor,
        sampler: Sampler,
        *,
        noise: Callable[[], Tensor],
        clip: bool,
        until: float = -1,
        advance: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """By the sampler's solver."""
        kept = self.alphas_cumprod
        if sampler.solver == "lms":
            if until >= 0:
                raise SettingError("the solver lms cannot stop on the way: give a sampler of the solver ddim here.")
            if self.prediction != "epsilon":
                raise SettingError("the solver lms visits times between steps, at which v is not known: take ddim.")
            return multistep(predict, x, kept, sampler.steps, advance)
        return denoise(predict, x, kept, sampler, noise=noise, clip=clip, until=int(until), advance=advance)


@check_arguments
@dataclass(frozen=True)
class Flow:
    """How a flow-matching model was trained and is sampled."""

    shift: float = 1.0
    """The number s in σ = s u / (1 + (s − 1) u), which moves drawn and visited times u in [0, 1] towards noise; Stable
    Diffusion 3: 3; FLUX: by the size of images."""
    density: Literal["logit-normal", "uniform"] = "logit-normal"
    """Of drawn times u: 1 / (1 + exp(−z)) with standard normal z, or uniform."""
    weighting: Literal["none", "cosmap"] = "none"
    """Weight of the loss at σ: 1; or 2 / (π (1 − 2σ + 2σ²)), of Esser et al. 2024."""
    convention: Literal["diffusers", "sit"] = "diffusers"
    """What a generator of classes is told and gives: T σ and ε − x₀; or 1 − σ and x₀ − ε, as SiT's own weights are
    (Ma et al. 2024), which go with `density: uniform`."""

    def __post_init__(self) -> None:
        """Checks the range."""
        if not 0 < self.shift < math.inf:
            raise SettingError(f"shift must be above 0, not {self.shift}.")


@dataclass(frozen=True)
class FlowPath(NoisePath):
    """x_t = (1 − σ) x₀ + σ ε with σ = t / T; t in (0, T] is real. The target is the velocity v = ε − x₀.

    Attributes:
        timesteps: T, by which models count time: usually 1000.
        flow: shift, density of drawn times, weights.
    """

    timesteps: int
    flow: Flow

    def shifted(self, u: Any) -> Any:
        """σ of a time u in [0, 1], a number or a tensor."""
        return self.flow.shift * u / (1 + (self.flow.shift - 1) * u)

    def draw(self, count: int, generator: torch.Generator, draws: Draws) -> Tensor:
        """By the flow's density; a pair is u and 1 − u. float32."""
        half = count if draws == "uniform" else (count + 1) // 2
        if self.flow.density == "uniform":
            u = torch.rand(half, generator=generator, dtype=torch.float64)
        else:
            u = torch.randn(half, generator=generator, dtype=torch.float64).sigmoid()
        return (self.timesteps * self.shifted(torch.cat([u, 1 - u])[:count])).float()

    def numbered(self, numbers: Tensor) -> Tensor:
        """Number k is at u = (k + 1) / T, as diffusers trains on. float32."""
        return (self.timesteps * self.shifted((numbers.double() + 1) / self.timesteps)).float()

    def scales(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """1 − σ and σ."""
        sigma = (timestep.to(like.dtype) / self.timesteps)[:, None, None, None]
        return 1 - sigma, sigma

    def told(self, timestep: Tensor) -> Tensor:
        """T σ, or 1 − σ."""
        return timestep if self.flow.convention == "diffusers" else 1 - timestep / self.timesteps

    def predicted(self, given: Tensor) -> Tensor:
        """v, of v or −v."""
        return given if self.flow.convention == "diffusers" else -given

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The velocity v = ε − x₀, at all times the same."""
        return noise - clean

    def weight(self, timestep: Tensor) -> Tensor:
        """1, or the flow's weighting."""
        if self.flow.weighting == "none":
            return torch.ones(len(timestep), device=timestep.device)
        sigma = timestep.float() / self.timesteps
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma.square()))

    def direction(self, predicted: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """The predicted velocity itself."""
        return predicted

    def clean(self, direction: Tensor, noisy: Tensor, timestep: Tensor) -> Tensor:
        """x_t − σ v."""
        return noisy - self.scales(timestep, noisy)[1] * direction

    def visited(self, sampler: Sampler) -> list[float]:
        """T σ of times u, shifted: 1, 1 − 1/S, …, 1/S where they are "uniform", as FLUX is sampled; "linspace" from 1
        to σ of the least time trained on, as diffusers samples Stable Diffusion 3 (FlowMatchEulerDiscreteScheduler).
        """
        if sampler.eta or sampler.clip or sampler.solver != "ddim" or sampler.spacing == "quadratic":
            raise SettingError(
                "a flow-matching model is sampled by Euler's method: a sampler of the solver ddim, eta 0, without "
                f"clip, spacing uniform or linspace; not {sampler}."
            )
        steps = sampler.steps
        if sampler.spacing == "uniform":
            times = [1 - k / steps for k in range(steps)]
        else:
            least = self.shifted(1 / self.timesteps)
            times = [1 + (least - 1) * k / max(1, steps - 1) for k in range(steps)]
        return [self.timesteps * self.shifted(u) for u in times]

    def denoise(
        self,
        predict: Predict,
        x: Tensor,
        sampler: Sampler,
        *,
        noise: Callable[[], Tensor],
        clip: bool,
        until: float = -1,
        advance: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """By Euler's method; no noise is put back, nothing clipped."""
        times = [t for t in self.visited(sampler) if t > until]
        return integrate(predict, x, [*times, max(0.0, until)], self.timesteps, advance)


def multistep(
    predict: Predict,
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
