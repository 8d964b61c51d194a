"""Attacks on generators of classes, held to slow references in float64, and what they must leave alone."""

import copy

import numpy as np
import pytest
import torch

from helpers.small_generators import POINTS, TASK, Points, denoiser, pictures, points, recognised, trained_points
from untrain.data.streams import Stream
from untrain.domain import Told
from untrain.engine import Engine, generator_of
from untrain.sampling import Sampler
from untrain.tasks.class_diffusion.attacks import even_timesteps, invert_class, relearn_class, timestep_losses
from untrain.tasks.class_diffusion.embeddings import class_embeddings, replace_class, shared_embeddings
from untrain.tasks.class_diffusion.members import member_aucs, member_p

ENGINE = Engine(torch.device("cpu"))
LABEL, RETAINED = 2, [0, 1]


def stream(name="class 2", labels=(LABEL,), count=6, batch_size=4):
    return Stream(pictures(count, 1, list(labels)), name, ENGINE, batch_size, 5)


def prepared(model):
    return TASK.prepare(model, stream().batch(0, TASK, "evaluate"))


def adam(weights, gradients, moments, k, rate):
    """One step of Adam, by the paper's algorithm 1."""
    for w, g, (m, v) in zip(weights, gradients, moments, strict=True):
        m.mul_(0.9).add_(0.1 * g)
        v.mul_(0.999).add_(0.001 * g * g)
        w.sub_(rate * (m / (1 - 0.9 ** (k + 1))) / ((v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model, before):
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert model.training and not any(table._forward_hooks for table in class_embeddings(model))


@pytest.mark.parametrize("kind", ["unet", "dit", "dit-learned"])
def test_a_vector_in_the_place_of_a_class_is_that_row_of_the_embedding(kind):
    model = denoiser(kind)
    task, batch = prepared(model), stream(labels=(0, 1, 2)).batch(0, prepared(model), "evaluate")
    groups = shared_embeddings(model)
    vectors = [torch.linspace(-1, 1, group[0].embedding_dim, dtype=torch.float64) for group in groups]
    other = copy.deepcopy(model)
    for table in class_embeddings(other):
        table.weight.data[LABEL] = vectors[0]
    before = task.outputs(model, batch)
    with replace_class(groups, LABEL, vectors):
        assert torch.equal(task.outputs(model, batch), task.outputs(other, batch))
    assert torch.equal(task.outputs(model, batch), before)


def test_blocks_of_a_transformer_share_a_vector_where_they_share_the_embedding():
    model = denoiser("dit")
    assert len(shared_embeddings(model)) == 2, "new weights of two blocks differ"
    first, second = class_embeddings(model)
    second.weight.data.copy_(first.weight)
    assert shared_embeddings(model) == [[first, second]]
    assert shared_embeddings(torch.nn.Linear(2, 2)) == []


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_inversion_is_adam_on_the_row_of_the_class_alone(kind):
    model, images = denoiser(kind).train(), stream()
    task, before = prepared(model), state(model)
    how = {"groups": shared_embeddings(model), "label": LABEL, "retained": RETAINED, "steps": 3, "rate": 0.05}
    found = invert_class(model, task, images, ENGINE, **how)
    assert_untouched(model, before)
    slow = copy.deepcopy(model).eval()
    tables = [table.weight for table in class_embeddings(slow)]
    for weight in tables:
        weight.data[LABEL] = (weight.data[0] + weight.data[1]) / 2
    rows = [weight.data[LABEL] for weight in tables]
    moments = [(torch.zeros_like(row), torch.zeros_like(row)) for row in rows]
    for k in range(3):
        batch = images.batch(k, task, "forget")
        loss = torch.stack(
            [
                (task.outputs(slow, {key: value[i : i + 1] for key, value in batch.items()}) - batch["noise"][i])
                .square()
                .mean()
                for i in range(len(batch["label"]))
            ]
        ).mean()
        adam(rows, [g[LABEL] for g in torch.autograd.grad(loss, tables)], moments, k, 0.05)
    for vector, row in zip(found, rows, strict=True):
        torch.testing.assert_close(vector, row, rtol=1e-9, atol=1e-10)


def test_relearning_is_adam_on_all_weights_of_a_copy():
    model = denoiser().train()
    task, before, sets = prepared(model), state(model), (stream(), stream("retained", RETAINED))
    looks = [(k, state(copied)) for k, copied in relearn_class(model, task, *sets, ENGINE, after=[1, 3], rate=0.02)]
    assert_untouched(model, before)
    assert [k for k, _ in looks] == [1, 3]
    slow = copy.deepcopy(model)
    weights = list(slow.parameters())
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for k in range(3):
        losses = [task.loss(slow, each.batch(k, task, "train")) for each in sets]
        gradients = torch.autograd.grad(torch.cat(losses).mean(), weights, allow_unused=True)
        given = [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)]
        adam([w.data for w in weights], given, moments, k, 0.02)
        expected = dict(looks).get(k + 1)
        for name, value in slow.state_dict().items() if expected else ():
            torch.testing.assert_close(expected[name], value, rtol=1e-7, atol=1e-9)


def test_losses_by_timestep_are_the_formula_for_every_image_alone():
    model = denoiser()
    task, steps = prepared(model), even_timesteps(3, TASK.timesteps)
    assert steps == [3, 10, 16]
    how = {"timesteps": steps, "noises": 2, "seed": 7}
    found = timestep_losses(model, task, stream(batch_size=4), ENGINE, **how)
    again = timestep_losses(model, task, stream(batch_size=6), ENGINE, **how)
    torch.testing.assert_close(found, again, rtol=1e-12, atol=0)
    x, y = pictures(6, 1, [LABEL]).tensors
    for i in range(6):
        noise = torch.randn(3, 2, 1, 8, 8, generator=generator_of(7, "members", "class 2", i)).double()
        for j, t in enumerate(steps):
            kept = TASK.alphas_cumprod[t]
            noisy = kept.sqrt() * x[i] + (1 - kept).sqrt() * noise[j]
            given = model.eval()(noisy, torch.full((2,), t), class_labels=y[i].expand(2)).sample
            assert found[i, j].item() == pytest.approx((given - noise[j]).square().mean().item(), rel=1e-9)


def test_inversion_brings_a_class_back_whose_embedding_alone_was_erased():
    """The claim of the attack, on a generator that really generates: what only the embedding forgot is found again."""
    model = copy.deepcopy(trained_points())
    model.class_embedding.weight.data[3] = model.class_embedding.weight.data[0]
    images = Stream(points(20, 9, [3]), "class 3", ENGINE, 20)
    task = POINTS.prepare(model, images.batch(0, POINTS, "evaluate"))
    sampler, groups = Sampler(10), shared_embeddings(model)
    assert recognised(model, task, sampler)[3] < 0.1
    how = {"groups": groups, "label": 3, "retained": [0, 1, 2], "steps": 300, "rate": 0.01}
    with replace_class(groups, 3, invert_class(model, task, images, ENGINE, **how)):
        shares = recognised(model, task, sampler)
    assert shares[3] > 0.6 and min(shares[:3]) > 0.8


def test_a_new_generator_is_not_brought_back():
    """The floor: an inversion of untrained weights draws nothing."""
    model = Points()
    images = Stream(points(20, 9, [3]), "class 3", ENGINE, 20)
    task, groups = POINTS.prepare(model, images.batch(0, POINTS, "evaluate")), shared_embeddings(model)
    how = {"groups": groups, "label": 3, "retained": [0, 1, 2], "steps": 50, "rate": 0.01}
    with replace_class(groups, 3, invert_class(model, task, images, ENGINE, **how)):
        assert recognised(model, task, Sampler(10))[3] < 0.3


# ── members ─────────────────────────────────────────────────────────────────────────────────────────────────────


def answers(models, seed, effect=0.0, members=60, unseen=40, steps=3):
    """Signals of models: difficulties that all share, noise of each, and more for members by an effect."""
    shared = np.random.default_rng(99).normal(0, 3, (members + unseen, steps))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(models):
        values = shared + rng.normal(0, 1, shared.shape)
        values[:members] += effect
        classes = {"members_classes": np.arange(members) % 2, "unseen_classes": np.arange(unseen) % 2}
        found.append(Told({"members": values[:members], "unseen": values[members:], **classes}))
    return found


def test_members_are_seen_on_either_side_and_retrained_models_show_none():
    retrained = answers(5, 0)
    for effect in (0.5, -0.5):
        told = answers(5, 1, effect)
        assert member_p(told, retrained, 0) <= 0.001
        assert (np.mean(member_aucs(told, retrained)) > 0.5) == (effect > 0)
    assert np.mean(member_aucs(retrained, retrained)) == pytest.approx(0.5, abs=0.1)


def test_p_of_members_is_exact_where_there_are_none(monkeypatch):
    """Of 200 audits without a trace, about one in twenty has p ≤ 0.05: between 2 and 20, three deviations."""
    monkeypatch.setattr("untrain.audit.within_classes.PERMUTATIONS", 199)
    rejected = sum(
        member_p(answers(3, 2 * i, members=20, unseen=20), answers(3, 2 * i + 1, members=20, unseen=20), i) <= 0.05
        for i in range(200)
    )
    assert 2 <= rejected <= 20
