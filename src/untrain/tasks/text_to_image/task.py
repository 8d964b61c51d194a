"""Image generation conditioned on text, in a VAE's latent space: by Stable Diffusion's UNets, or by transformers.

Rombach, Blattmann, Lorenz, Esser, Ommer: *High-Resolution Image Synthesis with Latent Diffusion Models*, CVPR 2022.

Two things differ from pipeline to pipeline, and neither stands here: how noise is mixed in and what is predicted
(`untrain.diffusion.paths`), and how the network is called and what it is told (`untrain.diffusion.architectures`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from untrain.diffusion.architectures import ARCHITECTURES
from untrain.diffusion.architectures.base import (
    EMBEDS,
    GUIDANCE,
    POOLED,
    SHARED_FIELDS,
    TEXT_FIELDS,
    Architecture,
    condition_of,
    text_key,
)
from untrain.diffusion.paths import Schedule
from untrain.diffusion.process import LATENTS, DiffusionProcess
from untrain.diffusion.text import architecture_of_network
from untrain.errors import DataError, ModelError, SettingError, UnknownName, unknown
from untrain.models.kinds import plain_module
from untrain.models.precision import weight_type
from untrain.settings import check_arguments
from untrain.tasks.text_to_image.edits import text_columns, text_maps, text_pairs
from untrain.types import Batch, Objective, Role, Tokens, Variant

Prediction = Literal["epsilon", "v_prediction"]
Prompt = Literal["prompt", "anchor", "empty"]
"""The texts that a row of a batch knows; its embeddings stand under this name, pooled ones under NAME_pooled."""


@check_arguments
@dataclass(frozen=True)
class TextToImage(DiffusionProcess):
    """Text-conditional prediction of noise, of v = √ᾱ_t ε − √(1 − ᾱ_t) x₀, or of a flow's velocity, in latent space.

    A batch holds "latent_mean" and "latent_std" of the VAE's posterior as the network sees latents, [B, C, h, w];
    "label", the concept's number, [B]; and of three texts, "prompt", "anchor" and "empty", what the network is told of
    them: embedded, [B, L, D] (all encoders' in one, as the pipeline joins them), under these names; by some pipelines
    pooled, [B, P], as "prompt_pooled" and so on, and which tokens count, [B, L], as "prompt_mask" and so on. What is
    the same for all texts stands under its own name: "time_ids" [B, 6] of SDXL, "resolution" [B, 2] of some PixArt-α.
    For closed-form edits there are "prompt_tokens" and "anchor_tokens", [B, L]. Neither VAE nor text encoder is needed.
    Images are never mirrored: captions may speak of left and right.
    """

    name: ClassVar[str] = "text-to-image"
    variants: ClassVar[tuple[Variant, ...]] = ("redirect", "unconditional")
    objective: ClassVar[Objective] = "redirect"

    schedule: Schedule = "scaled_linear"
    """How β grows over the steps, by the names of diffusers."""
    beta_start: float = 0.00085
    """β of the first step."""
    beta_end: float = 0.012
    """β of the last step. These defaults are Stable Diffusion's; a pipeline's own schedule takes their place."""
    prediction: Prediction = "epsilon"
    """What the model predicts, by the names of diffusers; a pipeline's scheduler tells. A flow predicts velocities."""
    architecture: str | None = None
    """How the network is called: a name in `untrain.diffusion.architectures.ARCHITECTURES`; null: read off its class,
    and of a class that is not known, as UNet2DConditionModel is."""
    names: dict[str, str] = field(default_factory=dict)
    """The data's name → ours ("latent_mean", "prompt", …)."""

    def __post_init__(self) -> None:
        """Checks the ranges, and that the architecture is known."""
        super().__post_init__()
        if self.architecture is not None and self.architecture not in ARCHITECTURES:
            raise UnknownName(unknown("architecture", self.architecture, ARCHITECTURES))
        if self.flow is not None and self.flow.convention != "diffusers":
            raise SettingError(
                f"flow.convention is {self.flow.convention!r}, but pipelines are told of time as diffusers tells it: "
                "leave it out."
            )

    @property
    def kind(self) -> Architecture:
        """How the network is called."""
        return ARCHITECTURES[self.architecture or "stable-diffusion"]

    def prepare(self, model: nn.Module, batch: Batch) -> "TextToImage":
        """The task itself, with its architecture, if the model can be called on the batch and predicts something of
        its latents' shape.

        Raises:
            ModelError: if not; names what the network is told of and the batch has not.
        """
        task = self._with_architecture(model)
        task.kind.check_told(model, condition_of(batch))
        try:
            with torch.no_grad():
                shape = task.outputs(model, batch).shape
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise ModelError(
                f"the model cannot be called as the network of {task.kind.name} is, on x {list(batch['input'].shape)} "
                f"and embedded texts {list(batch['condition'].shape)}: {error}. Latents and embeddings must be of its "
                "own pipeline; models that see more than a noisy latent (inpainting, depth) are not supported."
            ) from error
        if shape != batch["input"].shape:
            raise ModelError(f"the model gives {list(shape)} for {list(batch['input'].shape)}; the same is needed.")
        return task

    def _with_architecture(self, model: nn.Module) -> "TextToImage":
        found = architecture_of_network(model)
        if self.architecture is not None or found is None:
            return self
        if found.flows and self.flow is None:
            raise ModelError(
                f"{type(model).__name__} is trained by flow matching: give the whole pipeline, whose scheduler says "
                "how, or the task TextToImage(flow=Flow(shift=…))."
            )
        return replace(self, architecture=found.name, drop=self.drop if found.guidance == "prompts" else 0.0)

    # What is drawn.

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Sampled latents, timesteps, noise, and the prompt as the condition, now and then the empty one instead."""
        batch = {self.names.get(key, key): value for key, value in batch.items()}
        clean = self._clean(batch, generator)
        missing = [key for key in ("label", "prompt", "empty") if key not in batch]
        if missing:
            raise DataError(f"text-to-image needs {missing} in a batch, not only {sorted(batch)}: map with names=….")
        count = len(clean)
        timestep = self.drawn_timesteps(count, generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)
        kept = {key: value for key, value in batch.items() if key not in (*LATENTS, "seen")}
        drawn = {**kept, "input": clean, "label": batch["label"].long(), "timestep": timestep, "noise": noise}
        drawn = conditioned(drawn, "prompt")
        if role in ("train", "retain") and self.drop:
            dropped = (torch.rand(count, generator=generator) < self.drop).to(clean.device)
            drawn = _mixed(dropped, conditioned(drawn, "empty"), drawn)
        return drawn

    def _clean(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """x₀, [B, C, h, w]; a latent is drawn once, so that whatever is compared sees the same."""
        if "input" in batch:
            if batch["input"].dtype == torch.uint8:
                raise DataError("text-to-image takes latents, not images: encode these with the pipeline's VAE.")
            return batch["input"]
        if any(name not in batch for name in LATENTS):
            raise DataError(f"text-to-image needs {' and '.join(LATENTS)}, not {sorted(batch)}: map with names=….")
        mean, std = (batch[name] for name in LATENTS)
        return mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)

    # What is computed.

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The model's own prediction, ε or v, [B, C, h, w], float32 or wider.

        At one x_t each is the other times a number plus another: a combination whose weights sum to 1, as guidance
        and the target of ESD are, is the same in both.
        """
        dtype = weight_type(model)
        x = self.noisy(batch)
        told = condition_of(batch)
        told |= {field: told[field].to(dtype) for field in (EMBEDS, POOLED) if field in told}
        predicted = self.kind.predict(model, x.to(dtype), batch["timestep"], told)
        return predicted.to(torch.promote_types(predicted.dtype, x.dtype))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the pipeline was trained on, [B]: the squared error of the noise, of v, or of the velocity."""
        return self.denoising_loss(self.outputs(model, batch), batch)

    def _direction(self, predicted: Tensor, batch: Batch) -> Tensor:
        return self.path.direction(predicted, self.noisy(batch), batch["timestep"])

    def variant(self, batch: Batch, kind: Variant) -> Batch:
        """The batch conditioned on its anchors, or on the empty prompt."""
        return conditioned(batch, "anchor" if kind == "redirect" else "empty")

    def redirect_loss(self, model: nn.Module, batch: Batch, teacher: nn.Module) -> Tensor:
        """Squared distance of what is predicted for the prompt to what the teacher predicts for its anchor, [B].

        Both see one x_t, of one latent and one noise; no gradient flows through the teacher. A teacher that is the
        model itself makes the target follow it; a frozen copy of the original leaves the target where it was.
        """
        with torch.no_grad():
            target = self.outputs(teacher, self.variant(batch, "redirect"))
        return self.squared(self.outputs(model, conditioned(batch, "prompt")), target)

    def condition(self, batch: Batch) -> Tensor:
        """The concepts' numbers, [B]; a dropped prompt is still the sample's."""
        return batch["label"]

    # What is edited.

    def condition_maps(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The weights of the linear maps that texts go through first, by name, [out, D]: of UNets keys and values of
        cross-attention; of transformers what brings texts to their width.
        """
        return text_maps(self.kind, plain_module(model))

    def condition_columns(self, model: nn.Module) -> dict[str, slice]:
        """Where tokens and pooled texts go through maps of their own, which entries of the pairs each sees."""
        return text_columns(self.kind, plain_module(model))

    def condition_pairs(self, batch: Batch, tokens: Tokens, *, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Embedded tokens of the prompts, and those of their anchors to be taken for them, [N, D] each; see
        `text_pairs`.
        """
        return text_pairs(batch, tokens, keep=keep, fields=self.kind.edits)

    # What is made.

    def surrogate(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with uniform noise in [−1, 1] in place of its latents, under the prompts that they had."""
        clean = batch["input"]
        noise = 2 * torch.rand(clean.shape, generator=generator, dtype=clean.dtype) - 1
        return conditioned({**batch, "input": noise.to(clean.device)}, "prompt")

    def blank(self, rows: Batch, shape: Sequence[int]) -> Batch:
        """A batch without images, for `generate`: `rows` hold the embedded texts, `shape` is a latent's (C, h, w)."""
        like = rows["prompt"]
        dtype = torch.promote_types(like.dtype, torch.float32)
        empty = torch.zeros(len(like), *shape, device=like.device, dtype=dtype)
        return conditioned({**rows, "input": empty}, "prompt")

    def guided(self, model: nn.Module, batch: Batch, scale: float) -> Tensor:
        """ε(x, ∅) + w (ε(x, c) − ε(x, ∅)) with w the guidance scale, both from one forward pass; of a flow likewise its
        velocity. Of a network that takes w as an input, what it says of c.
        """
        if self.kind.guidance == "input":
            told = {**batch, GUIDANCE: torch.full((len(batch["input"]),), float(scale), device=batch["input"].device)}
            return self._direction(self.outputs(model, told), batch)
        if scale == 1:
            return self._direction(self.outputs(model, batch), batch)
        none = conditioned(batch, "empty")
        keys = ("input", "seen", "timestep", *(key for key in CONDITIONS if key in batch))
        both = {key: torch.cat([batch[key], none[key]]) for key in keys}
        conditional, unconditional = self._direction(self.outputs(model, both), both).chunk(2)
        return scale * conditional - (scale - 1) * unconditional


CONDITIONS = (*(text_key("condition", field) for field in TEXT_FIELDS), *SHARED_FIELDS)
"""What a model is told of a drawn batch besides x_t and t."""


def conditioned(batch: Batch, text: Prompt) -> Batch:
    """The batch conditioned on one of the texts that its rows know.

    Raises:
        SettingError: if they do not know it.
    """
    if text not in batch:
        hint = "give the concept an anchor" if text == "anchor" else "encode the prompts with the pipeline"
        raise SettingError(f"the batches hold no {text!r} to condition on: {hint}.")
    known = {field: text_key(text, field) for field in TEXT_FIELDS}
    return {**batch, **{text_key("condition", f): batch[name] for f, name in known.items() if name in batch}}


def _mixed(chosen: Tensor, a: Batch, b: Batch) -> Batch:
    """`b` with the conditions of `a` in the chosen rows, bool [B]."""

    def rows(key: str) -> Tensor:
        return torch.where(chosen.view(-1, *[1] * (b[key].ndim - 1)), a[key], b[key])

    return {**b, **{key: rows(key) for key in CONDITIONS[: len(TEXT_FIELDS)] if key in b}}
