"""NegGrad+: the joined step written out, and what β does."""

import pytest
import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, buffers, close, network, problem, ran, slow_sgd, slow_step
from untrain.errors import SettingError
from untrain.methods.base import Optimizer
from untrain.methods.finetune import Finetune
from untrain.methods.neggrad_plus import NegGradPlus
from untrain.methods.salun import forget_gradient
from untrain.saliency import largest_mask


@pytest.mark.parametrize(("beta", "rows"), [(0.95, 40), (0.6, 40), (0.6, 10)])
def test_five_steps_equal_the_weighted_sum_written_out(beta, rows):
    """Ten rows are normalised by running statistics, as they are before the retain batch moves them."""
    state, _ = ran(NegGradPlus(steps=5, beta=beta, optimizer=SGD, max_norm=3.0), 5, forget=rows)
    slow, (work, _) = network(), problem(forget=rows)
    optimizer, schedule = slow_sgd(slow, steps=5)
    for k in range(5):
        forget, retain = work.forget.batch(k, work.task, "forget"), work.retain.batch(k, work.task, "retain")
        kept = buffers(slow.train(rows > 16))
        up = F.cross_entropy(slow(forget["input"]), forget["label"])
        gradients = torch.autograd.grad(-(1 - beta) * up, list(slow.parameters()))
        slow.train().load_state_dict(kept, strict=False)
        down = F.cross_entropy(slow(retain["input"]), retain["label"])
        linear = sum((p * g).sum() for p, g in zip(slow.parameters(), gradients, strict=True))
        slow_step(slow, optimizer, schedule, beta * down + linear, 3.0)
    close(state.module, slow)


def test_without_forgetting_it_is_finetuning():
    joined = NegGradPlus(steps=5, beta=1, optimizer=SGD, max_norm=None)
    found, expected = (ran(method, 5)[0] for method in (joined, Finetune(5, optimizer=SGD)))
    close(found.module, expected.module)


def test_the_smaller_beta_the_higher_the_forget_loss():
    ends = []
    for beta in (1.0, 0.95, 0.8):
        state, _ = ran(NegGradPlus(steps=30, beta=beta, optimizer=SGD), 30)
        x, y = state.problem.forget.data.tensors
        with torch.no_grad():
            ends.append(float(F.cross_entropy(state.module.eval()(x), y)))
    assert ends[0] < ends[1] < ends[2]


def test_only_the_weights_with_the_largest_forget_gradient_move():
    decaying = Optimizer("sgd", 0.05, 0.9, 5e-4)
    state, _ = ran(NegGradPlus(steps=4, beta=1 / 11, fraction=0.3, optimizer=decaying), 4)
    work, engine = problem()
    mask = largest_mask(forget_gradient(work, engine), 0.3)
    moved = 0
    for name, before in network().named_parameters():
        after = state.module.get_parameter(name)
        assert torch.equal(after[~mask[name]], before[~mask[name]]), name
        moved += int((after != before).sum())
    assert moved > 0.9 * sum(int(m.sum()) for m in mask.values())
    assert state.problem.memo["mask"].keys() == mask.keys()
    with pytest.raises(SettingError, match="fraction"):
        NegGradPlus(fraction=0.0)
