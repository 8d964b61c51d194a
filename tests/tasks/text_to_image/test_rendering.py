"""Images of prompts: each from its own noise, the same in every model, and what is seen in them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import untrain
from helpers.small_pipelines import TEXTS
from untrain.diffusion.text import encode_prompts
from untrain.engine import Engine
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.concepts import Concept, text_task
from untrain.tasks.text_to_image.detectors import Classifier
from untrain.tasks.text_to_image.evaluate import ConceptEvaluation, PromptImages
from untrain.tasks.text_to_image.rendering import (
    JUDGE,
    EvalPrompt,
    PromptRenderer,
    RenderedImages,
    evaluate_prompted,
)

ENGINE = Engine(torch.device("cpu"))
ASKED = (
    EvalPrompt(TEXTS[0], True, {JUDGE: "circle", "colour": "red"}),
    EvalPrompt(TEXTS[1], False, {JUDGE: "square", "colour": "red"}),
    EvalPrompt(TEXTS[2], False, {"colour": "blue"}),
)


def renderer(pipe: Any, batch_size: int = 4) -> PromptRenderer:
    prompts = encode_prompts(pipe, [*TEXTS, "a house"], 16)
    how = (ENGINE, Sampler(2, guidance_scale=2.0), batch_size)
    return PromptRenderer(text_task(pipe), pipe.vae, prompts, (4, 8, 8), *how)


def same(a: PromptImages, b: PromptImages) -> bool:
    """Within one level, as batches differ."""
    told = [(each.prompts, each.wanted, each.numbers, each.seeds) for each in (a, b)]
    return told[0] == told[1] and bool((a.images.int() - b.images.int()).abs().max() <= 1)


def test_a_concepts_own_prompt_is_asked_for_its_label() -> None:
    assert EvalPrompt.of_concept(Concept("a", label="b"), forgotten=True) == EvalPrompt("a", True, {JUDGE: "b"})
    assert EvalPrompt.of_concept(Concept("a"), forgotten=False) == EvalPrompt("a", False, {})


def test_images_stand_under_their_prompts(pipe: Any) -> None:
    gone, stay = renderer(pipe).render(pipe.unet, ASKED, 3, seed=5)
    assert gone.images.shape == (3, 3, 16, 16) and gone.images.dtype == torch.uint8
    assert stay.images.shape == (6, 3, 16, 16)
    assert gone.prompts == [TEXTS[0]] * 3 and stay.prompts == [TEXTS[1]] * 3 + [TEXTS[2]] * 3
    assert gone.numbers == [0, 1, 2] and stay.numbers == [0, 1, 2] * 2
    assert gone.wanted == ["circle"] * 3 and stay.wanted == ["square"] * 3 + [None] * 3
    _, stay = renderer(pipe).render(pipe.unet, ASKED, 3, seed=5, primary="colour")
    assert stay.wanted == ["red"] * 3 + ["blue"] * 3


def test_an_image_depends_on_seed_text_and_number_alone(pipe: Any) -> None:
    """Not on the batch, nor on the other prompts, their order, or how many images there are."""
    gone, stay = renderer(pipe).render(pipe.unet, ASKED, 2, seed=5)
    assert all(same(a, b) for a, b in zip(renderer(pipe, 1).render(pipe.unet, ASKED, 2, seed=5), (gone, stay)))
    alone, none = renderer(pipe).render(pipe.unet, ASKED[:1], 2, seed=5)
    assert same(alone, gone) and len(none.images) == 0 and list(none.prompts) == []
    turned = renderer(pipe).render(pipe.unet, ASKED[::-1], 2, seed=5)
    assert same(turned.forget, gone) and list(turned.retain.prompts) == [TEXTS[2]] * 2 + [TEXTS[1]] * 2
    assert (turned.retain.images.roll(2, 0).int() - stay.images.int()).abs().max() <= 1
    more = renderer(pipe).render(pipe.unet, ASKED, 3, seed=5).forget
    assert (more.images[:2].int() - gone.images.int()).abs().max() <= 1 and list(more.seeds[:2]) == list(gone.seeds)
    other = renderer(pipe).render(pipe.unet, ASKED, 2, seed=6).forget
    assert not set(other.seeds) & set(gone.seeds) and not torch.equal(other.images, gone.images)
    assert len({*gone.seeds, *stay.seeds}) == 6


def test_the_seed_that_is_told_makes_the_image(pipe: Any) -> None:
    """The latent's noise is the first thing that a generator with this seed gives."""
    place = renderer(pipe)
    gone = place.render(pipe.unet, ASKED, 2, seed=5).forget
    rows = place.prompts.rows(torch.tensor([1, 1]), torch.tensor([0, 0]))
    generators = [torch.Generator().manual_seed(seed) for seed in gone.seeds]
    latents = place.task.generate(pipe.unet, place.task.blank(rows, (4, 8, 8)), generators, place.sampler)
    with torch.no_grad():
        made = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    expected = ((made + 1) * 127.5).round().clamp(0, 255)
    assert (expected - gone.images).abs().max() <= 1


# What is measured, on images that are known.


class Level(nn.Module):
    """Tells by the mean of one channel; that is its feature."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.last = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(torch.tensor([[1.0], [-1.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x[:, self.channel].mean((1, 2))[:, None])


def detector(channel: int, labels: tuple[str, str]) -> Classifier:
    return untrain.image_classifier(Level(channel), labels, name=labels[0])


def flat(levels: list[tuple[int, int, int]]) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 2, 2).contiguous()


def known(shift: int) -> RenderedImages:
    """Images of one colour each; channel 0 says which shape it is, channel 1 which colour."""
    gone = flat([(200, 200, 0), (90 - shift, 200, 0)])
    stay = flat([(10 + shift, 250, 0), (160, 250, 0), (30, 10, 0), (40 + shift, 200, 0)])
    texts = [TEXTS[1]] * 2 + [TEXTS[2]] * 2
    return RenderedImages(
        PromptImages(gone, [TEXTS[0]] * 2, ["circle"] * 2, [0, 1], [1, 2]),
        PromptImages(stay, texts, ["square"] * 2 + [None] * 2, [0, 1, 0, 1], [3, 4, 5, 6]),
    )


def evaluated(models: dict[str, nn.Module], original: nn.Module | None, **more: Any) -> tuple[Any, list[nn.Module]]:
    made: list[nn.Module] = []
    shifts: dict[nn.Module, int] = {}

    def make(module: nn.Module, label: str | None) -> RenderedImages:
        made.append(module)
        return known(shifts.setdefault(module, 0 if module is original else 20))

    judge = detector(0, ("circle", "square"))
    found = evaluate_prompted(
        models,
        original,
        make,
        ASKED,
        detector=judge,
        judges={"colour": detector(1, ("red", "blue"))},
        features=judge.features,
        **more,
    )
    return found, made


def test_measures_in_closed_form() -> None:
    before, after = nn.Identity(), nn.Identity()
    shown: list[tuple[str, Any, ConceptEvaluation]] = []
    found, made = evaluated({"after": after, "before": before}, before, look=lambda *given: shown.append(given))
    assert [*found] == ["after", "before"] and made == [before, after], "in the order given; the original is made first"
    assert [name for name, _, _ in shown] == ["before", "after"]
    assert all(evaluation is found[name] for name, _, evaluation in shown)
    one = found["before"]
    assert (one.FA, one.RA, one.RA_worst) == (50.0, 50.0, 50.0), "of the one retained prompt with a label"
    assert one.by_class["recognised"] == {"circle": 50.0, "square": 50.0, "red": 100.0, "blue": 50.0}
    assert one.samples == {"forgotten": 2, "retained": 4}
    assert one.FD is None and one.missing["FD"] == "it is the distance to the original's own images"
    first, second = (torch.tensor(v).double() / 127.5 - 1 for v in ([10, 160, 30, 40], [30, 160, 30, 60]))
    expected = (first.mean() - second.mean()) ** 2 + (first.std() - second.std()) ** 2
    assert found["after"].FD == pytest.approx(float(expected), rel=1e-4)


def test_an_original_that_is_not_measured_is_made_once_for_all() -> None:
    before, one, two = nn.Identity(), nn.Identity(), nn.Identity()
    found, made = evaluated({"one": one, "two": two}, before)
    assert made == [before, one, two] and found["one"].FD == found["two"].FD is not None
    found, made = evaluated({"one": one}, None)
    assert made == [one] and found["one"].FD is None


def test_too_few_images_name_the_setting() -> None:
    before, after = nn.Identity(), nn.Identity()
    judge = detector(0, ("circle", "square"))
    few = known(0)
    stay = PromptImages(few.retain.images[:1], few.retain.prompts[:1], ["square"], [0], [3])
    found = evaluate_prompted(
        {"before": before, "after": after},
        before,
        lambda module, label: RenderedImages(few.forget, stay),
        ASKED,
        detector=judge,
        judges={},
        features=judge.features,
        setting="generation.samples",
    )["after"]
    assert found.FD is None and found.missing["FD"].endswith("raise generation.samples")
    assert found.RA == 100.0
