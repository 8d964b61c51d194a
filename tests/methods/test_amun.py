"""AMUN: the nearest adversarial inputs, against the known distance to a plane, and a step written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from helpers.small_classifiers import SGD, close, mlp, network, problem, ran, slow_sgd, slow_step
from untrain.errors import SettingError
from untrain.methods.adversarial import nearest_adversarial
from untrain.methods.amun import AMUN
from untrain.tasks.classification.task import Classification


def batch_of(x, y):
    return {"input": x, "label": y, "index": torch.arange(len(x))}


def test_of_a_linear_classifier_epsilon_is_at_most_twice_the_distance_to_the_plane():
    torch.manual_seed(1)
    model = nn.Linear(6, 2).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    found, classes = nearest_adversarial(model, Classification(num_classes=2), batch_of(x, y))
    normal = (model.weight[0] - model.weight[1]).detach()
    distance = (x @ normal + (model.bias[0] - model.bias[1]).detach()).abs() / normal.norm()
    moved = (found["input"] - x).norm(dim=1)
    assert torch.equal(classes, 1 - y)
    assert torch.equal(classes, model(found["input"]).argmax(1))
    assert (moved >= distance * (1 - 1e-9)).all()
    assert (moved <= torch.maximum(2 * distance, 0.0101 * x.norm(dim=1)) * (1 + 1e-9)).all()


def test_what_no_input_leads_away_from_stays():
    model = nn.Linear(3, 2).double()
    nn.init.zeros_(model.weight)
    model.bias.data = torch.tensor([1.0, 0.0], dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    found, classes = nearest_adversarial(
        model, Classification(num_classes=2), batch_of(x, torch.zeros(4).long()), steps=2
    )
    assert torch.equal(found["input"], x)
    assert not classes.any()


def test_inputs_that_are_no_numbers_are_refused():
    batch = batch_of(torch.randint(0, 9, (4, 3)), torch.zeros(4).long())
    with pytest.raises(SettingError, match="amun.*int64"):
        nearest_adversarial(mlp(), Classification(num_classes=5), batch)


def test_five_steps_equal_training_on_all_three_sets_written_out():
    """Eight forget rows go with each of five retain batches."""
    method = AMUN(steps=5, attack_steps=3, optimizer=SGD)
    state, _ = ran(method, 5)
    slow, (work, _) = network().train(), problem()
    x, y = work.forget.data.tensors
    near, classes = nearest_adversarial(network().eval(), work.task, batch_of(x, y), steps=3)
    optimizer, schedule = slow_sgd(slow, steps=5)
    for k in range(5):
        retain = work.retain.batch(k, work.task, "retain")
        rows = torch.cat([work.forget.batch(i, work.task, "forget")["index"] for i in (0, 1)])[8 * k : 8 * k + 8]
        inputs = torch.cat([retain["input"], x[rows], near["input"][rows]])
        labels = torch.cat([retain["label"], y[rows], classes[rows]])
        slow_step(slow, optimizer, schedule, F.cross_entropy(slow(inputs), labels))
    close(state.module, slow)


def test_no_checkpoint_would_hold_a_forgotten_image():
    state, _ = ran(AMUN(steps=3, attack_steps=2, optimizer=SGD), 0)
    assert set(state.beside) == {"input", "label", "index"}
    assert "beside" not in state.state_dict()
    assert "input" not in str(state.problem.memo)
