"""Debiasing: the published formula with the weights that shares ask for, and the loop that finds them."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import untrain
from helpers.small_pipelines import TEXTS
from untrain.diffusion.text import encode_prompts, own_size
from untrain.errors import EmptySet, SettingError, UnknownName
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.detectors import Detector, Sighting

ATTRIBUTES = {TEXTS[1]: "square", TEXTS[2]: "blue"}
QUICK: dict[str, Any] = {"samples": 4, "sampler": Sampler(2, guidance_scale=2.0), "device": "cpu"}


class Scripted(Detector):
    """Calls the images of each round what it was told to; "?" is something else."""

    name, kind, threshold, hash = "scripted", "classifier", None, ""

    def __init__(self, *rounds: str) -> None:
        self.rounds, self.seen = list(rounds), []

    def check(self, wanted: Iterable[str | None]) -> None:
        if set(wanted) - {"square", "blue"}:
            raise UnknownName("it knows square and blue")

    def look(self, images: Tensor, wanted: Sequence[str | None]) -> list[Sighting]:
        self.seen.append(images)
        names = {"s": "square", "b": "blue", "?": "cross"}
        return [Sighting(False, None, ({"label": names[c], "score": 1.0},)) for c in self.rounds.pop(0)]


def test_maps_become_the_formula_with_the_weights_that_were_found(pipe: Any) -> None:
    """c ↦ W (c + Σ α_a a), λ 0.5, in float64; α adds up what lacks: 1/4 of squares, then nothing."""
    judge = Scripted("sbbb", "ss?b", "ssbb")
    found = untrain.debias(pipe, [TEXTS[0]], ATTRIBUTES, judge, retain=["a cow"], **QUICK)
    assert found.reached and len(found.history) == 3 and not judge.rounds
    assert [row[TEXTS[0]] for row in found.history] == [
        {TEXTS[1]: 0.25, TEXTS[2]: 0.75},
        {TEXTS[1]: 0.5, TEXTS[2]: 0.25},
        {TEXTS[1]: 0.5, TEXTS[2]: 0.5},
    ]
    assert found.weights == {TEXTS[0]: {TEXTS[1]: 0.25, TEXTS[2]: 0.0}}
    prompts = encode_prompts(pipe, [*TEXTS, "a cow"], own_size(pipe))
    ends = [len(row) - 2 for row in pipe.tokenizer([*TEXTS, "a cow"])["input_ids"]]
    c, a, _, p = (row[end][:, None].double() for row, end in zip(prompts.embeds[1:], ends, strict=True))
    before, after = pipe.unet.state_dict(), found.model.unet.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if ".attn2.to_k." in name or ".attn2.to_v." in name}
    for name in moved:
        W = before[name].double()
        top = 0.5 * W + W @ (c + 0.25 * a) @ c.T + W @ p @ p.T
        expected = top @ torch.inverse(0.5 * torch.eye(len(c), dtype=torch.float64) + c @ c.T + p @ p.T)
        assert torch.allclose(after[name], expected, rtol=0, atol=1e-12), name
    assert not torch.equal(judge.seen[0], judge.seen[1]), "each round looks at new images"
    assert found.model.vae is pipe.vae and found.model.unet is not pipe.unet


def test_it_ends_after_its_rounds_and_says_so(pipe: Any) -> None:
    shares = {TEXTS[1]: 1.0, TEXTS[2]: 0.0}
    found = untrain.debias(pipe, [TEXTS[0]], ATTRIBUTES, Scripted("bbbb", "bbbb"), shares=shares, rounds=1, **QUICK)
    assert not found.reached and found.weights[TEXTS[0]] == {TEXTS[1]: 1.0, TEXTS[2]: -1.0}
    as_it_is = untrain.debias(pipe, [TEXTS[0]], ATTRIBUTES, Scripted("sbsb"), **QUICK)
    assert as_it_is.reached
    before, after = pipe.unet.state_dict(), as_it_is.model.unet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"prompts": []}, EmptySet),
        ({"attributes": {TEXTS[1]: "square"}}, SettingError),
        ({"attributes": {TEXTS[1]: "square", TEXTS[2]: "square"}}, SettingError),
        ({"attributes": {TEXTS[1]: "square", TEXTS[2]: "cross"}}, UnknownName),
        ({"shares": {TEXTS[1]: 0.5, TEXTS[2]: 0.6}}, SettingError),
        ({"shares": {TEXTS[1]: 1.0}}, SettingError),
        ({"rounds": 0}, SettingError),
        ({"tolerance": 0.0}, SettingError),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_before_an_image_is_made(pipe: Any, wrong: dict[str, Any], kind: Any) -> None:
    given: dict[str, Any] = {"prompts": [TEXTS[0]], "attributes": ATTRIBUTES, **QUICK, **wrong}
    with pytest.raises(kind):
        untrain.debias(pipe, given.pop("prompts"), given.pop("attributes"), Scripted(), **given)
