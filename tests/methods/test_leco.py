"""LECO: its target written out; what is learned is adapters of its own rank, unless others are asked for."""

import copy
from typing import Any

import pytest
import torch

import untrain
from helpers.concept_images import refuse_concept_images
from helpers.small_generators import denoiser, problem
from helpers.small_pipelines import TEXTS
from untrain.engine import generator_of
from untrain.errors import SettingError
from untrain.methods import make
from untrain.methods.base import Optimizer
from untrain.methods.leco import LECO
from untrain.models.adapters import Adapters
from untrain.sampling import Sampler

SAMPLER = Sampler(steps=5, guidance_scale=3.0)
SETS: dict[str, Any] = {
    "forget": untrain.Concept(TEXTS[0], anchor=TEXTS[1]),
    "retain": untrain.Concept(TEXTS[2]),
    "task": "text-to-image",
    "device": "cpu",
}
QUICK: dict[str, Any] = {"method": "leco", "steps": 2, "samples": 2, "sampler": Sampler(2, guidance_scale=3.0)}


@pytest.mark.parametrize("neutral", ["empty", "anchor"])
def test_a_step_is_the_target_written_out(neutral: str) -> None:
    """ε(x, c) → ε*(x, n) − η (ε*(x, c) − ε*(x, ∅)); class 2 is forgotten, its anchor is 0, "no class" is 3."""
    work, engine = problem(denoiser())
    method = LECO(neutral=neutral, eta=1.5, steps=2, sampler=SAMPLER, samples=2, optimizer=Optimizer("sgd", 0.05))  # type: ignore[arg-type]
    assert method.wants(work.task) == (("unconditional", "redirect") if neutral == "anchor" else ("unconditional",))
    state, original = method.start(work, engine), denoiser().eval()
    batch = {key: value[:2] for key, value in work.forget.batch(0, work.task, "forget").items()}
    t = SAMPLER.visited(20)[int(torch.randint(5, (), generator=generator_of(0, "esd", 0)))]
    noise = [generator_of(0, "esd", 0, int(i)) for i in batch["index"]]
    x = work.task.generate(original, batch, noise, SAMPLER, until=t)
    when = torch.full((2,), t)
    with torch.no_grad():
        conditional, unconditional, anchor = (
            original(x, when, class_labels=torch.full((2,), c)).sample for c in (2, 3, 0)
        )
    target = (anchor if neutral == "anchor" else unconditional) - 1.5 * (conditional - unconditional)
    expected = (original(x, when, class_labels=torch.full((2,), 2)).sample - target).square().mean()
    assert method.step(state, 0)["forget_loss"] == pytest.approx(expected.item(), rel=1e-9)


def rank_of(change: torch.Tensor) -> int:
    return int(torch.linalg.matrix_rank(change.flatten(1).double(), rtol=1e-5))


def test_it_trains_adapters_where_texts_come_in(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_concept_images(monkeypatch)
    result = untrain.unlearn(pipe, **SETS, **QUICK)
    before, after = pipe.unet.state_dict(), result.model.unet.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved and all(".attn2." in name for name in moved)
    assert 0 < max(rank_of(after[name] - before[name]) for name in moved) <= 4
    assert result.lora is not None and result.lora.rank == 4


def test_others_can_be_asked_for_and_parts_say_where(pipe: Any) -> None:
    asked = untrain.unlearn(pipe, **SETS, **QUICK, adapters={"rank": 2})
    assert asked.lora is not None and asked.lora.rank == 2
    elsewhere = untrain.unlearn(pipe, **SETS, **QUICK, parts="selfattn")
    before, after = pipe.unet.state_dict(), elsewhere.model.unet.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved and all(".attn1." in name for name in moved)
    assert LECO.own_adapters == Adapters(rank=4, alpha=1.0)
    with pytest.raises(SettingError, match="neutral"):
        make("leco", {"neutral": "nothing"})
    assert copy.copy(LECO()) == LECO()
