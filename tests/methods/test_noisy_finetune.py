"""Noisy finetuning: a step written out, the size of the noise, and what it is without any."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, network, problem, ran, slow_sgd
from untrain.errors import SettingError
from untrain.methods.base import Optimizer
from untrain.methods.noisy_finetune import NoisyFinetune


def test_without_noise_steps_equal_clipped_descent_with_shrinking_weights():
    state, _ = ran(NoisyFinetune(5, noise=0.0, shrink=0.02, max_norm=0.5, optimizer=SGD), 5)
    slow, (work, _) = network().train(), problem()
    optimizer, schedule = slow_sgd(slow, steps=5)
    for k in range(5):
        batch = work.retain.batch(k, work.task, "retain")
        loss = F.cross_entropy(slow(batch["input"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(slow.parameters(), 0.5)
        with torch.no_grad():
            for parameter in slow.parameters():
                parameter.mul_(1 - 0.02 * schedule.get_last_lr()[0] / 0.05)
        optimizer.step()
        schedule.step()
    close(state.module, slow)


def test_the_noise_has_the_norm_that_is_asked_for():
    """The norm of d normal numbers is √d, within some percent for d = 3,603."""
    plain = Optimizer("sgd", 0.1)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        noisy, _ = ran(NoisyFinetune(1, noise=2.0, shrink=0.0, max_norm=0.5, optimizer=plain), 1)
    quiet, _ = ran(NoisyFinetune(1, noise=0.0, shrink=0.0, max_norm=0.5, optimizer=plain), 1)
    steps = [a - b for a, b in zip(noisy.parameters, quiet.parameters, strict=True)]
    norm = math.sqrt(sum(float(step.detach().square().sum()) for step in steps))
    assert norm == pytest.approx(0.1 * 2.0 * 0.5, rel=0.06)


@pytest.mark.parametrize("wrong", [{"noise": -1.0}, {"shrink": 1.0}, {"max_norm": None}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        NoisyFinetune(**wrong)
