"""SFR-on's promises: the mask holds, forgetting raises the forget loss, settings do what they say."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset

from helpers.small_classifiers import SGD, few_samples, network, samples
from untrain.data.streams import Stream
from untrain.errors import SettingError
from untrain.methods.base import Optimizer, State, check_runs
from untrain.methods.calibration import Calibration, statistics
from untrain.methods.sfron import SFRon
from untrain.methods.shortfalls import loss_aimed_at
from untrain.methods.steps import descend
from untrain.tasks.classification.task import Classification


def started(method, **options):
    work, engine = few_samples(**options)
    return method.resolved(work, engine).start(work, engine), method.resolved(work, engine)


@pytest.mark.parametrize(
    "forget_optimizer",
    [
        Optimizer("sgd", 0.1),
        Optimizer("sgd", 0.1, momentum=0.9),
        Optimizer("adam", 1e-2),
        Optimizer("adamw", 1e-2),
    ],
)
def test_a_forget_step_moves_no_unsalient_weight(forget_optimizer):
    method = SFRon(steps=4, optimizer=SGD, forget_optimizer=forget_optimizer)
    state, method = started(method)
    mask = state.problem.memo["mask"]
    assert 0 < sum(int(m.sum()) for m in mask.values()) < sum(m.numel() for m in mask.values())
    for k in range(4):
        before = {name: p.detach().clone() for name, p in state.module.named_parameters()}
        method._forget(state, k)
        moved = 0
        for name, parameter in state.module.named_parameters():
            assert torch.equal(parameter[~mask[name]], before[name][~mask[name]]), name
            moved += int((parameter[mask[name]] != before[name][mask[name]]).sum())
        assert moved > 0
        # retain steps in between, with momentum and weight decay, must not break the promise of the next forget step
        for _ in range(2):
            descend(state, "retain")


def test_settings_that_break_the_promise_are_refused():
    with pytest.raises(SettingError, match="unsalient"):
        SFRon(forget_optimizer=None)
    with pytest.raises(SettingError, match="weight decay"):
        SFRon(forget_optimizer=Optimizer("adamw", 1e-3, weight_decay=0.1))
    SFRon(forget_optimizer=None, gamma=None)
    SFRon(forget_optimizer=None, published=True)


def test_one_outer_step_equals_the_formula_written_out():
    method = SFRon(
        steps=3, retain_steps=2, alpha=2.0, lam=0.5, max_norm=0.3, beta=0.7, optimizer=SGD,
        forget_optimizer=Optimizer("sgd", 0.1), gamma=1.0, decay="constant",
    )  # fmt: skip
    state, method = started(method)
    work = state.problem
    mask = [work.memo["mask"][name] for name, _ in state.module.named_parameters()]
    slow = network()
    start = [p.detach().clone() for p in slow.parameters()]

    batch = work.forget.batch(0, work.task, "forget")
    slow.train()
    slow[1].eval()
    losses = F.cross_entropy(slow(batch["input"]), batch["label"], reduction="none")
    weights = losses.detach() ** -0.5
    (-2.0 * (weights / weights.sum() * losses).sum()).backward()
    gradients = [p.grad * m for p, m in zip(slow.parameters(), mask, strict=True)]
    norm = math.sqrt(sum(float((g * g).sum()) for g in gradients))
    scale = min(1.0, 0.3 / (norm + 1e-6))
    with torch.no_grad():
        for parameter, gradient in zip(slow.parameters(), gradients, strict=True):
            parameter -= 0.1 * scale * gradient
    slow.train()
    optimizer = torch.optim.SGD(slow.parameters(), 0.05, 0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    for i in range(2):
        batch = work.retain.batch(i, work.task, "retain")
        optimizer.zero_grad()
        F.cross_entropy(slow(batch["input"]), batch["label"]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        for parameter, before in zip(slow.parameters(), start, strict=True):
            parameter.copy_(before + 0.7 * (parameter - before))

    method.step(state, 0)
    for found, expected in zip(state.module.state_dict().values(), slow.state_dict().values(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("objective", ["adaptive", "ascent"])
def test_forgetting_raises_the_forget_loss(objective):
    state, method = started(SFRon(steps=1, objective=objective, optimizer=SGD))
    batch = state.problem.forget.batch(0, state.problem.task, "forget")

    def loss():
        state.module.eval()
        with torch.no_grad():
            return state.problem.task.loss(state.module, batch).mean()

    before = loss()
    method._forget(state, 0)
    assert loss() > before


def test_redirecting_lowers_the_loss_of_the_other_label():
    state, method = started(SFRon(steps=1, objective="redirect", optimizer=SGD))
    task = state.problem.task
    batch = task.variant(state.problem.forget.batch(0, task, "forget"), "redirect")
    state.module.eval()
    before = task.loss(state.module, batch).mean()
    method._forget(state, 0)
    state.module.eval()
    assert task.loss(state.module, batch).mean() < before


def test_joined_steps_respect_the_mask_too():
    work, engine = few_samples()
    method = SFRon(steps=5, online=False, optimizer=SGD).resolved(work, engine)
    state = method.start(work, engine)
    before = {name: p.detach().clone() for name, p in state.module.named_parameters()}
    for k in range(5):
        method.step(state, k)
    for name, parameter in state.module.named_parameters():
        mask = work.memo["mask"][name]
        assert torch.equal(parameter[~mask], before[name][~mask])
        assert not mask.any() or not torch.equal(parameter[mask], before[name][mask])


def test_redirecting_needs_a_task_that_redirects():
    class Nowhere:
        variants = ()

    with pytest.raises(SettingError, match="method 'sfron' cannot run on task 'Nowhere': it needs 'redirect'"):
        check_runs(SFRon(objective="redirect"), Nowhere())
    check_runs(SFRon(), Nowhere())


def test_alpha_decays_as_said():
    method = SFRon(steps=4, alpha=2.0)
    assert [method.alpha_at(k) for k in range(4)] == pytest.approx(
        [2.0 * (1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)]
    )
    assert SFRon(steps=4, decay="linear").alpha_at(1) == 0.75
    assert SFRon(steps=4, decay="exponential").alpha_at(2) == pytest.approx(0.1)
    assert SFRon(steps=4, decay="constant").alpha_at(3) == 1.0


def test_calibration_leaves_out_what_is_forgotten_far_enough(monkeypatch):
    work, engine = few_samples(holdout=True)
    method = SFRon(steps=10, optimizer=SGD, calibration=Calibration(until=0.5)).resolved(work, engine)
    state = method.start(work, engine)
    task = work.task
    with torch.no_grad():
        batch = next(iter(work.holdout.once(task, "evaluate", batch_size=30)))
        expected = F.cross_entropy(network().eval()(batch["input"]), batch["label"])
    assert float(work.memo["calibration"]["target"]) == pytest.approx(float(expected))
    work.memo["calibration"]["target"].fill_(-1.0)
    before = [p.detach().clone() for p in state.parameters]
    assert method._forget(state, 0)["skipped"]
    assert all(torch.equal(a, b) for a, b in zip(before, state.parameters, strict=True))
    work.memo["calibration"]["target"].fill_(1e9)
    assert "skipped" not in method._forget(state, 4)
    with monkeypatch.context() as patch:
        patch.setattr("untrain.methods.sfron.losses_of", lambda *_: pytest.fail("the batch passed the network"))
        assert method._forget(state, 5)["skipped"], "after `until`, no forget step"
    work.memo["calibration"]["held"] = torch.tensor([0, 1])
    work.memo["calibration"]["target"].fill_(-1.0)
    assert "skipped" not in method._forget(state, 4), "a class that the retain set lacks has no target"
    certain = replace(method, calibration=Calibration(until=0.5, ceiling=1e-6))
    assert certain._forget(state, 4)["skipped"], "but each of its samples has a ceiling"


@pytest.mark.parametrize(
    ("follow", "guess", "skipped"), [(True, "best", True), (True, "worst", False), (None, "best", False)]
)
def test_the_loss_aimed_at_follows_held_out_samples_that_are_known_better_now(follow, guess, skipped):
    work, engine = few_samples(holdout=True)
    images = samples(30, 3).tensors[0]
    with torch.no_grad():
        logits = network().train()(images)
    labels = logits.argmax(1) if guess == "best" else logits.argmin(1)
    method = SFRon(steps=4, optimizer=SGD, calibration=Calibration(follow=follow)).resolved(work, engine)
    state = method.start(work, engine)
    work.memo["calibration"]["target"].fill_(1e9)
    work.holdout = Stream(TensorDataset(images, labels), "holdout", engine, 10)
    before = [buffer.clone() for buffer in state.module.buffers()]
    assert method._forget(state, 0).get("skipped", False) == skipped
    assert all(torch.equal(a, b) for a, b in zip(before, state.module.buffers(), strict=True)), "no statistics moved"
    with torch.no_grad():
        loss = float(F.cross_entropy(state.module.eval()(images), labels)) if follow else 1e9
    of_classes = float(work.memo["calibration"]["level"])
    assert loss_aimed_at(method, work, engine) == pytest.approx(of_classes * loss, rel=1e-4)


@pytest.mark.parametrize(("apart", "said"), [(0.5, True), (5.0, False), (-0.5, False)])
def test_it_says_when_held_out_data_tell_vaguely_how_far_to_forget(apart, said):
    work, engine = few_samples(holdout=True)
    method = SFRon(steps=4, optimizer=SGD).resolved(work, engine)
    measured = method.calibration.measured(work, engine)
    measured["spread"].fill_(1.0)
    error = math.sqrt(1 / len(work.holdout) + 1 / len(work.forget))
    work.memo["forget loss"] = {"mean": measured["target"] - apart * 4 * error}
    method.start(work, engine)
    assert any(f"are {error:.2g} apart" in note and "Hold out more" in note for note in work.notes) == said


def test_what_is_unfinished_is_said_sample_by_sample():
    work, engine = few_samples()
    measured = {"target": torch.tensor(1.0), "held": torch.tensor([0, 1])}
    share = {"label": torch.tensor([0, 1, 2, 2])}
    losses = torch.tensor([0.5, 1.0, 3.0, 5.0])

    def active_samples(k, **settings):
        calibration = Calibration(ceiling=4.0, late_ceiling=2.0, **settings)
        return calibration.active_samples(measured, share, losses, k, 10, work.task, engine).tolist()

    assert active_samples(0) == [True, True, True, False], "held: mean 0.75 is below the target; else each below 4"
    assert active_samples(0, margin=0.7) == [False, False, True, False]
    assert active_samples(8) == [False] * 4, "after `until`, none that the retain set holds; else below 2"


def test_forgotten_samples_of_a_class_pull_no_more():
    """The forget step's gradient is that of the samples below the ceiling, each at its weight among all."""
    work, engine = few_samples(holdout=True)
    work.memo["conditions"] = {"held": torch.tensor([99])}
    method = SFRon(steps=4, optimizer=SGD, gamma=None, max_norm=None, forget_optimizer=Optimizer("sgd", 1e-3))
    batch = work.forget.batch(0, work.task, "forget")
    with torch.no_grad():
        losses = F.cross_entropy(network().eval()(batch["input"]), batch["label"], reduction="none")
    ceiling = float(losses.median()) + 1e-6
    method = replace(method, calibration=Calibration(ceiling=ceiling, statistics="running"))
    state = method.start(work, engine)
    slow = network().eval()
    each = F.cross_entropy(slow(batch["input"]), batch["label"], reduction="none")
    weights = losses.clamp_min(0.1) ** -0.5
    (-(weights * (losses < ceiling) * each).sum() / weights.sum()).backward()
    method._forget(state, 0)
    for p, q in zip(state.parameters, slow.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach() - 1e-3 * q.grad, rtol=0, atol=1e-6)


def test_a_forget_rate_left_open_grows_while_forgetting_is_slow_and_cheap():
    def rates(target, **settings):
        work, engine = few_samples(holdout=True)
        method = SFRon(steps=3, optimizer=SGD, **settings).resolved(work, engine)
        state = method.start(work, engine)
        work.memo["calibration"]["target"].fill_(target)
        for k in range(2):
            method.step(state, k)
        return state.optimizers["forget"].param_groups[0]["lr"]

    assert rates(1e9) == pytest.approx(1e-3 * 1.05**2)
    assert rates(1e9, calibration=Calibration(growth=1.0)) == 1e-3
    assert rates(4.0) == 1e-3, "the retain loss is above a tenth of the target"
    assert rates(math.inf) == 1e-3, "a class has no target"
    assert rates(1e9, forget_optimizer=Optimizer("adam", 2e-3)) == 2e-3, "a rate that was given is kept"


def test_retain_gradients_are_clipped_where_calibration_is_active():
    def norm(holdout, **settings):
        work, engine = few_samples(holdout=holdout)
        return SFRon(optimizer=SGD, **settings).resolved(work, engine).retain_max_norm

    assert norm(True) == 1.0
    assert norm(False) is None
    assert norm(True, retain_max_norm=3.0) == norm(False, retain_max_norm=3.0) == 3.0
    assert norm(True, calibration=Calibration(retain_max_norm=None)) is None
    assert norm(True, published=True) is None


@pytest.mark.parametrize(
    ("given", "count"),
    [({}, 512), ({"fisher_samples": 7}, 7), ({"fisher": "batch"}, None), ({"published": True}, None)],
)
def test_as_many_samples_make_the_fisher_as_fit_it(given, count):
    found = SFRon(**given, optimizer=SGD).resolved(*few_samples())
    assert found.fisher_samples == count


def test_held_out_samples_are_asked_of_no_class_that_has_a_ceiling(monkeypatch):
    work, engine = few_samples(holdout=True)
    work.memo["conditions"] = {"held": torch.tensor([99])}
    method = SFRon(steps=4, optimizer=SGD, calibration=Calibration(follow=True)).resolved(work, engine)
    state = method.start(work, engine)
    monkeypatch.setattr(work.holdout, "batch", lambda *_: pytest.fail("a held-out batch was drawn"))
    assert "skipped" not in method._forget(state, 0)


def test_without_holdout_a_class_is_bounded_where_the_rate_is_open():
    work, engine = few_samples()
    work.memo["conditions"] = {"held": torch.tensor([99])}
    method = SFRon(optimizer=SGD).resolved(work, engine)
    assert method.calibrate and method.total == 40 and method.forget_optimizer.lr == 1e-3
    state = method.start(work, engine)
    assert float(work.memo["calibration"]["target"]) == math.inf
    assert "skipped" not in method._forget(state, 0)
    assert replace(method, calibration=Calibration(ceiling=1e-6))._forget(state, 0)["skipped"]
    own = SFRon(optimizer=SGD, forget_optimizer=Optimizer("adam", 1e-3)).resolved(work, engine)
    assert not own.calibrate, "a rate of one's own: all K steps are taken"


def test_without_holdout_every_forget_step_is_taken():
    work, engine = few_samples()
    method = SFRon(steps=6, optimizer=SGD).resolved(work, engine)
    state = method.start(work, engine)
    assert not any("skipped" in method.step(state, k) for k in range(6))


@pytest.mark.parametrize(("kind", "moves"), [("running", False), ("batch", False), ("moved", True)])
def test_statistics(kind, moves):
    model = network().train()
    x = samples(10, 5).tensors[0]
    before = {name: b.clone() for name, b in model.named_buffers()}
    with statistics(model, kind):
        assert model[1].training == (kind != "running")
        out = model(x)
    assert model[1].training
    after = dict(model.named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before) != moves
    model.train(kind != "running")
    assert torch.equal(out, model(x))


def test_published_fills_in_its_preset_and_refuses_contradictions():
    method = SFRon(published=True)
    assert (method.fisher, method.forget_optimizer, method.beta, method.floor) == ("batch", None, 1.0, 0.0)
    with pytest.raises(SettingError, match="published means beta"):
        SFRon(published=True, beta=0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": 0.0}, {"beta": 1.5}, {"lam": -1.0}, {"alpha": 0.0}, {"gamma": -1.0}, {"steps": 0}, {"retain_steps": 0},
        {"max_norm": math.nan}, {"objective": "descent"}, {"decay": "cubic"}, {"fisher": "exact"}, {"epochs": 0.0},
        {"fisher_samples": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong):
    with pytest.raises(SettingError):
        SFRon(**wrong)


def test_a_state_is_what_a_checkpoint_holds():
    state, method = started(SFRon(steps=4, optimizer=SGD))
    for k in range(2):
        method.step(state, k)
    saved = copy.deepcopy(state.state_dict())
    other, _ = started(SFRon(steps=4, optimizer=SGD))
    other.load_state_dict(saved)
    for k in range(2, 4):
        method.step(state, k)
        method.step(other, k)
    assert isinstance(other, State)
    for a, b in zip(state.module.state_dict().values(), other.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_when_a_batch_is_normalised_by_its_own_statistics():
    calibration, task = Calibration(), Classification(num_classes=5)
    measured = {"target": torch.tensor(1.0), "held": torch.tensor([0, 1])}

    def kind(measured, label, rows, late=False):
        return calibration.statistics_of(measured, {"label": torch.full((rows,), label)}, late, task)

    assert kind(measured, 0, 16) == "batch"
    assert kind(measured, 0, 15) == "running", "too few samples"
    assert kind(measured, 0, 16, late=True) == "batch"
    assert kind(measured, 2, 16) == "batch"
    assert kind(measured, 2, 16, late=True) == "running", "a class that the retain set lacks, as it will be seen"
    assert kind(None, 0, 16) == "running", "without held-out data"
