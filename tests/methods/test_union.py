"""Every step trains on one batch that mixes both sets, and each sample comes once a pass."""

from importlib import import_module
from itertools import chain

import pytest
import torch

from helpers.small_classifiers import SGD, close, network, problem, samples
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.methods.bad_teacher import BadTeacher
from untrain.methods.forgetting import forget_rows, mixed, normalises
from untrain.methods.random_label import RandomLabel


def with_batches(forget, retain):
    """A problem of ready batches of these sizes."""
    work, engine = problem()
    for name, sizes in (("forget", forget), ("retain", retain)):
        setattr(work, name, Stream([samples(size, i).tensors for i, size in enumerate(sizes)], name, engine))
    return work


def indices(work, steps):
    """The samples that so many steps visit, step by step."""
    rows = (forget_rows(work, k) for k in steps)
    return [[] if batch is None else batch["index"].tolist() for batch in rows]


@pytest.mark.parametrize("sizes", [(40, 100), (3, 100), (100, 20), (20, 20), (1, 20), (70, 1000), (11, 60)])
def test_every_forget_row_once_a_pass_and_evenly(sizes):
    """Retain sets of whole batches of twenty."""
    forget, retain = sizes
    work, _ = problem(forget=forget, retain=retain)
    a_pass = retain // 20
    for epoch in range(3):
        found = indices(work, range(epoch * a_pass, (epoch + 1) * a_pass))
        assert sorted(chain(*found)) == list(range(forget))
        counts = {len(rows) for rows in found}
        assert max(counts) - min(counts) <= 1


def test_rows_come_in_the_order_of_the_streams_batches():
    """Batches of ten from a set of 27, beside a hundred passes over 101 samples: 10.1 batches each."""
    work, _ = problem(forget=27, retain=101, batch_size=10)
    found = list(chain(*indices(work, range(1010))))
    assert found == list(chain(*(work.forget.batch(q, work.task, "forget")["index"].tolist() for q in range(270))))


def test_ready_batches_of_unequal_size():
    work = with_batches((7, 3, 12, 1), (9, 2, 30))
    passes = indices(work, range(9))
    assert [len(rows) for rows in passes] == [7, 8, 8] * 3
    assert list(chain(*passes)) == list(range(23)) * 3


def test_rows_are_drawn_as_part_of_their_batch():
    """What is drawn for a sample does not depend on where steps cut the batch, nor on what was asked before."""
    work, _ = problem(forget=40, retain=100)
    draws = []
    drawn = work.forget.batch
    work.forget.batch = lambda k, task, role: draws.append((k, role)) or drawn(k, task, role)
    first = [forget_rows(work, k) for k in range(5)]
    assert draws == [(0, "forget"), (1, "forget")]  # each batch once, though several steps take rows of it
    whole = torch.cat([drawn(q, work.task, "forget")["input"] for q in (0, 1)])
    assert torch.equal(torch.cat([batch["input"] for batch in first]), whole)
    assert torch.equal(forget_rows(work, 1)["input"], first[1]["input"])


def test_forget_rows_are_spread_over_the_mixed_batch():
    retain, forget = ({"index": torch.arange(n), "label": torch.arange(n) + 100} for n in (12, 4))
    forget["more"] = torch.zeros(4)
    batch, whose = mixed(retain, forget)
    assert batch.keys() == retain.keys()
    assert [int(part.sum()) for part in whose.split(4)] == [1, 1, 1, 1]
    assert batch["index"][whose].tolist() == list(range(4))
    assert batch["index"][~whose].tolist() == list(range(12))


def test_steps_are_passes_over_the_retain_set():
    work, engine = problem(forget=27, retain=101, batch_size=10)
    method = RandomLabel(epochs=2.5, optimizer=SGD).resolved(work, engine)
    assert method.total == 26  # 25.25
    state = method.start(work, engine)
    for k in range(method.total):
        assert {"forget_loss", "retain_loss", "lr"} == method.step(state, k).keys()
    assert state.retained == 26


def test_a_step_without_forget_rows_is_a_training_step():
    work, engine = problem(forget=1, retain=100)
    method = RandomLabel(steps=10, optimizer=SGD)
    state = method.start(work, engine)
    records = [method.step(state, k) for k in range(10)]
    assert ["forget_loss" in record for record in records] == [False, False, False, False, True] * 2


@pytest.mark.parametrize("method", [RandomLabel, BadTeacher])
def test_one_pass_through_the_model_a_step_where_it_normalises_by_the_batch(method):
    """And the teachers are asked on their own rows alone."""
    work, engine = problem()
    state = method(steps=5, optimizer=SGD).start(work, engine)
    seen = {}
    for name, module in {"model": state.module, **state.frozen}.items():
        module.register_forward_hook(lambda m, x, y, name=name: seen.setdefault(name, []).append(len(y)))
    method(steps=5).step(state, 0)
    assert seen == {"model": [28], **({"original": [20], "random": [8]} if method is BadTeacher else {})}


@pytest.mark.parametrize("method", [RandomLabel, BadTeacher])
def test_without_batch_statistics_two_passes_give_the_same(method, monkeypatch):
    def model():
        plain = network()
        plain[1] = torch.nn.Identity()
        return plain

    found = []
    for together in (False, True):
        work, engine = problem(model())
        assert not normalises(work.subject.module.train())
        if together:
            monkeypatch.setattr(import_module("untrain.methods.union"), "normalises", lambda module: True)
        state = method(steps=5, optimizer=SGD).start(work, engine)
        records = [method(steps=5).step(state, k) for k in range(5)]
        found.append((state.module, records))
    close(found[0][0], found[1][0])
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert a == pytest.approx(b, rel=1e-10)


def test_a_found_rate_is_scaled_and_a_given_one_is_not():
    work, engine = problem()
    work.subject.peak_lr = 0.1
    assert RandomLabel().resolved(work, engine).optimizer.lr == pytest.approx(0.005)
    assert sum("of that rate, 0.005" in note for note in work.notes) == 1
    assert RandomLabel(optimizer=SGD).resolved(work, engine).optimizer == SGD


@pytest.mark.parametrize("forget", [40, 5])
def test_processes_share_out_each_set(forget, monkeypatch):
    """Three processes' losses in order are one process's; of a single forget row a step, two have no share."""
    monkeypatch.setattr(import_module("untrain.methods.union"), "normalises", lambda module: True)
    found = {}
    for count in (1, 3):
        parts = []
        for process in range(count):
            work, _ = problem(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)).double(), forget=forget)
            work.subject.module.load_state_dict({"1.weight": torch.eye(5, 64), "1.bias": torch.zeros(5)})
            state = BadTeacher(steps=5, optimizer=SGD).start(
                work, Engine(torch.device("cpu"), "no", False, process, count)
            )
            state.frozen["random"].load_state_dict({"1.weight": -torch.eye(5, 64), "1.bias": torch.ones(5)})
            state.frozen["original"].load_state_dict({"1.weight": torch.zeros(5, 64), "1.bias": torch.ones(5)})
            batches = work.retain.batch(0, work.task, "retain"), forget_rows(work, 0)
            parts.append(BadTeacher(steps=5)._losses(state, *batches))
        found[count] = [torch.cat(losses) for losses in zip(*parts, strict=True)]
        assert all(len(kept) in (6, 7) for kept, _ in parts) or count == 1
    for one, three in zip(found[1], found[3], strict=True):
        assert torch.allclose(one, three, rtol=1e-12)
    assert [len(losses) for losses in found[1]] == [20, forget // 5]
