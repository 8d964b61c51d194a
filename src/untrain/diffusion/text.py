"""What a text-to-image pipeline says: whether it is supported, its diffusion, its size, and its embedded texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from untrain.diffusion.architectures import ARCHITECTURES, SUPPORTED_LIST
from untrain.diffusion.architectures.base import EMBEDS, Architecture, Condition, text_key
from untrain.engine import on_device, preserve_modes
from untrain.errors import DataError, ModelError
from untrain.io import hash_json, hash_tensors
from untrain.lazy import nn, torch
from untrain.models.kinds import plain_module
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = "_tokens"
"""Ending of the names of tokens in a batch."""
PADDING = -1
"""What stands for no token."""
SEGMENT = 1 << 32
"""By so much more tokens are numbered of each further tokenizer whose tokens stand behind others; its padding by 1
less."""


def architecture_of(pipeline: Any) -> Architecture:
    """The kind that a pipeline is of.

    Raises:
        ModelError: if it is of none; lists the supported classes.
    """
    names = {kind.__name__ for kind in type(pipeline).__mro__}
    for kind in ARCHITECTURES.values():
        if names & set(kind.pipelines):
            return kind
    raise ModelError(f"{type(pipeline).__name__} cannot be unlearned as text-to-image; supported are {SUPPORTED_LIST}.")


def architecture_of_network(network: nn.Module) -> Architecture | None:
    """The kind whose pipelines have such a network; None where it is a network of the user's own."""
    names = {kind.__name__ for kind in type(plain_module(network)).__mro__}
    return next((kind for kind in ARCHITECTURES.values() if kind.network in names), None)


def check_pipeline(pipeline: Any) -> None:
    """Refuses what is not a whole pipeline of a supported class.

    Raises:
        ModelError: lists the supported ones, or names what is missing.
    """
    kind = architecture_of(pipeline)
    for name in (kind.part, *kind.needed):
        if pipeline.components.get(name) is None:
            raise ModelError(f"the pipeline has no {name}: load it whole.")
    kind.check(pipeline)
    channels = kind.latent_channels(pipeline)
    if channels != pipeline.vae.config.latent_channels:
        raise ModelError(
            f"the {kind.part} takes {channels} channels and the VAE's latents have "
            f"{pipeline.vae.config.latent_channels}: models that see more than a latent (inpainting) are not supported."
        )


def own_size(pipeline: Any) -> int:
    """Height and width of the images that a pipeline makes by itself, in pixels.

    Raises:
        ModelError: if its network does not say one for both.
    """
    kind = architecture_of(pipeline)
    size = kind.own_size(pipeline)
    if not isinstance(size, int):
        raise ModelError(f"the {kind.part}'s sample_size is {size!r}: say how large images are to be with image_size.")
    return size


class Prompts(NamedTuple):
    """Embedded texts; number 0 is the empty one, as the pipeline's guidance has it.

    Attributes:
        texts: [T].
        embeds: [T, L, D], all encoders' in one.
        more: what else has become of each, by field: "pooled" [T, P], "mask" [T, L]; see
            `untrain.diffusion.architectures`.
        shared: what a model is told besides, the same for all texts, by field: "time_ids" [6], "resolution" [2].
        tokens: the tokens that stand at each place, beginning and end included and `PADDING` behind them, int64 [T, L];
            where tokenizers follow each other, see `SEGMENT`; None where nobody can use them.
    """

    texts: tuple[str, ...]
    embeds: Tensor
    more: Mapping[str, Tensor] = MappingProxyType({})
    shared: Mapping[str, Tensor] = MappingProxyType({})
    tokens: Tensor | None = None

    def number(self, text: str) -> int:
        """The number of a text."""
        return self.texts.index(text)

    def rows(self, prompts: Tensor, anchors: Tensor) -> Batch:
        """What a batch holds of these prompts and anchors, numbers [B] each."""
        given = {"prompt": prompts, "anchor": anchors, "empty": torch.zeros_like(prompts)}
        fields = {EMBEDS: self.embeds, **self.more}
        found = {text_key(name, f): rows[numbers] for f, rows in fields.items() for name, numbers in given.items()}
        found |= {field: value.expand(len(prompts), *value.shape) for field, value in self.shared.items()}
        if self.tokens is not None:
            found |= {name + TOKENS: self.tokens[numbers] for name, numbers in given.items() if name != "empty"}
        return found

    def to(self, device: torch.device | str) -> Prompts:
        """The same on another device."""
        more, shared = ({k: v.to(device) for k, v in each.items()} for each in (self.more, self.shared))
        tokens = None if self.tokens is None else self.tokens.to(device)
        return Prompts(self.texts, self.embeds.to(device), more, shared, tokens)

    def fingerprint(self) -> str:
        """A hash of the texts and of what became of them."""
        return hash_json([list(self.texts), hash_tensors({EMBEDS: self.embeds, **self.more, **self.shared})])


def _zeros(told: Condition) -> Condition:
    return {field: torch.zeros(value.shape) for field, value in told.items()}


def encode_prompts(
    pipeline: Any,
    texts: Sequence[str],
    image_size: int,
    *,
    cut: bool = False,
    batch_size: int = 32,
    device: torch.device | None = None,
) -> Prompts:
    """The embedded texts, each once and in order of appearance, behind the empty one.

    Args:
        pipeline: its text encoders work in evaluation mode.
        texts: at least one, without the empty one.
        image_size: height and width of the images, which some networks are told.
        cut: whether the pipeline may cut texts that are too long, as published evaluations do; else they are an error.
        batch_size: texts at once.
        device: where large text encoders (T5, Gemma) work, one of the run's; they are where they were afterwards. CLIP,
            and all where it is None, work where they are.

    Raises:
        DataError: if a text is longer than a tokenizer's window, which would cut it in silence.
    """
    check_pipeline(pipeline)
    kind = architecture_of(pipeline)
    wanted = list(dict.fromkeys(texts))
    for text in () if cut else wanted:
        _check_length(pipeline, text)
    parts = [wanted[i : i + batch_size] for i in range(0, len(wanted), batch_size)]
    encoders = text_encoders(pipeline)
    if device is None or not kind.on_device or encoders[0].device.type == "meta":
        place: AbstractContextManager[None] = nullcontext()
    else:
        place = on_device(device, *encoders)
    with place, torch.no_grad(), _evaluating(encoders):
        found = [kind.encode(pipeline, part) for part in parts]
    if encoders[0].device.type == "meta":  # of a pipeline without weights: shapes are all that can be had
        found = [(_zeros(told), _zeros(empty)) for told, empty in found]
    empty = found[0][1]
    joined = {field: torch.cat([empty[field], *(told[field] for told, _ in found)]) for field in empty}
    embeds = joined.pop(EMBEDS)
    shared = {field: value.to(embeds.device) for field, value in kind.shared(pipeline, image_size).items()}
    return Prompts(("", *wanted), embeds, joined, shared, _token_rows(pipeline, ("", *wanted), embeds))


def _token_rows(pipeline: Any, texts: Sequence[str], embeds: Tensor) -> Tensor:
    """The tokens at each place of each text, [T, L] as the embeddings."""
    seen = dict(
        zip((name for name, _ in tokenizers(pipeline)), zip(*tokens_of(pipeline, texts), strict=True), strict=True)
    )
    parts = architecture_of(pipeline).sequence(pipeline, texts, seen, embeds.shape[1])
    found = torch.full(embeds.shape[:2], PADDING - len(parts), dtype=torch.int64)
    start = 0
    for number, (rows, places) in enumerate(parts):
        found[:, start : start + places] = PADDING - number
        for i, row in enumerate(rows):
            found[i, start : start + len(row)] = torch.tensor(row) + number * SEGMENT
        start += places
    return found.to(embeds.device)


def embed_texts(pipeline: Any, texts: Sequence[str]) -> Condition:
    """What becomes of texts as they come, [B, …] each; gradients flow through the text encoders, where these are on.

    Args:
        pipeline: its text encoders work where they are, as they are.
        texts: [B]; the pipeline cuts those that are too long.
    """
    return architecture_of(pipeline).embed(pipeline, texts)


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
    seen, windows = [], architecture_of(pipeline).windows(pipeline)
    for name, tokenizer in tokenizers(pipeline):
        given = [_converted(pipeline, text, tokenizer) for text in texts]
        rows = tokenizer(given, truncation=True, max_length=windows[name])["input_ids"]
        seen.append([tuple(row) for row in rows])
    return list(zip(*seen, strict=True))


def tokenizers(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Yields a pipeline's tokenizers that have a window, with their names, in the order of `text_encoders`."""
    for name in architecture_of(pipeline).windows(pipeline):
        yield name, pipeline.components[name]


def _converted(pipeline: Any, text: str, tokenizer: Any) -> str:
    """A text as its pipeline hands it to a tokenizer: some have small letters, or tokens of textual inversions."""
    if hasattr(pipeline, "_text_preprocessing"):
        return str(pipeline._text_preprocessing(text, clean_caption=False)[0])
    return pipeline.maybe_convert_prompt(text, tokenizer) if hasattr(pipeline, "maybe_convert_prompt") else text


def _check_length(pipeline: Any, text: str) -> None:
    windows = architecture_of(pipeline).windows(pipeline)
    for name, tokenizer in tokenizers(pipeline):
        tokens = tokenizer(_converted(pipeline, text, tokenizer), truncation=False, verbose=False)["input_ids"]
        window = windows[name]
        if len(tokens) > window:
            lost = tokenizer.decode(tokens[window - 1 : -1]).strip()
            raise DataError(
                f"a prompt takes {len(tokens)} tokens and the {name} has a window of {window}, so {lost!r} would be "
                f"cut off. Shorten it: {text!r}."
            )
