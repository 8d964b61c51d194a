"""Small problems for the tests of methods, in float64."""

import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.methods.base import Optimizer, Problem
from untrain.models.subject import Subject
from untrain.tasks.classification.task import Classification

SGD = Optimizer("sgd", 0.05, 0.9, 5e-4)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 16), nn.ReLU(), nn.Linear(16, 5)
    ).double()


def samples(count, seed):
    g = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(count, 1, 8, 8, generator=g, dtype=torch.float64), torch.randint(0, 5, (count,), generator=g)
    )


def problem(model=None, *, forget=40, retain=100, batch_size=20, seed=0):
    """Two forget batches and five retain batches, large enough for batch statistics of their own."""
    engine = Engine(torch.device("cpu"))
    sets = {"forget": samples(forget, 1), "retain": samples(retain, 2)}
    streams = {name: Stream(data, name, engine, batch_size) for name, data in sets.items()}
    return Problem(Subject(model or network()), Classification(num_classes=5), **streams, seed=seed), engine


def few_samples(model=None, holdout=False):
    """Two forget batches of ten and six retain batches; on demand, held-out samples."""
    engine = Engine(torch.device("cpu"))
    sets = {"forget": samples(20, 1), "retain": samples(60, 2)} | ({"holdout": samples(30, 3)} if holdout else {})
    streams = {name: Stream(data, name, engine, 10) for name, data in sets.items()}
    return Problem(Subject(model or network()), Classification(num_classes=5), **streams), engine


def ran(method, steps, **options):
    """The state after so many steps, and the resolved method."""
    work, engine = problem(**options)
    method = method.resolved(work, engine)
    state = method.start(work, engine)
    for k in range(steps):
        method.step(state, k)
    return state, method


def slow_sgd(model, rate=0.05, steps=None):
    """Plain SGD as `SGD` says, with its cosine schedule over so many steps; None: at a constant rate."""
    optimizer = torch.optim.SGD(model.parameters(), rate, 0.9, weight_decay=5e-4)
    lower = torch.optim.lr_scheduler
    if steps is None:
        return optimizer, lower.LambdaLR(optimizer, lambda _: 1.0)
    return optimizer, lower.CosineAnnealingLR(optimizer, steps)


def slow_step(model, optimizer, schedule, loss, max_norm=None, *, kept=None):
    """`kept`: buffers that the model has after the step, as after a forget step."""
    optimizer.zero_grad()
    loss.backward()
    if kept is not None:
        model.load_state_dict(kept, strict=False)
    if max_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    schedule.step()


def forget_part(work, k):
    """The forget rows that belong to step k, sample by sample from their batches."""
    share = Fraction(len(work.forget) * work.retain.rows, len(work.retain))
    rows = []
    for p in range(math.floor(k * share), math.floor((k + 1) * share)):
        batch = work.forget.batch(p // work.forget.rows, work.task, "forget")
        rows.append({key: value[p % work.forget.rows] for key, value in batch.items()})
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def kl(student, teacher, temperature):
    """Mean over samples of KL(teacher ‖ student), sum over classes written out."""
    p, q = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
    return (p * (p / q).log()).sum(1).mean()


def buffers(model):
    """Copies of the model's buffers."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def close(module, expected):
    """Weights and buffers agree; 1e-10: float64, sums in another order."""
    found, wanted = module.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert torch.allclose(tensor, wanted[name], rtol=1e-10, atol=1e-12), name


def clusters(count, seed):
    """Five overlapping clusters in twelve dimensions: a network can learn much of them, and knows the rest by heart."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 5, (count,), generator=g)
    centres = torch.randn(5, 12, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return TensorDataset(centres[y] + 1.2 * torch.randn(count, 12, generator=g, dtype=torch.float64), y)


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 5)).double()
