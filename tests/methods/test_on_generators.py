"""Every method runs on generators as it is: on a tiny UNet, a tiny DiT, and one that learns its variance."""

from dataclasses import replace

import pytest
import torch

from helpers import generators_in_processes
from helpers.generator_methods import NAMES, SHARED, method
from helpers.processes import run_in_processes
from helpers.small_generators import TASK, denoiser, problem
from untrain.errors import SettingError
from untrain.methods import METHODS, make
from untrain.methods.base import Optimizer, check_runs
from untrain.methods.loop import Checkpoints, run
from untrain.methods.retrain import Retrain
from untrain.methods.steps import descend

KINDS = ("unet", "dit", "dit-learned")
OF_TEXTS = ("mace-refine",)
"""Methods whose conditions are more than one vector, as texts are."""


def test_every_method_is_here():
    there = {name.split("-")[0] if name.startswith("sfron") else name for name in NAMES}
    assert there | {"transpose", *OF_TEXTS} == {name for name, kind in METHODS.items() if not kind.classifies}


@pytest.mark.parametrize("name", OF_TEXTS)
def test_what_needs_texts_is_refused(name):
    with pytest.raises(SettingError, match="tokens='others' has no meaning on task"):
        check_runs(METHODS[name](), problem(denoiser())[0].task)


@pytest.mark.parametrize("name", sorted(name for name, kind in METHODS.items() if kind.classifies))
def test_what_needs_logits_of_classes_is_refused(name):
    with pytest.raises(SettingError, match=f"'{name}' cannot run on task .*logits of classes"):
        check_runs(METHODS[name], problem(denoiser())[0].task)


def test_transposed_kernels_of_a_generator():
    """A DiT has no kernel to transpose but that of its patches."""
    work, engine = problem(denoiser("unet"))
    run(make("transpose", {"steps": 2, "optimizer": Optimizer("adam", 1e-3)}), work, engine)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, kind):
    """With the class's condition dropped now and then, dropout, and images mirrored."""
    before = denoiser(kind, dropout=0.2)
    work, engine = problem(denoiser(kind, dropout=0.2), replace(TASK, flip=True))
    check_runs(method(name), work.task)
    done = run(method(name), work, engine)
    assert len(done.history) == done.method.total
    moved = [not torch.equal(a, b) for a, b in zip(done.state.module.parameters(), before.parameters(), strict=True)]
    assert sum(moved) > (0 if name in ("ssd", "uce", "eu-k", "cf-k") else len(moved) / 2)
    assert all(bool(torch.isfinite(p).all()) for p in done.state.module.parameters())
    assert not done.state.module.training
    for record in done.history:
        assert all(isinstance(value, (int, float)) for value in record.values())


# The mask is a promise.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["sfron", "sfron-ascent", "sfron-redirect"])
def test_a_forget_step_moves_no_unsalient_weight(name, kind):
    work, engine = problem(denoiser(kind))
    chosen = method(name).resolved(work, engine)
    state = chosen.start(work, engine)
    mask = work.memo["mask"]
    assert 0 < sum(int(m.sum()) for m in mask.values()) < sum(m.numel() for m in mask.values())
    for k in range(3):
        before = {name: p.detach().clone() for name, p in state.module.named_parameters()}
        chosen._forget(state, k)
        moved = 0
        for name, parameter in state.module.named_parameters():
            assert torch.equal(parameter[~mask[name]], before[name][~mask[name]]), name
            moved += int((parameter != before[name]).sum())
        assert moved > 0
        descend(state, "retain")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["salun", "sfron-joined"])
def test_no_step_at_all_moves_an_unsalient_weight(name, kind):
    work, engine = problem(denoiser(kind))
    done = run(method(name), work, engine)
    mask, moved = work.memo["mask"], 0
    for (name, parameter), before in zip(
        done.state.module.named_parameters(), denoiser(kind).parameters(), strict=True
    ):
        assert torch.equal(parameter[~mask[name]], before[~mask[name]]), name
        moved += int((parameter != before).sum())
    assert moved > 0


# The weight of what is retained.


def step_of(weight, forget=12):
    """The gradient of one step, before the optimiser sees it, and its two losses."""
    work, engine = problem(denoiser(), forget=forget, retain=30)
    chosen = make("salun", {"steps": 5, "optimizer": Optimizer("sgd", 1e-9), "fraction": 1.0, "retain_weight": weight})
    state = chosen.start(work, engine)
    log = chosen.step(state, 0)
    return torch.cat([p.grad.flatten() for p in state.parameters]), log


def test_the_retain_weight_scales_the_retain_part_of_the_gradient():
    """Six retain and two forget rows: g(w) = (6 w g_r + 2 g_f) / 8."""
    (one, log), (three, other), (tiny, _) = step_of(1.0), step_of(3.0), step_of(1e-9)
    assert log["retain_loss"] == other["retain_loss"]
    assert torch.allclose(three - tiny, 3 * (one - tiny), rtol=1e-6, atol=1e-12)
    assert not torch.allclose(one, tiny, rtol=1e-3)
    with pytest.raises(SettingError, match="retain_weight"):
        make("random-label", {"retain_weight": 0.0})


def test_without_forget_rows_the_retain_loss_is_weighted_all_the_same():
    """One forget sample in five steps: none in the first."""
    (one, log), (tenth, _) = step_of(1.0, forget=1), step_of(0.1, forget=1)
    assert "forget_loss" not in log
    assert torch.allclose(tenth, 0.1 * one, rtol=1e-9)


# Resuming.


class Killed(BaseException):
    """What no handler catches."""


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_goes_on_to_the_same_bits(name, tmp_path, monkeypatch):
    def begun():
        return problem(denoiser("dit", dropout=0.2), replace(TASK, flip=True))

    chosen = method(name)
    whole = run(chosen, *begun())
    saver = Checkpoints(tmp_path / "resume.pt", "mark", resume=True, every=0.0)
    step, at = type(chosen).step, min(2, len(whole.history) - 1)

    def killed(self, state, k):
        if k == at:
            raise Killed
        return step(self, state, k)

    with monkeypatch.context() as patch:
        patch.setattr(type(chosen), "step", killed)
        with pytest.raises(Killed):
            run(chosen, *begun(), checkpoints=saver)
    again = run(chosen, *begun(), checkpoints=saver)
    assert again.history == whole.history
    for (key, a), b in zip(
        again.state.module.state_dict().items(), whole.state.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), key


def test_no_image_of_the_forgotten_class_is_in_a_checkpoint(tmp_path):
    """Neither the data nor what the original made of the class; a replay holds the retained ones alone."""
    work, engine = problem(denoiser())
    saver = Checkpoints(tmp_path / "resume.pt", "mark", every=0.0)
    run(method("selective-amnesia"), work, engine, checkpoints=saver)
    memo = torch.load(tmp_path / "resume.pt", weights_only=True)["memo"]
    assert set(memo) == {"conditions", "replay", "fisher"}
    assert 2 not in memo["replay"]["label"]


# Several processes.


def test_two_processes_give_what_one_gives(tmp_path):
    """Tolerance 1e-7 of the largest weight: float64, sums in another order, which Adam divides by themselves."""
    generators_in_processes.main(tmp_path / "1.pt")
    run_in_processes(2, tmp_path, generators_in_processes.main, tmp_path / "2.pt")
    found = {count: torch.load(tmp_path / f"{count}.pt", weights_only=True) for count in (1, 2)}
    assert (found[1].pop("processes"), found[2].pop("processes")) == (1, 2)
    assert {key.split("/")[0] for key in found[1]} == set(SHARED)
    for key, value in found[1].items():
        assert (value - found[2][key]).abs().max() <= 1e-7 * value.abs().max(), key


def test_generators_are_not_trained_by_a_classifiers_defaults():
    work, engine = problem(denoiser())
    with pytest.raises(SettingError, match=r"give train.optimizer, such as \{name: adam"):
        Retrain().resolved(work, engine)
