"""Image generation conditioned on a class: noise prediction, in pixels or in a VAE's latent space.

Ho, Jain, Abbeel: *Denoising Diffusion Probabilistic Models*, NeurIPS 2020; learned variances as in Nichol, Dhariwal:
*Improved Denoising Diffusion Probabilistic Models*, ICML 2021, which DiT (Peebles, Xie 2023) uses. The symbols are
theirs: x_t = √ᾱ_t x₀ + √(1 − ᾱ_t) ε.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from untrain.data.keys import rename, with_input
from untrain.diffusion.denoisers import dit_copies
from untrain.diffusion.process import LATENTS, DiffusionProcess
from untrain.engine import generator_of
from untrain.errors import DataError, ModelError, SettingError, convert_errors
from untrain.lazy import nn, torch
from untrain.models.precision import fit, widen
from untrain.settings import check_arguments
from untrain.tasks.class_diffusion.edits import class_maps, class_pairs
from untrain.tasks.class_diffusion.embeddings import embedded_classes
from untrain.tasks.class_diffusion.sections import Redirect
from untrain.types import Batch, Role, Tokens, Variant

if TYPE_CHECKING:
    from torch import Tensor

MIRRORED = ("mirrored_mean", "mirrored_std")


@check_arguments
@dataclass(frozen=True)
class ClassDiffusion(DiffusionProcess):
    """Class-conditional prediction of noise, of a DDPM or DiT, or of a flow's velocity, of a SiT.

    A model is called as `model(x_t, t, class_labels=c)`, as those of diffusers are, and returns [B, C, H, W], or twice
    the channels where it learns its variance. Images are [B, C, H, W], uint8 (mapped to [−1, 1]) or what the model was
    trained on; latents come as "latent_mean" and "latent_std" of the VAE's posterior, with "mirrored_mean" and
    "mirrored_std" where mirror images are wanted.
    """

    name: ClassVar[str] = "class-diffusion"
    variants: ClassVar[tuple[Variant, ...]] = ("redirect", "unconditional")
    token_kinds: ClassVar[tuple[Tokens, ...]] = ("last", "end", "all")

    redirect: Redirect = "next"
    """What a redirected sample is conditioned on: the class `shift` after its own, or another one drawn once for it."""
    shift: Annotated[int, Ge(1)] = 1
    """How many classes further `redirect="next"` goes, beginning anew after the last."""
    num_classes: int | None = None
    """Classes, without the one that stands for "no class"; None: read off the model's configuration."""
    null_class: int | None = None
    """Number of the class that means "no class"; None: the one after the last, where the model has it."""
    clip_samples: bool = True
    """Whether a sampler keeps its guess of x₀ in [−1, 1]: right for pixels, wrong for latents."""
    flip: bool = False
    """Whether images are mirrored at random in training."""
    learned_variance: bool | None = None
    """Whether the model predicts its variance too; None: read off its outputs. A flow has none: of a model that gives
    twice the channels, as SiT's own does, the second half is never looked at."""
    names: dict[str, str] = field(default_factory=dict)
    """The data's name → ours ("input", "label")."""
    seed: int = 0
    """Chooses the other class of each sample under `redirect="random"`."""

    def prepare(self, model: nn.Module, batch: Batch) -> ClassDiffusion:
        """The task with the number of classes and what the model predicts.

        Raises:
            ModelError: if the model cannot be conditioned on a class, or does not predict noise of the batch's shape.
            DataError: if a label lies outside the model's classes.
        """
        task = self._with_classes(model)
        task._checked(batch["label"])
        size = tuple(batch["input"].shape)
        what = f"the model cannot be called as model(x, t, class_labels=c) on x of shape {size}"
        with torch.no_grad(), _embeddings_in_range(model), convert_errors(ModelError, what):
            shape = task._predict(model, batch, batch["condition"]).shape
        task = task._with_null_class(model, batch, asked=self.null_class is not None)
        wanted = batch["input"].shape
        if shape[0] != wanted[0] or shape[2:] != wanted[2:] or shape[1] not in (wanted[1], 2 * wanted[1]):
            raise ModelError(f"the model gives {list(shape)} for {list(wanted)}; noise of that shape is needed.")
        learned = shape[1] == 2 * wanted[1] and self.flow is None
        if self.learned_variance and self.flow is not None:
            raise ModelError("learned_variance is True, but a flow has no variance to learn: leave it out.")
        if self.learned_variance not in (None, learned):
            raise ModelError(f"learned_variance is {self.learned_variance}, but the model gives {shape[1]} channels.")
        return replace(task, learned_variance=learned)

    def _with_classes(self, model: nn.Module) -> ClassDiffusion:
        rows = embedded_classes(model)
        if rows is None and self.num_classes is None:
            raise ModelError(
                f"{type(model).__name__} has no embedding of classes that could be found. If it can be conditioned on "
                "a class, say on how many: ClassDiffusion(num_classes=…)."
            )
        # a model of N + 1 rows keeps the last for "no class", unless the data are said to have N + 1 classes
        count = self.num_classes or max(1, (rows or 1) - 1)
        null = self.null_class if self.null_class is not None else count if rows is None or rows > count else None
        if rows is not None and (count > rows or (null is not None and null >= rows)):
            raise ModelError(f"the model knows {rows} classes, but {count} and “no class” as {null} are asked for.")
        if null is None and self.drop:
            return replace(self, num_classes=count, drop=0.0)
        return replace(self, num_classes=count, null_class=null)

    def copies(self, model: nn.Module) -> list[tuple[str, ...]]:
        """Names of the parameters that are one weight in the original DiT, a group for each."""
        return dit_copies(model)

    def _with_null_class(self, model: nn.Module, batch: Batch, *, asked: bool) -> ClassDiffusion:
        """The task, without a class for "no class" where the model has none and none is needed; each is tried."""
        last = (self.num_classes or 1) - 1
        error = self._failure(model, batch, last)
        if error is not None:
            raise ModelError(
                f"the model cannot be asked for class {last}, the last of num_classes={self.num_classes}: "
                f"{type(error).__name__}: {error} Give as many classes as it has."
            ) from error
        error = None if self.null_class is None else self._failure(model, batch, self.null_class)
        if error is None:
            return self
        if not self.drop and not asked:
            return replace(self, null_class=None)
        raise ModelError(
            f"the model has no class that stands for “no class”: class_labels={self.null_class} fails with "
            f"{type(error).__name__}: {error} Training drops the class of {self.drop:.0%} of the samples. "
            f"Give a module whose embedding of classes has {last + 2} rows, the last for “no class”; or drop=0 (in a "
            "recipe diffusion.drop), if it was trained without; or null_class=, the number that it has for that."
        ) from error

    def _failure(self, model: nn.Module, batch: Batch, number: int) -> Exception | None:
        """What the model raises when it is asked for a class."""
        try:
            with torch.no_grad(), _embeddings_in_range(model):
                self._predict(model, batch, torch.full_like(batch["label"], number))
        except Exception as error:  # a module of the user's own can raise anything
            return error
        return None

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Images in [−1, 1] or sampled latents, timesteps, noise, and the condition, dropped now and then."""
        batch = with_input(rename(batch, self.names))
        clean = self._clean(batch, generator, mirror=self.flip and role in ("train", "forget", "retain"))
        labels = self._checked(batch["label"])
        count = len(clean)
        timestep = self.drawn_timesteps(count, generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)
        condition = labels
        if role in ("train", "retain") and self.drop and self.null_class is not None:
            dropped = (torch.rand(count, generator=generator) < self.drop).to(labels.device)
            condition = torch.where(dropped, self.null_class, labels)
        drawn = {"input": clean, "label": labels, "condition": condition, "timestep": timestep, "noise": noise}
        return drawn | ({"index": batch["index"]} if "index" in batch else {})

    def _clean(self, batch: Batch, generator: torch.Generator, mirror: bool) -> Tensor:
        """x₀, [B, C, H, W]; a latent is drawn once, so that whatever is compared sees the same."""
        first = batch.get("input", batch.get(LATENTS[0]))
        if first is None or "label" not in batch:
            raise DataError(f"class diffusion needs 'input' and 'label', not {sorted(batch)}: map names with names=….")
        flipped = torch.zeros(len(first), dtype=torch.bool)
        if mirror and "input" not in batch and MIRRORED[0] not in batch:
            raise DataError("flip=True needs the latents of mirror images too: encode them with mirrored=True.")
        if mirror and ("input" not in batch or self.clip_samples):  # a latent cannot be mirrored
            flipped = torch.rand(len(first), generator=generator) < 0.5
        chosen = flipped.to(first.device)[:, None, None, None]
        if "input" in batch:
            images = widen(batch["input"])
            if images.dtype == torch.uint8:
                images = images.to(torch.get_default_dtype()) / 127.5 - 1
            return torch.where(chosen, images.flip(-1), images)
        own, other = ([batch[name] for name in names] for names in (LATENTS, MIRRORED if mirror else LATENTS))
        mean, std = (torch.where(chosen, b, a) for a, b in zip(own, other, strict=True))
        return mean + std * torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)

    def _checked(self, labels: Tensor) -> Tensor:
        if labels.ndim != 1 or labels.is_floating_point():
            raise DataError(f"labels must be whole numbers [B], not {labels.dtype} {list(labels.shape)}.")
        if (
            self.num_classes is not None
            and len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes
        ):
            bad = int(labels[(labels < 0) | (labels >= self.num_classes)][0])
            raise DataError(f"label {bad} lies outside the model's {self.num_classes} classes, numbered from 0.")
        return labels.long()

    def _predict(self, model: nn.Module, batch: Batch, condition: Tensor) -> Tensor:
        """All that the model gives for x_t, its variance included."""
        for module in model.modules():
            if type(module).__name__ == "LabelEmbedding":  # of diffusers; it would drop classes by itself, unseeded
                module.training = False
        x = fit(self.noisy(batch), model)
        result: Any = model(x, self.path.told(batch["timestep"]), class_labels=condition)
        return widen(getattr(result, "sample", result))

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The predicted noise or velocity, [B, C, H, W]."""
        given = self._predict(model, batch, batch["condition"])
        return self.path.predicted(given[:, : batch["input"].shape[1]])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the model was trained on, [B]: the squared error of the noise or velocity, and with a learned variance
        the variational term, through which no gradient reaches the mean.
        """
        if not self.learned_variance:
            return self.denoising_loss(self.outputs(model, batch), batch)
        noise, variance = self._predict(model, batch, batch["condition"]).chunk(2, dim=1)
        bound = self._variational(noise.detach(), variance, batch).flatten(1)
        bound = bound.sum(1) if self.reduction == "sum" else bound.mean(1)
        return self.denoising_loss(noise, batch) + bound

    def _variational(self, noise: Tensor, variance: Tensor, batch: Batch) -> Tensor:
        """L_t of the variational bound in bits, per pixel: KL(q(x_{t−1} | x_t, x₀) ‖ p(x_{t−1} | x_t)); at t = 0 the
        negative log-likelihood of x₀ as a whole number of 255 steps in [−1, 1].

        Source: Nichol & Dhariwal 2021, eqs. 4–7 and 14–15.
        """
        clean, t = batch["input"], batch["timestep"]
        kept = self.alphas_cumprod
        before = torch.cat([kept.new_ones(1), kept[:-1]])
        beta = 1 - kept / before
        posterior = beta * (1 - before) / (1 - kept)
        low = torch.cat([posterior[1:2], posterior[1:]]).log() if len(posterior) > 1 else beta.log()
        log_low, log_high = _at(low, t, clean), _at(beta.log(), t, clean)
        log_variance = (variance + 1) / 2 * log_high + (1 - variance) / 2 * log_low
        to_clean, to_noisy = (
            _at(values, t, clean)
            for values in (before.sqrt() * beta / (1 - kept), (1 - before) * (kept / before).sqrt() / (1 - kept))
        )
        noisy = self.noisy(batch)
        scale = _at(kept, t, clean)
        guessed = (noisy - (1 - scale).sqrt() * noise) / scale.sqrt()
        true_mean, mean = (to_clean * x + to_noisy * noisy for x in (clean, guessed))
        kl = 0.5 * (log_variance - log_low - 1 + (log_low - log_variance).exp())
        kl = kl + 0.5 * (true_mean - mean).square() * (-log_variance).exp()
        first = (t == 0)[:, None, None, None]
        return torch.where(first, -_discretized_log_likelihood(clean, mean, log_variance / 2), kl) / math.log(2)

    def variant(self, batch: Batch, kind: Variant) -> Batch:
        """The batch conditioned on another class, or on none."""
        if kind == "unconditional":
            if self.null_class is None:
                raise SettingError("the model has no class that stands for “no class”, so nothing is unconditional.")
            return {**batch, "condition": torch.full_like(batch["label"], self.null_class)}
        if self.num_classes is None or self.num_classes < 2:
            raise SettingError("a redirected class needs a task that knows at least two classes (call prepare).")
        if self.redirect == "next":
            if self.shift % self.num_classes == 0:
                raise SettingError(f"shift={self.shift} leads back to the class itself: there are {self.num_classes}.")
            return {**batch, "condition": (batch["label"] + self.shift) % self.num_classes}
        shifts = [
            torch.randint(1, self.num_classes, (), generator=generator_of(self.seed, "redirect", i))
            for i in batch["index"].tolist()
        ]
        return {
            **batch,
            "condition": (batch["label"] + torch.stack(shifts).to(batch["label"].device)) % self.num_classes,
        }

    def redirect_loss(self, model: nn.Module, batch: Batch, teacher: nn.Module) -> Tensor:
        """Squared distance of the noise predicted for the class to what the teacher predicts for another, [B].

        Both see one x_t; no gradient flows through the teacher.
        """
        with torch.no_grad():
            target = self.outputs(teacher, self.variant(batch, "redirect"))
        return self.squared(self.outputs(model, {**batch, "condition": batch["label"]}), target)

    def condition(self, batch: Batch) -> Tensor:
        """The classes, [B]; a dropped one is still the sample's."""
        return batch["label"]

    def condition_maps(self, model: nn.Module) -> dict[str, Tensor]:
        """The embeddings of classes, as maps of one-hot vectors, by name, [D, classes]."""
        return class_maps(model, self._rows)

    def condition_pairs(self, batch: Batch, tokens: Tokens, *, keep: bool = False) -> tuple[Tensor, Tensor]:
        """One-hot vectors of the classes, and those of the redirected ones in their place, [B, classes] each."""
        instead = batch["label"] if keep else self.variant(batch, "redirect")["condition"]
        return class_pairs(batch["label"], instead, self._rows)

    @property
    def _rows(self) -> int:
        """Classes, "no class" included."""
        return max(self.num_classes or 0, 0 if self.null_class is None else self.null_class + 1)

    def surrogate(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with uniform noise in [−1, 1] in place of its images, under the classes that they had."""
        clean = batch["input"]
        noise = 2 * torch.rand(clean.shape, generator=generator, dtype=clean.dtype) - 1
        return {**batch, "input": noise.to(clean.device), "condition": batch["label"]}

    def blank(self, labels: Tensor, shape: Sequence[int]) -> Batch:
        """A batch of these classes, [B], without images: what `generate` makes images of the shape (C, H, W) for."""
        empty = torch.zeros(len(labels), *shape, device=labels.device)
        return {"input": empty, "label": labels, "condition": labels}

    def guided(self, model: nn.Module, batch: Batch, scale: float) -> Tensor:
        """ε(x, ∅) + w (ε(x, c) − ε(x, ∅)) with w the guidance scale, both from one forward pass."""
        if scale == 1:
            return self.outputs(model, batch)
        if self.null_class is None:
            raise SettingError(
                "guidance needs a model that was trained with dropped classes; this one has no such class."
            )
        none = {**batch, "condition": torch.full_like(batch["condition"], self.null_class)}
        both = {key: torch.cat([batch[key], none[key]]) for key in ("input", "seen", "condition", "timestep")}
        conditional, unconditional = self.outputs(model, both).chunk(2)
        return scale * conditional - (scale - 1) * unconditional


@contextmanager
def _embeddings_in_range(model: nn.Module) -> Iterator[None]:
    """An embedding that is asked for a row which it has not raises; on a GPU it would bring the process down."""

    def check(table: nn.Module, args: Any) -> None:
        rows: Any = table.num_embeddings
        if args and args[0].numel() and not 0 <= int(args[0].min()) <= int(args[0].max()) < rows:
            raise IndexError(f"an embedding has {rows} rows and is asked for number {int(args[0].max())}.")

    handles = [m.register_forward_pre_hook(check) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _at(values: Tensor, timestep: Tensor, like: Tensor) -> Tensor:
    """One number of the schedule for each sample, as wide as `like`, [B, 1, 1, 1]."""
    return values.to(like.device)[timestep].to(like.dtype)[:, None, None, None]


def _discretized_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-probability of x, one of 256 levels in [−1, 1], under a Gaussian; the outer levels take the tails."""
    centered, scale = x - mean, (-log_std).exp()
    above, below = (torch.special.ndtr(scale * (centered + d)) for d in (1 / 255, -1 / 255))
    middle = (above - below).clamp_min(1e-12).log()
    low, high = above.clamp_min(1e-12).log(), (1 - below).clamp_min(1e-12).log()
    return torch.where(x < -0.999, low, torch.where(x > 0.999, high, middle))
