"""Bad teacher: the steps written out; who the teachers are."""

import pytest
import torch

from helpers.small_classifiers import SGD, close, forget_part, kl, network, problem, ran, slow_sgd, slow_step
from untrain.engine import seed_of
from untrain.methods.bad_teacher import BadTeacher
from untrain.models.subject import Subject


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_two_passes_over_the_union_equal_plain_distillation(temperature):
    """Student: one pass through both sets' rows. Teachers: in evaluation mode."""
    state, _ = ran(BadTeacher(steps=10, optimizer=SGD, temperature=temperature), 10)
    slow, (work, _) = network().train(), problem()
    good, bad = network().eval(), Subject(network()).fresh(seed_of(0, "bad teacher")).eval()
    optimizer, schedule = slow_sgd(slow, steps=10)
    for k in range(10):
        retain, taught = (b["input"] for b in (work.retain.batch(k, work.task, "retain"), forget_part(work, k)))
        with torch.no_grad():
            targets = torch.cat([good(retain), bad(taught)])
        slow_step(slow, optimizer, schedule, kl(slow(torch.cat([retain, taught])), targets, temperature))
    close(state.module, slow)


def test_teachers_stay_as_they_were_and_depend_on_the_seed_alone():
    state, _ = ran(BadTeacher(steps=7, optimizer=SGD), 7)
    other, _ = ran(BadTeacher(steps=7, optimizer=SGD), 0)
    third, _ = ran(BadTeacher(steps=7, optimizer=SGD), 0, seed=1)
    close(state.frozen["original"], network())
    close(state.frozen["random"], other.frozen["random"])
    assert not torch.equal(other.frozen["random"][0].weight, third.frozen["random"][0].weight)
    assert not any(p.requires_grad for teacher in state.frozen.values() for p in teacher.parameters())
    assert not any(teacher.training for teacher in state.frozen.values())


def test_the_forget_set_is_treated_as_a_random_network_treats_it():
    work, _ = problem()
    x = work.forget.data.tensors[0]
    state, _ = ran(BadTeacher(steps=140, optimizer=SGD), 140)
    with torch.no_grad():
        bad, good = state.frozen["random"](x), state.frozen["original"](x)
        first, last = kl(good, bad, 1.0), kl(state.module.eval()(x), bad, 1.0)
        kept = kl(state.module(work.retain.data.tensors[0]), state.frozen["original"](work.retain.data.tensors[0]), 1.0)
    assert last < 0.3 * first
    assert kept < last + 0.1
