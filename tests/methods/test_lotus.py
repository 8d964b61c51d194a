"""LoTUS: its temperature, its noise, and a step written out."""

import math

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, few_samples, network, samples, slow_sgd, slow_step
from untrain.engine import generator_of
from untrain.errors import SettingError
from untrain.methods.lotus import LoTUS, accuracy, gumbel_noise


def begun(**settings):
    work, engine = few_samples(holdout=True)
    method = LoTUS(optimizer=SGD, **settings).resolved(work, engine)
    return method, method.start(work, engine)


def right(model, data):
    x, y = data.tensors
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == y).double().mean())


def test_the_temperature_follows_the_gap_and_is_renewed_with_each_pass():
    """Two forget batches make a pass."""
    method, state = begun(steps=6, alpha=3.0)
    held = right(network(), samples(30, 3))
    found = []
    for k in range(4):
        expected = math.exp(3.0 * (right(state.module, samples(20, 1)) - held)) if k % 2 == 0 else found[-1]
        found.append(method.step(state, k)["tau"])
        assert found[-1] == pytest.approx(expected, rel=1e-12)


def test_the_noise_is_of_gumbel_and_of_each_sample():
    _, state = begun(steps=3)
    rows = {"index": torch.arange(4000)}
    noise = gumbel_noise(state, rows, torch.zeros(4000, 5, dtype=torch.float64))
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.03)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.05)
    part = gumbel_noise(state, {"index": torch.tensor([7, 3])}, torch.zeros(2, 5, dtype=torch.float64))
    assert torch.equal(part, noise[[7, 3]])
    state.retained += 1
    assert not torch.equal(gumbel_noise(state, {"index": torch.tensor([7])}, part[:1]), part[:1])


def test_a_step_equals_cross_entropy_with_smoothed_targets_written_out():
    method, state = begun(steps=2, alpha=2.0)
    tau = method.step(state, 0)["tau"]
    slow, teacher, (work, _) = network().train(), network().eval(), few_samples(holdout=True)[0:2]
    optimizer, schedule = slow_sgd(slow, steps=2)
    retain, forget = work.retain.batch(0, work.task, "retain"), work.forget.batch(0, work.task, "forget")
    with torch.no_grad():
        logits = teacher(forget["input"])
    draws = [
        torch.rand(5, generator=generator_of(0, "gumbel", 1, i), dtype=torch.float64) for i in forget["index"].tolist()
    ]
    targets = ((logits - torch.log(-torch.log(torch.stack(draws)))) / tau).softmax(1)
    out = slow(torch.cat([retain["input"], forget["input"]]))
    taught = -(targets * F.log_softmax(out[10:], 1)).sum(1)
    loss = torch.cat([F.cross_entropy(out[:10], retain["label"], reduction="none"), taught]).mean()
    slow_step(slow, optimizer, schedule, loss)
    close(state.module, slow)


def test_accuracy_is_the_share_that_is_right():
    work, engine = few_samples(holdout=True)
    found = accuracy(work.task, network().train(), work.holdout, engine)
    assert float(found) == pytest.approx(right(network(), samples(30, 3)), abs=1e-12)


def test_without_held_out_data_it_is_refused():
    work, engine = few_samples()
    with pytest.raises(SettingError, match=r"'lotus'.*holdout"):
        LoTUS(steps=2, optimizer=SGD).start(work, engine)
    with pytest.raises(SettingError, match="alpha"):
        LoTUS(alpha=-1.0)
