"""Concepts from prompts alone: x_t and what the original predicts there, written out; no image is made or looked at."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import untrain
from helpers.command_line import untrain as command
from helpers.concept_images import refuse_concept_images
from helpers.small_pipelines import TEXTS, stable_diffusion
from helpers.text_recipes import save_text_recipe
from untrain.data.samples import Arrays
from untrain.data.splits import Subset
from untrain.data.streams import Stream
from untrain.engine import Engine, generator_of
from untrain.errors import SettingError
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.concepts import Concept, ConceptImages, concept_data, text_task
from untrain.tasks.text_to_image.eval_prompts import Captioned, make_concepts
from untrain.tasks.text_to_image.from_prompts import FromPrompts, Way, work_from_prompts
from untrain.tasks.text_to_image.sections import ConceptEntry, Concepts
from untrain.types import Batch

ENGINE = Engine(torch.device("cpu"))
WAY = Sampler(steps=4, guidance_scale=3.0)
IMAGES = ConceptImages(count=5, from_prompts=WAY)
FORGET, RETAIN = Concept(TEXTS[0], anchor=TEXTS[1]), Concept(TEXTS[2])
SETS: dict[str, Any] = {"forget": FORGET, "retain": RETAIN}
QUICK: dict[str, Any] = {
    "task": "text-to-image",
    "images": ConceptImages(count=3, from_prompts=Sampler(2, guidance_scale=2.0)),
    "batch_size": 2,
    "parts": "xattn",
    "device": "cpu",
}


def stream_of(pipe: Any, folder: Path, name: str, batch_size: int = 3) -> tuple[FromPrompts, Stream]:
    data, rows = concept_data(pipe, SETS, ENGINE, folder, how=IMAGES)
    task = work_from_prompts(text_task(pipe, drop=0.5), Way(WAY, ENGINE, 7, pipe.unet))
    return task, Stream(Subset(data, rows[name]), name, ENGINE, batch_size)


def predicted(pipe: Any, x: Tensor, t: int, text: Tensor) -> Tensor:
    return pipe.unet(x, torch.tensor([t]), encoder_hidden_states=text).sample


def slow_way(pipe: Any, x: Tensor, texts: tuple[Tensor, Tensor], until: int) -> Tensor:
    """DDIM of one image at a guidance of 3 over timesteps 15, 10, 5, 0 of 20, down to one of them."""
    kept = pipe.scheduler.alphas_cumprod.double()
    for t, then in ((15, 10), (10, 5), (5, 0)):
        if t <= until:
            break
        one, none = (predicted(pipe, x, t, text) for text in texts)
        out = none + 3 * (one - none)
        eps = out
        if pipe.scheduler.config.prediction_type == "v_prediction":
            eps = kept[t].sqrt() * out + (1 - kept[t]).sqrt() * x
        clean = (x - (1 - kept[t]).sqrt() * eps) / kept[t].sqrt()
        x = kept[then].sqrt() * clean + (1 - kept[then]).sqrt() * eps
    return x


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return stable_diffusion(tmp_path_factory.mktemp("tokens"), request.param)


@pytest.mark.parametrize("role", ["forget", "retain", "fisher"])
@torch.no_grad()
def test_what_is_drawn_is_the_formulas_written_out(either: Any, role: Any, tmp_path: Path) -> None:
    """Row by row, in float64 to 1e-6 of its float32 schedule: x_t, the timesteps, and the target; and so the loss."""
    task, stream = stream_of(either, tmp_path, "retain" if role == "retain" else "forget")
    seen, dropped = set(), 0
    for k in range(3):
        batch = stream.batch(k, task, role)
        times = batch["timestep"].tolist()
        assert times[0] == times[1] and times[0] + times[2] == 15, "a pair, as far from the first as from the last"
        seen |= set(times)
        for row in range(3):
            texts = batch["prompt"][row][None], batch["empty"][row][None]
            noise = torch.randn(1, 4, 8, 8, generator=generator_of(7, "from prompts", int(batch["index"][row])))
            x = slow_way(either, noise.double().reshape(1, 4, 8, 8), texts, times[row])
            torch.testing.assert_close(batch["seen"][row][None], x, rtol=1e-6, atol=1e-6)
            own = predicted(either, x, times[row], batch["condition"][row][None])
            if role == "retain":
                target, none = own, bool(torch.equal(batch["condition"][row], batch["empty"][row]))
                dropped += none
            else:
                none_out = predicted(either, x, times[row], texts[1])
                target = none_out + 3 * (own - none_out)
            extra = batch["noise"][row] if role == "fisher" else 0
            torch.testing.assert_close(batch["target"][row][None], target + extra, rtol=1e-6, atol=1e-6)
        losses = task.loss(either.unet, batch)
        expected = (task.outputs(either.unet, batch) - batch["target"]).square().flatten(1).mean(1)
        torch.testing.assert_close(losses, expected)
        assert (losses.max() < 1e-12) == (role == "retain"), "what is kept is where it should be"
    assert seen <= {15, 10, 5, 0} and len(seen) > 1
    assert role != "retain" or 0 < dropped < 9


def test_a_row_depends_on_nothing_but_its_own_noise_and_the_draw(pipe: Any, tmp_path: Path) -> None:
    task, stream = stream_of(pipe, tmp_path, "forget")
    first, again = (stream.batch(1, task, "forget") for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    raw = stream.gather(stream.indices(1), 1)
    assert not torch.equal(first["seen"][0], first["seen"][1]), "each begins at noise of its own"
    alone: Batch = {key: value[:1] for key, value in raw.items()}
    drawn = task.draw(alone, generator_of(stream.seed, "forget", "forget", "draw", 1), "forget")
    other = task.at(first, drawn["timestep"].expand(3))
    assert "target" not in other and "seen" not in other, "at another timestep it is noised anew"
    kept = stream.data.select(torch.tensor([4, 2]))
    assert kept.batch(torch.arange(2))["start"].tolist() == [4, 2], "a selection begins where it began"


def test_conditions_can_be_looked_at_for_nothing_and_images_cannot(pipe: Any, tmp_path: Path) -> None:
    task, stream = stream_of(pipe, tmp_path, "forget")
    calls: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = stream.batch(0, task, "evaluate")
    handle.remove()
    assert not calls and batch["label"].tolist() == [1, 1, 1]
    for look in (lambda: task.loss(pipe.unet, batch), lambda: task.noisy(task.at(batch, batch["timestep"]))):
        with pytest.raises(SettingError, match="from_prompts"):
            look()
    with pytest.raises(SettingError, match="prepare"):
        stream.batch(0, work_from_prompts(task, Way(WAY, ENGINE, 0)), "forget")


# In Python.


@pytest.mark.parametrize("method", ["sfron", "salun", "random-label", "gradient-ascent"])
def test_a_method_works_without_an_image(pipe: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_concept_images(monkeypatch)
    result = untrain.unlearn(pipe, **SETS, **QUICK, method=method, steps=2)
    before, after = pipe.unet.state_dict(), result.model.unet.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".attn2." in name for name in moved)
    assert all(record["forget_loss"] > 0 for record in result.history if "forget_loss" in record)


def test_in_place_or_not_and_resumed_it_is_the_same(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """x_t is the original's though the model that makes it changes under it."""
    found = []
    for inplace in (False, True):
        given = copy.deepcopy(pipe)
        result = untrain.unlearn(given, **SETS, **QUICK, steps=3, inplace=inplace)
        found.append(result.model.unet.state_dict())
    step, calls = untrain.methods.SFRon.step, []

    def killed(self: Any, state: Any, k: int) -> Any:
        if k == 2 and not calls:
            calls.append(k)
            raise KeyboardInterrupt
        return step(self, state, k)

    monkeypatch.setattr(untrain.methods.SFRon, "step", killed)
    monkeypatch.setattr("untrain.methods.loop.Checkpoints.every", 0.0)
    with pytest.raises(KeyboardInterrupt):
        untrain.unlearn(pipe, **SETS, **QUICK, steps=3, out=tmp_path)
    resumed = untrain.unlearn(pipe, **SETS, **QUICK, steps=3, out=tmp_path, resume=True)
    found.append(resumed.model.unet.state_dict())
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


@pytest.mark.parametrize(
    "wrong", [{"solver": "lms", "guidance_scale": 2.0}, {"guidance_scale": 1.0}, {"guidance_scale": 0.5}], ids=str
)
def test_a_sampler_that_cannot_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="from_prompts"):
        ConceptImages(from_prompts=Sampler(**wrong))


def test_images_that_are_given_are_not_left_aside_in_silence(pipe: Any) -> None:
    pictures = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(SettingError, match="blue square.*has images.*from_prompts"):
        untrain.unlearn(pipe, forget=FORGET, retain=Concept(TEXTS[2], images=pictures), **QUICK)


# In recipes.


def test_a_recipe_runs_and_refuses_what_would_be_a_copy_of_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_concept_images(monkeypatch)
    recipe, out = save_text_recipe(tmp_path), tmp_path / "run"
    way = {"steps": 2, "guidance_scale": 2.0}
    words = [word for name, value in way.items() for word in (f"--concepts.images.from_prompts.{name}", value)]
    code, _, err = command("run", recipe, "--out", out, *words)
    assert code == 0, err
    content = json.loads((out / "evaluation.json").read_text())
    assert content["sizes"] == {"forget": 3, "retain": 6, "holdout": 0, "test": 0}
    code, _, err = command("run", recipe, "--out", tmp_path / "other", *words, "--references", 1)
    assert code != 0 and "references" in err and not (tmp_path / "other").exists()


def test_concepts_that_are_words_of_captions_leave_the_images_to_the_judges() -> None:
    captions = ["a red circle", "a red square", "a blue square"]
    images = Arrays(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), [0, 1, 2], captions)
    section = Concepts(forget=[ConceptEntry(containing="circle", instead="square")], images=IMAGES)
    found = make_concepts(section, Captioned(images, images))
    assert found["forget"] == [Concept("a red circle", None, "a red square")]
    assert [each.prompt for each in found["retain"]] == captions[1:]
    assert all(each.images is None for each in found["retain"])
    with_images = make_concepts(replace(section, images=ConceptImages()), Captioned(images, images))
    assert all(each.images is not None for each in (*with_images["forget"], *with_images["retain"]))
