"""Masked small gradients: which weights are made fresh, and how slowly the others learn."""

import torch
import torch.nn.functional as F

from helpers.small_classifiers import SGD, close, network, problem, ran
from untrain.methods.finetune import Finetune
from untrain.methods.masked_small_gradients import MaskedSmallGradients
from untrain.methods.repair import fresh_weights


def difference():
    """|∇ mean ℓ(D_f) − ∇ mean ℓ(D_r)| of the original, in evaluation mode, by one pass over each set."""
    model, (work, _) = network().eval(), problem()
    gradients = []
    for stream in (work.forget, work.retain):
        x, y = stream.data.tensors
        gradients.append(torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())))
    return [(f - r).abs() for f, r in zip(*gradients, strict=True)]


def test_the_smallest_differences_are_made_fresh_and_no_others():
    state, _ = ran(MaskedSmallGradients(3, fraction=0.3, optimizer=SGD), 0)
    values = difference()
    every = torch.cat([value.flatten() for value in values])
    bound = every.sort().values[round(0.3 * len(every)) - 1]
    fresh, old = fresh_weights(problem()[0]), dict(network().named_parameters())
    for (name, parameter), value in zip(state.module.named_parameters(), values, strict=True):
        expected = torch.where(value <= bound, fresh[name].double(), old[name])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)


def test_kept_weights_go_a_part_of_the_way():
    whole, part, none = (
        ran(MaskedSmallGradients(1, fraction=0.3, kept_rate=rate, optimizer=SGD), 1)[0] for rate in (1.0, 0.25, 0.0)
    )
    kept, old = part.problem.memo["kept"], dict(network().named_parameters())
    for name, parameter in part.module.named_parameters():
        other, mask = whole.module.get_parameter(name), kept[name]
        assert torch.equal(none.module.get_parameter(name)[mask], old[name][mask])
        torch.testing.assert_close(parameter[mask], old[name][mask].lerp(other[mask], 0.25), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(parameter[~mask], other[~mask], rtol=1e-12, atol=1e-12)


def test_the_smaller_the_fraction_the_nearer_to_finetuning():
    tuned = ran(Finetune(4, optimizer=SGD), 4)[0]
    ends = []
    for fraction in (1e-9, 0.2, 0.6):
        state = ran(MaskedSmallGradients(4, fraction=fraction, optimizer=SGD), 4)[0]
        pairs = zip(state.parameters, tuned.parameters, strict=True)
        ends.append(sum(float((a - b).detach().square().sum()) for a, b in pairs))
    assert ends[0] < ends[1] < ends[2]
    assert ends[0] < 1e-20
    close(ran(MaskedSmallGradients(4, fraction=1e-9, optimizer=SGD), 4)[0].module, tuned.module)
