"""The shared loop: resume, checkpoints, divergence, evaluation during a run, clocks."""

import math
import sys
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from helpers.small_classifiers import SGD, few_samples, network
from untrain.errors import Diverged, ModelError, SettingError, StaleFile
from untrain.methods import fishers, make, methods
from untrain.methods.base import Optimizer
from untrain.methods.finetune import Finetune
from untrain.methods.learning_rate import with_learning_rate
from untrain.methods.loop import Checkpoints, run
from untrain.methods.retrain import Retrain
from untrain.methods.sfron import SFRon
from untrain.models.adapters import Adapters

METHODS = [SFRon(steps=6, optimizer=SGD), Finetune(steps=12, optimizer=SGD), Retrain(steps=12, optimizer=SGD)]


@dataclass(frozen=True)
class Stopping(Finetune):
    """Stops like a killed process, without a word, before one of its steps."""

    name: ClassVar[str] = "stopping"
    at: int = 0

    def step(self, state, k):
        if k == self.at:
            raise KeyboardInterrupt
        return super().step(state, k)


@dataclass(frozen=True)
class Exploding(Finetune):
    """Its loss becomes NaN at one step."""

    name: ClassVar[str] = "exploding"
    at: int = 0

    def step(self, state, k):
        if k == self.at:
            with torch.no_grad():
                state.parameters[0].fill_(float("nan"))
        return super().step(state, k)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_the_same_run_twice_gives_the_same_bits(method):
    ends = [weights(run(method, *few_samples()).state.module) for _ in range(2)]
    assert same(*ends)


@pytest.mark.parametrize("at", [0, 1, 5, 11])
def test_a_stopped_run_goes_on_to_the_same_end(tmp_path, at):
    whole = run(Finetune(steps=12, optimizer=SGD), *few_samples())
    saver = Checkpoints(tmp_path / "resume.pt", "mark", resume=True, every=0.0)
    with pytest.raises(KeyboardInterrupt):
        run(Stopping(steps=12, optimizer=SGD, at=at), *few_samples(), checkpoints=saver)
    again = run(Finetune(steps=12, optimizer=SGD), *few_samples(), checkpoints=saver)
    assert same(weights(whole.state.module), weights(again.state.module))
    assert again.history == whole.history
    assert len(again.history) == 12


def test_a_resumed_sfron_does_not_compute_its_mask_again(tmp_path, monkeypatch):
    saver = Checkpoints(tmp_path / "resume.pt", "mark", resume=True, every=0.0)
    method = SFRon(steps=6, optimizer=SGD)
    whole = run(method, *few_samples())
    with monkeypatch.context() as patch:
        patch.setattr(SFRon, "step", lambda self, state, k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(method, *few_samples(), checkpoints=saver)
    monkeypatch.setattr(fishers, "fishers_of", None)
    again = run(method, *few_samples(), checkpoints=saver)
    assert same(weights(whole.state.module), weights(again.state.module))


@pytest.mark.parametrize("method", [Finetune(steps=6), SFRon(steps=3)], ids=lambda m: m.name)
def test_a_resumed_run_does_not_look_for_its_learning_rate_again(tmp_path, monkeypatch, method):
    saver = Checkpoints(tmp_path / "resume.pt", "mark", resume=True, every=0.0)
    whole = run(method, *few_samples())
    with monkeypatch.context() as patch:
        patch.setattr(type(method), "step", lambda self, state, k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(method, *few_samples(), checkpoints=saver)
    monkeypatch.setattr(sys.modules[with_learning_rate.__module__], "range_test", None)
    again = run(method, *few_samples(), checkpoints=saver)
    assert same(weights(whole.state.module), weights(again.state.module))


def test_a_run_of_adapters_saves_no_base_and_goes_on_to_the_same_end(tmp_path):
    def given():
        problem, engine = few_samples()
        problem.subject.adapters = Adapters(rank=2)
        return problem, engine

    method, path = Finetune(steps=6, optimizer=SGD), tmp_path / "resume.pt"
    saver = Checkpoints(path, "mark", resume=True, every=0.0)
    whole = run(method, *given())
    with pytest.raises(KeyboardInterrupt):
        run(Stopping(steps=6, optimizer=SGD, at=3), *given(), checkpoints=saver)
    held = torch.load(path, weights_only=True)["state"]["module"]
    buffers = dict(given()[0].subject.module.named_buffers())
    assert held and all(".lora_" in name or name in buffers for name in held)
    again = run(method, *given(), checkpoints=saver)
    assert same(weights(whole.state.module), weights(again.state.module))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "resume.pt"
    run(Finetune(steps=2, optimizer=SGD), *few_samples(), checkpoints=Checkpoints(path, "one"))
    with pytest.raises(StaleFile, match="other data, weights or settings"):
        run(Finetune(steps=2, optimizer=SGD), *few_samples(), checkpoints=Checkpoints(path, "two", resume=True))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_good_weights(tmp_path):
    work, engine = few_samples()
    good = weights(run(Finetune(steps=20, optimizer=SGD, decay="constant"), *few_samples()).state.module)
    saver = Checkpoints(tmp_path / "resume.pt", "mark")
    method = Exploding(steps=40, optimizer=SGD, decay="constant", at=21)
    with pytest.raises(Diverged, match=r"exploding, step 21 of 40: the retain loss became nan.*after step 20"):
        run(method, work, engine, checkpoints=saver)
    assert same(weights(work.subject.module), good)
    kept = torch.load(saver.path, weights_only=True)
    assert kept["step"] == 20
    assert same(kept["state"]["module"], good)


def test_evaluation_during_a_run_has_its_own_clock():
    seen = []

    def measure(module, step):
        seen.append(step)
        return {"FA": 50.0}

    done = run(Finetune(steps=6, optimizer=SGD), *few_samples(), evaluate=measure, evaluate_every=2)
    assert seen == [2, 4, 6]
    assert [record["step"] for record in done.history if "FA" in record] == [1, 3, 5]
    assert done.clocks["evaluation"] > 0
    assert done.seconds == pytest.approx(sum(s for n, s in done.clocks.items() if n != "evaluation"))


def test_fisher_time_counts_once():
    done = run(SFRon(steps=2, optimizer=SGD), *few_samples())
    assert 0 < done.clocks["fisher"] < done.seconds
    assert not done.state.module.training


def test_retrain_starts_from_new_weights_and_finetune_from_the_old():
    work, _ = few_samples()
    old = weights(work.subject.module)
    begun = Retrain(steps=1, optimizer=SGD).start(*few_samples())
    assert not same(weights(begun.module), old)
    assert same(weights(Finetune(steps=1, optimizer=SGD).start(*few_samples()).module), old)


def test_finetune_is_descent_on_the_retain_set():
    work, engine = few_samples()
    slow, _ = few_samples()
    run(Finetune(steps=3, optimizer=SGD, max_norm=0.5), work, engine)
    module = slow.subject.module.train()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, 0.9, weight_decay=5e-4)
    for k in range(3):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * k / 3)) / 2
        batch = slow.retain.batch(k, slow.task, "retain")
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(batch["input"]), batch["label"]).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        optimizer.step()
    for a, b in zip(weights(work.subject.module).values(), weights(module).values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_only_parameters_with_requires_grad_move():
    work, engine = few_samples()
    frozen = work.subject.module[0]
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    before = weights(frozen)
    run(SFRon(steps=3, optimizer=SGD), work, engine)
    assert same(weights(frozen), before)
    for parameter in work.subject.module.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="nothing to change"):
        run(Finetune(steps=1, optimizer=SGD), work, engine)


def test_methods_are_made_by_name_class_or_object():
    assert set(methods()) >= {"sfron", "finetune", "retrain"}
    assert make("finetune", {"steps": 3}).steps == 3
    assert make(Finetune, {"optimizer": {"name": "adam", "lr": 0.1}}).optimizer == Optimizer("adam", 0.1)
    assert make(SFRon(steps=2), {}).steps == 2
    with pytest.raises(SettingError, match="Did you mean 'sfron'.*finetune"):
        make("sfrom", {})
    with pytest.raises(SettingError, match="unknown setting of sfron 'alhpa'.*Did you mean 'alpha'"):
        make("sfron", {"alhpa": 1})
    with pytest.raises(SettingError, match="already has its settings"):
        make(SFRon(), {"alpha": 1})
    with pytest.raises(SettingError, match="must be a name"):
        make(3, {})


@pytest.mark.parametrize(
    "wrong", [{"name": "lion"}, {"lr": 0.0}, {"name": "adam", "momentum": 0.9}, {"momentum": -1.0}]
)
def test_optimizers_check_their_settings(wrong):
    with pytest.raises(SettingError):
        Optimizer(**wrong)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_dropout_draws_from_the_seed_alone(method):
    ends = []
    for disturbance in (0, 1):
        torch.manual_seed(disturbance)
        model = torch.nn.Sequential(network(), torch.nn.Dropout(0.5))
        before = torch.get_rng_state()
        ends.append(weights(run(method, *few_samples(model)).state.module))
        assert torch.equal(torch.get_rng_state(), before)
    assert same(*ends)


def test_weights_that_the_last_step_ruins_are_not_given_back():
    work, engine = few_samples()
    with pytest.raises(Diverged, match="last step made weights.*after step 0"):
        run(Finetune(steps=1, optimizer=Optimizer("sgd", 1e308, weight_decay=1e9)), work, engine)
    assert all(torch.isfinite(w).all() for w in work.subject.module.state_dict().values())
