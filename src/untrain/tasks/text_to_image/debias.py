"""Debiasing by closed-form edits: a prompt's images come to show each of some attributes as often as wanted.

Gandikota, Orgad, Belinkov, Materzyńska, Bau: *Unified Concept Editing in Diffusion Models*, WACV 2024, section 4.3 and
its code. Nothing is forgotten: keys and values W make of a prompt's last token c what they made of c + Σ_a α_a a, a the
last token of each attribute's text, and α is raised and lowered by how often images show the attribute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from untrain.diffusion.images import ImageMaker
from untrain.diffusion.latents import decode
from untrain.diffusion.pipelines import with_denoiser
from untrain.diffusion.text import Prompts, check_pipeline, encode_prompts, own_size
from untrain.engine import Engine, on_device, seed_of
from untrain.errors import EmptySet, ModelError, SettingError
from untrain.methods.closed_form import condense, solve_edit
from untrain.models.copies import copy_module
from untrain.sampling import Sampler
from untrain.settings import check_arguments
from untrain.tasks.text_to_image.concepts import latent_shape_of, prompt_conditions, text_task
from untrain.tasks.text_to_image.detectors import Detector
from untrain.tasks.text_to_image.edits import cross_attention_maps, text_pairs

SAMPLER = Sampler(20, guidance_scale=7.5)
Shares = dict[str, dict[str, float]]
"""Prompt → attribute's text → a number for it."""


@dataclass(frozen=True, eq=False)
class Debiased:
    """What debiasing came to.

    Attributes:
        model: another pipeline, which shares all but the UNet's changed weights with the given one.
        history: of each round the share of a prompt's images that showed each attribute, in [0, 1]; the first is of the
            given pipeline, the last of the result.
        weights: α.
        reached: whether each share is as wanted, as far as the images of the last round tell.
    """

    model: Any
    history: list[Shares]
    weights: Shares
    reached: bool


@check_arguments
def debias(
    pipeline: Any,
    prompts: Sequence[str],
    attributes: Mapping[str, str],
    judge: Detector,
    *,
    shares: Mapping[str, float] | None = None,
    retain: Sequence[str] = (),
    rounds: int = 30,
    samples: int = 10,
    tolerance: float = 0.05,
    lam: float = 0.5,
    keep_scale: float = 1.0,
    sampler: Sampler = SAMPLER,
    batch_size: int = 4,
    seed: int = 0,
    device: str | None = None,
) -> Debiased:
    """Edits keys and values of cross-attention until a prompt's images show each attribute as often as wanted.

    Args:
        pipeline: a supported one; it stays as it is.
        prompts: what is debiased ("a photo of a doctor").
        attributes: an attribute's text ("a female person") → what the judge calls it ("female"); at least two.
        judge: a classifier; an image shows the attribute whose label it holds for the most probable.
        shares: attribute's text → wanted share of the images, in [0, 1], together 1; None: all the same.
        retain: texts that keys and values stay the same for.
        rounds: of measuring and editing, at most.
        samples: images of each prompt in a round, of new noise each time.
        tolerance: a prompt is left as it is while each of its shares is nearer to what is wanted.
        lam: λ, pull of the maps to what they were.
        keep_scale: weight of each retained text.
        sampler: how images are made.
        batch_size: images at once.
        seed: of their noise.
        device: None takes a CUDA device where there is one, else the CPU.

    Raises:
        ModelError: if the pipeline is not supported, or has no UNet. UnknownName: if the judge does not know a label.
        EmptySet: if there is no prompt. SettingError: if shares do not fit.
    """
    check_pipeline(pipeline)
    if pipeline.components.get("unet") is None:
        raise ModelError(f"debias edits the cross-attention of a UNet, and {type(pipeline).__name__} has none.")
    wanted = _wanted(prompts, attributes, shares)
    if min(rounds, samples, batch_size) < 1 or not tolerance > 0 or not lam > 0 or keep_scale < 0:
        raise SettingError("rounds, samples and batch_size must be at least 1, tolerance and lam above 0.")
    judge.check(list(attributes.values()))
    engine, size = Engine.start(device), own_size(pipeline)
    texts = encode_prompts(pipeline, [*prompts, *attributes, *retain], size).to("cpu")
    kept = torch.cat([_last(texts, text) for text in retain]) if retain else _last(texts, "")[:0]
    maps = [id(weight) for weight in cross_attention_maps(pipeline.unet).values()]
    unet = copy_module(pipeline.unet, [p for p in pipeline.unet.parameters() if id(p) not in maps]).eval()
    first = {name: weight.detach().clone() for name, weight in cross_attention_maps(unet).items()}
    weights: Shares = {prompt: dict.fromkeys(attributes, 0.0) for prompt in prompts}
    history: list[Shares] = []
    with on_device(engine.device, unet, pipeline.vae):
        look = partial(_shares, pipeline, unet, texts, attributes, judge, engine, sampler, batch_size, samples)
        for number in range(rounds + 1):
            history.append(look(prompts, seed_of(seed, "round", number)))
            off = {prompt: _off(history[-1][prompt], wanted, tolerance) for prompt in prompts}
            reached = not any(any(each.values()) for each in off.values())
            if reached or number == rounds:
                break
            for prompt in prompts:
                for text in attributes:
                    weights[prompt][text] += off[prompt][text]
            _edit(unet, first, texts, weights, kept, lam=lam, keep_scale=keep_scale)
    return Debiased(with_denoiser(pipeline, unet), history, weights, reached)


def _wanted(
    prompts: Sequence[str], attributes: Mapping[str, str], shares: Mapping[str, float] | None
) -> dict[str, float]:
    """The wanted share of each attribute, looked at."""
    if not prompts:
        raise EmptySet("there is no prompt to debias: give at least one.")
    if isinstance(prompts, str) or len(attributes) < 2 or len(set(attributes.values())) < len(attributes):
        raise SettingError("prompts is a list of texts, and attributes maps two texts or more to labels of their own.")
    found = dict.fromkeys(attributes, 1 / len(attributes)) if shares is None else dict(shares)
    if found.keys() != attributes.keys() or min(found.values()) < 0 or abs(sum(found.values()) - 1) > 1e-6:
        raise SettingError(
            f"shares must give each of {', '.join(map(repr, attributes))} a number from 0 to 1, together 1; it is "
            f"{found}."
        )
    return found


def _last(texts: Prompts, text: str) -> Tensor:
    """The last token of a text before its end, as UCE's code has it, float64 [1, D]."""
    number = torch.tensor([texts.number(text)])
    return text_pairs(texts.rows(number, number), "last", keep=True)[0].double()


def _off(found: Mapping[str, float], wanted: Mapping[str, float], tolerance: float) -> dict[str, float]:
    """By how much each share is below what is wanted; 0 where all are near enough."""
    off = {text: wanted[text] - share for text, share in found.items()}
    near = all(abs(value) < tolerance for value in off.values())
    return dict.fromkeys(off, 0.0) if near else off


def _shares(
    pipeline: Any,
    unet: nn.Module,
    texts: Prompts,
    attributes: Mapping[str, str],
    judge: Detector,
    engine: Engine,
    sampler: Sampler,
    batch_size: int,
    samples: int,
    prompts: Sequence[str],
    seed: int,
) -> Shares:
    """How often images of each prompt show each attribute."""
    conditions = prompt_conditions(text_task(pipeline), texts.to(engine.device))
    shape, decoder = latent_shape_of(pipeline), partial(decode, pipeline.vae)
    maker = ImageMaker(text_task(pipeline), conditions, shape, sampler, engine, seed, batch_size, decoder)
    images, numbers = maker.collect(unet, [texts.number(prompt) for prompt in prompts], samples, None)
    sightings = judge.look(images, [None] * len(images))
    found: Shares = {prompt: dict.fromkeys(attributes, 0.0) for prompt in prompts}
    named = {label: text for text, label in attributes.items()}
    for number, sighting in zip(numbers.tolist(), sightings, strict=True):
        shown = next((named[each["label"]] for each in sighting.detections if each["label"] in named), None)
        if shown is not None:
            found[texts.texts[number]][shown] += 1 / samples
    return found


def _edit(
    unet: nn.Module,
    first: Mapping[str, Tensor],
    texts: Prompts,
    weights: Shares,
    kept: Tensor,
    *,
    lam: float,
    keep_scale: float,
) -> None:
    """Sets every map to the edit of what it was at first."""
    given = torch.cat([_last(texts, prompt) for prompt in weights])
    moved = [sum(alpha * _last(texts, text) for text, alpha in of.items()) for of in weights.values()]
    edit = solve_edit(given, given + torch.cat(moved), condense(kept), lam=lam, keep_scale=keep_scale)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, weight in cross_attention_maps(unet).items():
            before = first[name].cpu()
            weight.copy_((before.double() + edit.change(before)).to(weight))
