"""EU-k and CF-k: what is frozen stays, statistics too; what is not, is trained, anew or on."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.small_classifiers import SGD, close, network, problem, ran, slow_sgd, slow_step
from untrain.errors import SettingError
from untrain.methods.cf_k import CatastrophicForgettingOfLastLayers as CFk
from untrain.methods.eu_k import ExactUnlearningOfLastLayers as EUk
from untrain.methods.last_layers import last_parameters
from untrain.methods.loop import run
from untrain.methods.repair import fresh_weights

FIRST, LAST = ("0.", "1."), ("4.", "6.")


def test_what_the_last_layers_are():
    model = network()
    assert last_parameters(model, 1) == ["6.weight", "6.bias"]
    assert last_parameters(model, 2) == ["4.weight", "4.bias", "6.weight", "6.bias"]
    deeper = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert last_parameters(deeper, 1) == ["2.weight", "2.bias", "3.weight", "3.bias"]
    with pytest.raises(SettingError, match="layers=3.*3 layers"):
        last_parameters(model, 3)


@pytest.mark.parametrize("kind", [EUk, CFk])
def test_steps_equal_training_of_the_last_layers_written_out(kind):
    state, _ = ran(kind(4, layers=2, optimizer=SGD), 4)
    slow, (work, _) = network(), problem()
    if kind is EUk:
        fresh = fresh_weights(work)
        with torch.no_grad():
            for name, parameter in slow.named_parameters():
                if name.startswith(LAST):
                    parameter.copy_(fresh[name])
    optimizer, schedule = slow_sgd(nn.ModuleList([slow[4], slow[6]]), steps=4)
    for k in range(4):
        batch = work.retain.batch(k, work.task, "retain")
        slow.eval()  # the frozen layers' statistics are used, and stay
        slow_step(slow, optimizer, schedule, F.cross_entropy(slow(batch["input"]), batch["label"]))
    close(state.module, slow)
    assert torch.equal(state.module[0].weight, network()[0].weight)


@pytest.mark.parametrize("kind", [EUk, CFk])
def test_afterwards_everything_is_trained_again(kind):
    work, engine = problem()
    work.subject.module[0].bias.requires_grad_(False)
    done = run(kind(3, layers=1, optimizer=SGD), work, engine)
    required = {name: p.requires_grad for name, p in done.state.module.named_parameters()}
    assert required == {name: name != "0.bias" for name in required}
    assert done.state.module[0].weight.grad is None
