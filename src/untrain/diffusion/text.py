"""What a text-to-image pipeline says: whether it is supported, its diffusion, its size, and its embedded texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from untrain.engine import preserve_modes
from untrain.errors import DataError, ModelError
from untrain.io import hash_json, hash_tensors
from untrain.lazy import nn, torch
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

POOLED = "_pooled"
"""Ending of the names of pooled embeddings in a batch."""
TOKENS = "_tokens"
"""Ending of the names of tokens in a batch."""
PADDING = -1
"""What stands for no token."""
TIME_IDS = "time_ids"
"""Of SDXL: height and width of the original, top and left of the crop, height and width aimed at."""

SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
"""Classes of diffusers whose pipelines can be unlearned."""


def check_pipeline(pipeline: Any) -> None:
    """Refuses what is not a whole pipeline of a supported class.

    Raises:
        ModelError: lists the supported ones, or names what is missing.
    """
    kinds = {kind.__name__ for kind in type(pipeline).__mro__}
    if not kinds & set(SUPPORTED):
        raise ModelError(
            f"{type(pipeline).__name__} cannot be unlearned as text-to-image; supported are {' and '.join(SUPPORTED)}. "
            "Pipelines that are built around a transformer (Stable Diffusion 3, FLUX) are trained by flow matching."
        )
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if pipeline.components.get(name) is None:
            raise ModelError(f"the pipeline has no {name}: load it whole.")
    config = pipeline.unet.config
    if config.get("time_cond_proj_dim") is not None:
        raise ModelError("the UNet takes the guidance scale as an input (a consistency model): unlearn its original.")
    if config.get("class_embed_type") is not None or config.get("num_class_embeds") is not None:
        raise ModelError("the UNet is conditioned on classes too, which this task cannot give.")
    if config["in_channels"] != pipeline.vae.config.latent_channels:
        raise ModelError(
            f"the UNet takes {config['in_channels']} channels and the VAE's latents have "
            f"{pipeline.vae.config.latent_channels}: models that see more than a latent (inpainting) are not supported."
        )


def own_size(pipeline: Any) -> int:
    """Height and width of the images that a pipeline makes by itself, in pixels.

    Raises:
        ModelError: if its UNet does not say one for both.
    """
    size = pipeline.unet.config.sample_size
    size = size[0] if isinstance(size, Sequence) and len(set(size)) == 1 else size
    if not isinstance(size, int):
        raise ModelError(f"the UNet's sample_size is {size!r}: say how large images are to be with image_size.")
    return size * 2 ** (len(pipeline.vae.config.block_out_channels) - 1)


class Prompts(NamedTuple):
    """Embedded texts; number 0 is the empty one, as the pipeline's guidance has it.

    Attributes:
        texts: [T].
        embeds: [T, L, D], all encoders' in one.
        pooled: [T, P], of SDXL; else None.
        time_ids: [6], of SDXL; else None.
        tokens: the first tokenizer's tokens, beginning and end included and `PADDING` behind them, int64 [T, L].
    """

    texts: tuple[str, ...]
    embeds: Tensor
    pooled: Tensor | None = None
    time_ids: Tensor | None = None
    tokens: Tensor | None = None

    def number(self, text: str) -> int:
        """The number of a text."""
        return self.texts.index(text)

    def rows(self, prompts: Tensor, anchors: Tensor) -> Batch:
        """What a batch holds of these prompts and anchors, numbers [B] each."""
        given = {"prompt": prompts, "anchor": anchors, "empty": torch.zeros_like(prompts)}
        found = {name: self.embeds[numbers] for name, numbers in given.items()}
        if self.pooled is not None:
            found |= {name + POOLED: self.pooled[numbers] for name, numbers in given.items()}
        if self.time_ids is not None:
            found[TIME_IDS] = self.time_ids.expand(len(prompts), -1)
        if self.tokens is not None:
            found |= {name + TOKENS: self.tokens[numbers] for name, numbers in given.items() if name != "empty"}
        return found

    def to(self, device: torch.device | str) -> Prompts:
        """The same on another device."""
        moved = [None if tensor is None else tensor.to(device) for tensor in self[1:]]
        return Prompts(self.texts, *moved)  # type: ignore[arg-type]

    def fingerprint(self) -> str:
        """A hash of the texts and of what became of them."""
        named = dict(zip(self._fields[1:], self[1:], strict=True))
        held = {name: tensor for name, tensor in named.items() if tensor is not None and name != "tokens"}
        return hash_json([list(self.texts), hash_tensors(held)])


def encode_prompts(
    pipeline: Any, texts: Sequence[str], image_size: int, *, cut: bool = False, batch_size: int = 32
) -> Prompts:
    """The embedded texts, each once and in order of appearance, behind the empty one.

    Args:
        pipeline: its text encoders work where they are, in evaluation mode.
        texts: at least one, without the empty one.
        image_size: height and width of the images, which SDXL is told.
        cut: whether the pipeline may cut texts that are too long, as published evaluations do; else they are an error.
        batch_size: texts at once.

    Raises:
        DataError: if a text is longer than a tokenizer's window, which would cut it in silence.
    """
    check_pipeline(pipeline)
    wanted = list(dict.fromkeys(texts))
    for text in () if cut else wanted:
        _check_length(pipeline, text)
    parts = [wanted[i : i + batch_size] for i in range(0, len(wanted), batch_size)]
    encoders = text_encoders(pipeline)
    found = []
    with torch.no_grad(), _evaluating(encoders):
        for part in parts:
            found.append(
                pipeline.encode_prompt(
                    part, device=encoders[0].device, num_images_per_prompt=1, do_classifier_free_guidance=True
                )
            )
    if encoders[0].device.type == "meta":  # of a pipeline without weights: shapes are all that can be had
        found = [tuple(torch.zeros(each.shape) for each in part) for part in found]
    embeds = torch.cat([found[0][1][:1], *(each[0] for each in found)])
    tokens = _token_rows(pipeline, ("", *wanted), embeds)
    if len(found[0]) == 2:
        return Prompts(("", *wanted), embeds, tokens=tokens)
    pooled = torch.cat([found[0][3][:1], *(each[2] for each in found)])
    size = float(image_size)
    time_ids = torch.tensor([size, size, 0.0, 0.0, size, size], device=embeds.device)
    return Prompts(("", *wanted), embeds, pooled, time_ids, tokens)


def _token_rows(pipeline: Any, texts: Sequence[str], embeds: Tensor) -> Tensor:
    """The first tokenizer's tokens of each text, [T, L] as the embeddings; the other's stand at the same places."""
    rows = [list(each[0]) for each in tokens_of(pipeline, texts)]
    width = embeds.shape[1]
    return torch.tensor([[*row, *[PADDING] * (width - len(row))] for row in rows], device=embeds.device)


def embed_texts(pipeline: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """Embeds texts as they come; gradients flow through the text encoders, where these are on.

    Args:
        pipeline: its text encoders work where they are, as they are.
        texts: [B]; the pipeline cuts those that are too long.

    Returns:
        What `Prompts` holds of them: embeddings [B, L, D], and of SDXL pooled ones [B, P].
    """
    found = pipeline.encode_prompt(
        list(texts),
        device=text_encoders(pipeline)[0].device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
    )
    return found[0], found[2] if len(found) == 4 else None


def text_encoders(pipeline: Any) -> list[Any]:
    """Returns a pipeline's text encoders."""
    return [part for name, part in pipeline.components.items() if name.startswith("text_encoder") and part]


@contextmanager
def _evaluating(modules: Sequence[nn.Module]) -> Iterator[None]:
    """The modules in evaluation mode; then they are as they were."""
    holder = nn.ModuleList(modules)
    with preserve_modes(holder):
        holder.eval()
        yield


def tokens_of(pipeline: Any, texts: Sequence[str]) -> list[tuple[tuple[int, ...], ...]]:
    """What the text encoders see of each text: each tokenizer's tokens, cut to its window as the pipeline does.

    Texts of the same tokens are one and the same to the pipeline. CLIP's, for one, are of small letters, and of single
    spaces between words.
    """
    if not texts:
        return []
    seen = []
    for _, tokenizer in tokenizers(pipeline):
        given = [_converted(pipeline, text, tokenizer) for text in texts]
        rows = tokenizer(given, truncation=True, max_length=int(tokenizer.model_max_length))["input_ids"]
        seen.append([tuple(row) for row in rows])
    return list(zip(*seen, strict=True))


def tokenizers(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Yields a pipeline's tokenizers with their names, in the order of `text_encoders`."""
    for name in ("tokenizer", "tokenizer_2"):
        tokenizer = pipeline.components.get(name)
        if tokenizer is not None:
            yield name, tokenizer


def _converted(pipeline: Any, text: str, tokenizer: Any) -> str:
    """A text with the tokens that textual inversions stand for."""
    return pipeline.maybe_convert_prompt(text, tokenizer) if hasattr(pipeline, "maybe_convert_prompt") else text


def _check_length(pipeline: Any, text: str) -> None:
    for name, tokenizer in tokenizers(pipeline):
        tokens = tokenizer(_converted(pipeline, text, tokenizer), truncation=False, verbose=False)["input_ids"]
        window = int(tokenizer.model_max_length)
        if len(tokens) > window:
            lost = tokenizer.decode(tokens[window - 1 : -1]).strip()
            raise DataError(
                f"a prompt takes {len(tokens)} tokens and the {name} has a window of {window}, so {lost!r} would be "
                f"cut off. Shorten it: {text!r}."
            )
