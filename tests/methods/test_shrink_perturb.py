"""Shrink and perturb: the weights that it begins from, its steps written out, its ends, and its cost."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import untrain
from helpers.small_classifiers import SGD, buffers, close, network, problem, ran, samples, slow_sgd, slow_step
from untrain.engine import seed_of
from untrain.errors import ModelError, SettingError, UnlearningWarning
from untrain.methods import make
from untrain.methods.finetune import Finetune
from untrain.methods.repair import fresh_weights
from untrain.methods.shrink_perturb import ShrinkPerturb, shrinkage
from untrain.models.subject import Subject


def test_it_begins_between_the_original_and_new_weights_and_keeps_the_buffers():
    model = network()
    model[1].running_mean.fill_(0.3)
    state, _ = ran(ShrinkPerturb(steps=4, lam=0.7, split=1, optimizer=SGD), 0, model=model)
    fresh = Subject(network()).fresh(seed_of(0, "fresh weights"))
    new, old = dict(fresh.named_parameters()), dict(network().named_parameters())
    for name, parameter in state.module.named_parameters():
        torch.testing.assert_close(
            parameter.detach(), 0.7 * old[name] + 0.3 * new[name].double(), rtol=1e-12, atol=1e-12
        )
    assert buffers(state.module)["1.running_mean"].eq(0.3).all()


@pytest.mark.parametrize("split", [1, 3])
def test_then_it_descends_on_parts_of_retain_batches(split):
    """Batches of 48 samples: three parts of 16."""
    sizes = {"retain": 192, "batch_size": 48}
    method = ShrinkPerturb(steps=4, lam=0.6, split=split, optimizer=SGD)
    state, resolved = ran(method, 4, **sizes)
    slow, (work, _) = ran(method, 0, **sizes)[0].module.train(), problem(**sizes)
    optimizer, schedule = slow_sgd(slow, steps=4 * split)
    for k in range(4):
        batch = work.retain.batch(k, work.task, "retain")
        for x, y in zip(batch["input"].chunk(split), batch["label"].chunk(split), strict=True):
            slow_step(slow, optimizer, schedule, F.cross_entropy(slow(x), y))
    close(state.module, slow)
    assert (resolved.total, resolved.updates) == (4, 4 * split)


def test_no_part_is_smaller_than_batch_normalisation_can_bear():
    for rows, split in ((20, 1), (40, 2), (63, 3), (64, 4), (100, 4)):
        work, engine = problem(retain=200, batch_size=rows)
        work.subject.peak_lr = 0.1
        method = ShrinkPerturb(steps=4).resolved(work, engine)
        assert method.split == split
        assert method.optimizer.lr == pytest.approx(0.1 / split)
    assert ShrinkPerturb(steps=4, optimizer=SGD).resolved(work, engine).optimizer.lr == 0.05


def test_all_kept_is_finetuning_and_nothing_kept_is_new_weights():
    kept = ran(ShrinkPerturb(3, lam=1.0, optimizer=SGD), 3)[0]
    close(kept.module, ran(Finetune(3, optimizer=SGD), 3)[0].module)
    begun = ran(ShrinkPerturb(3, lam=0.0, optimizer=SGD), 0)[0]
    others = fresh_weights(problem()[0])
    for name, parameter in begun.module.named_parameters():
        assert torch.equal(parameter.detach(), others[name].double()), name


def test_how_much_is_kept_follows_the_share_of_training():
    assert [shrinkage(share) for share in (0.0, 0.2, 0.4, 1.0, 3.0)] == [1.0, 0.5, 0.4, 0.0, 0.0]
    assert shrinkage(0.3) == pytest.approx(0.45)
    work, engine = problem()
    work.subject.train_steps = 200
    method = ShrinkPerturb(steps=40, optimizer=SGD).resolved(work, engine)
    assert method.lam == 0.5
    assert any("20%" in note for note in work.notes)
    assert ShrinkPerturb(steps=40, lam=0.9, optimizer=SGD).resolved(work, engine).lam == 0.9


def test_what_is_frozen_stays():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    state, _ = ran(ShrinkPerturb(3, lam=0.2, optimizer=SGD), 3, model=model)
    assert torch.equal(state.module[0].weight, before)


class WithToken(nn.Module):
    """A parameter that no `reset_parameters` renews."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.full((64,), 0.5, dtype=torch.float64))
        self.head = nn.Linear(64, 5).double()

    def forward(self, x):
        return self.head(x.flatten(1) + self.token)


def test_what_cannot_be_renewed_stays_and_is_said():
    work, engine = problem(WithToken())
    state = ShrinkPerturb(3, lam=0.5, optimizer=SGD).start(work, engine)
    assert state.module.token.eq(0.5).all()
    assert not torch.equal(state.module.head.weight, WithToken().head.weight)
    assert any("token" in note and "init=" in note for note in work.notes)
    work, engine = problem(WithToken())
    work.subject.module.head.requires_grad_(False)
    with pytest.raises(ModelError, match="token"):
        ShrinkPerturb(3, optimizer=SGD).start(work, engine)


def test_a_budget_is_a_share_of_the_original_training():
    work, engine = problem()
    work.subject.train_steps = 400
    assert ShrinkPerturb(budget=0.2, optimizer=SGD).resolved(work, engine).total == 80
    assert any("20%" in note and "400" in note for note in work.notes)
    work, engine = problem()  # 140 samples in batches of 20 make 7 steps a pass
    assert ShrinkPerturb(budget=0.1, optimizer=SGD).resolved(work, engine).total == 21
    assert any("30 passes" in note and "train_steps" in note for note in work.notes)
    assert ShrinkPerturb(epochs=2, optimizer=SGD).resolved(work, engine).total == 10


@pytest.mark.parametrize("wrong", [{"lam": 1.1}, {"lam": -0.1}, {"budget": 0.0}, {"budget": 1.5}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        make("shrink-perturb", wrong)
    with pytest.raises(SettingError, match="budget=0.2 and steps=3 contradict"):
        make("shrink-perturb", {"budget": 0.2, "steps": 3})


def test_a_whole_class_is_warned_of():
    work, engine = problem()
    work.retain.data.tensors[1][work.retain.data.tensors[1] == 0] = 1
    work.forget.data.tensors[1].fill_(0)
    with pytest.warns(UnlearningWarning, match="whole class.*sfron"):
        ShrinkPerturb(steps=2, optimizer=SGD).resolved(work, engine)


def test_the_forget_set_is_not_looked_at_where_its_losses_decide_nothing():
    """What `resolved` computes counts as unlearning."""
    work, engine = problem()
    ShrinkPerturb(steps=2, optimizer=SGD).resolved(work, engine)
    assert "forget loss" not in work.memo


def test_a_budget_without_a_method_asks_for_it():
    forget, retain = samples(40, 1), samples(100, 2)
    done = untrain.unlearn(
        network(), forget=forget, retain=retain, budget=0.1, train_steps=30, batch_size=20, optimizer=SGD, device="cpu"
    )
    assert (done.method.name, len(done.history), done.method.lam) == ("shrink-perturb", 3, 0.65)
    assert any("method: shrink-perturb" in note and "held-out" in note for note in done.notes)
    with pytest.raises(SettingError, match="budget"):
        untrain.unlearn(network(), forget=forget, retain=retain, method="finetune", budget=0.1, device="cpu")


@pytest.mark.parametrize(("known", "lam"), [(60, 0.375), (51, 0.45), (30, 0.5), (0, 0.5)])
def test_less_is_kept_where_the_class_becomes_rarer(known, lam):
    """Sixty of one class go and sixty stay, among sixty of another: 0.75 of what the dial says, and as much more as is
    not known for sure."""

    drawn = torch.Generator().manual_seed(0)

    def sets(labels, sure=0):
        sign = torch.where(torch.arange(len(labels)) < sure, 1.0, -1.0)
        inputs = torch.rand(len(labels), 6, generator=drawn) + 0.1
        return torch.utils.data.TensorDataset(inputs * sign[:, None], torch.tensor(labels))

    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[5.0], [-5.0]]).expand(2, 6))
    asked = {"forget": sets([0] * 60, known), "budget": 0.2, "train_steps": 50, "method": "shrink-perturb"}
    lopsided = untrain.unlearn(model, retain=sets([0] * 60 + [1] * 60), **asked)
    even = untrain.unlearn(model, retain=sets([0] * 60 + [1] * 60), **asked | {"forget": sets([0, 1] * 30)})
    assert (lopsided.method.lam, even.method.lam) == (lam, 0.5)
    assert any(f"{known / 60:.0%} of it known for sure" in note for note in lopsided.notes) == (lam < 0.5)
    assert not any("become rarer" in note for note in even.notes)
