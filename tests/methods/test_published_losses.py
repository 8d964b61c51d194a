"""Losses of the published code for generators, written out, beside a step of ours at the recipes' scales; in float64.

There the retain loss of a DDPM is summed over pixels, and the loss of random labels is a mean over them.
"""

from dataclasses import replace

import pytest
import torch

from helpers.small_generators import TASK, denoiser, problem
from untrain.methods.base import Optimizer
from untrain.methods.loop import run
from untrain.methods.random_label import RandomLabel
from untrain.methods.salun import SalUn
from untrain.methods.sfron import SFRon

PIXELS, CLASSES, RATE = 8 * 8, 3, 1e-3
SUM = replace(TASK, reduction="sum", drop=0.0)


def noised(task, batch):
    kept = task.alphas_cumprod[batch["timestep"]].view(-1, 1, 1, 1)
    return batch["input"] * kept.sqrt() + batch["noise"] * (1 - kept).sqrt()


def retain_loss(model, task, batch):
    """Squared errors of the noise, summed over pixels, a mean over rows."""
    out = model(noised(task, batch), batch["timestep"], class_labels=batch["label"]).sample
    return (batch["noise"] - out).square().sum(dim=(1, 2, 3)).mean()


def relabelled_loss(model, task, batch, shift=1):
    """Squared distance of two predictions at one x_t, a mean over pixels and rows; the second is no target to move."""
    x, other = noised(task, batch), (batch["label"] + shift) % CLASSES
    pseudo = model(x, batch["timestep"], class_labels=other).sample.detach()
    return torch.nn.functional.mse_loss(model(x, batch["timestep"], class_labels=batch["label"]).sample, pseudo)


def gradients(model, loss):
    return dict(zip([n for n, _ in model.named_parameters()], torch.autograd.grad(loss, list(model.parameters()))))


def stepped(method, task=SUM, **sizes):
    """The model before a step of plain SGD, the gradients that the step went down, and the batches that it saw."""
    before = denoiser("unet")
    work, engine = problem(denoiser("unet"), task, **sizes)
    after = run(method, work, engine).state.module
    moves = {name: (p.detach() - after.get_parameter(name)) / RATE for name, p in before.named_parameters()}
    batches = [stream.batch(0, work.task, name) for name, stream in (("forget", work.forget), ("retain", work.retain))]
    return before.train(), moves, batches


def check(found, expected):
    """Of a difference of weights over the rate, so to as many digits as are left of it."""
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9 * scale, msg=name)


SGD = Optimizer("sgd", RATE)
WEIGHT = 1e-3


@pytest.mark.parametrize("kind", [SalUn, RandomLabel])
def test_as_many_rows_of_both_sets_and_sums_weigh_a_thousandth_times_the_pixels(kind):
    """WEIGHT · pixels, 3.072 for 3 × 32 × 32; the whole is pixels / 2 times the published loss, which Adam divides out,
    and a clipping norm is to be multiplied by (1,536)."""
    settings = {"fraction": 1.0} if kind is SalUn else {}
    method = kind(steps=1, balanced=True, retain_weight=WEIGHT * PIXELS, optimizer=SGD, **settings)
    model, found, (forget, retain) = stepped(method)
    loss = relabelled_loss(model, SUM, forget) + WEIGHT * retain_loss(model, SUM, retain)
    check(found, gradients(model, PIXELS / 2 * loss))


def test_rows_in_proportion_weigh_a_ninth_of_that():
    """Nine retained rows to a forgotten one: 0.341 for 3 × 32 × 32. The forget set is one row of a batch of nine."""
    method = SalUn(steps=1, fraction=1.0, retain_weight=WEIGHT * PIXELS / 9, optimizer=SGD)
    model, found, (forget, retain) = stepped(method, forget=1, retain=9, batch_size=9)
    loss = relabelled_loss(model, SUM, forget) + WEIGHT * retain_loss(model, SUM, retain)
    check(found, gradients(model, PIXELS / 10 * loss))


def test_alpha_of_redirection_is_divided_by_the_pixels():
    """α 10 there is 10 / 3,072 here."""
    method = SFRon(
        *(1, 1), objective="redirect", alpha=10 / PIXELS, gamma=None, decay="constant", max_norm=None, beta=1.0,
        online=False, optimizer=SGD, fisher_samples=None, retain_decay="constant", calibrate=False,
    )  # fmt: skip
    model, found, (forget, retain) = stepped(method)
    loss = 10 * relabelled_loss(model, SUM, forget) + retain_loss(model, SUM, retain)
    check(found, gradients(model, loss))


def test_relabelling_descends_on_the_training_loss_under_another_class():
    """As the published code of DiT has it, with the class 100 further, here 2."""
    task = replace(SUM, shift=2)
    method = SFRon(
        *(1, 1), objective="relabel", alpha=0.25, gamma=None, decay="constant", max_norm=None, online=False,
        optimizer=SGD, retain_decay="constant", calibrate=False,
    )  # fmt: skip
    model, found, (forget, retain) = stepped(method, task)
    other = {**forget, "label": (forget["label"] + 2) % CLASSES}
    check(found, gradients(model, 0.25 * retain_loss(model, task, other) + retain_loss(model, task, retain)))
