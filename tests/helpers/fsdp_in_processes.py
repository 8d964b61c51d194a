"""What one process does among several whose weights are divided, or alone with whole ones: short runs of methods.

The main process writes OUT. Batches have an odd number of samples, and the forget set's last one has a single sample,
so that one process has no share of it; the first dimension of most weights is odd too.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

import untrain
from helpers import small_classifiers, small_generators
from helpers.small_classifiers import clusters
from untrain.data.streams import Stream
from untrain.engine import Engine, local_parts
from untrain.errors import Diverged, ModelError, SettingError
from untrain.methods import make
from untrain.methods.base import Optimizer
from untrain.methods.loop import Checkpoints, run

NAMES = ("sfron", "finetune", "retrain", "scrub", "delete", "gradient-ascent", "neggrad-plus", "random-label", "salun")
ADAM, SGD = Optimizer("adam", 0.01), Optimizer("sgd", 0.05, 0.9)
SETTINGS = {"sfron": {"beta": 0.5}, "retrain": {"ema": 0.9}, "salun": {"optimizer": ADAM}}


def mlp():
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(17, 17), nn.GELU())
    return nn.Sequential(nn.Linear(12, 17), nn.LayerNorm(17), nn.GELU(), inner, nn.Linear(17, 5)).double()


class Reader(nn.Module):
    """A transformer on rows of an image: attention of torch, whose projection nobody calls, and tied weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.decoder, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.decoder.weight = self.embedding.weight
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.double()

    def forward(self, x):
        return self.last(self.decoder(self.block(self.embedding(x.squeeze(1)))).mean(1))


class Peeping(nn.Module):
    """A layer is called, and its weight is looked at from outside as well."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(8, 8), nn.Linear(8, 5)
        self.double()

    def forward(self, x):
        return self.last(F.linear(self.layer(x[:, 0, 0]), self.layer.weight))


def unlearned(engine):
    """By the interface: weights after each method's run."""
    x, y = clusters(26, 1).tensors
    forget = [(x[:13], y[:13]), (x[13:25], y[13:25]), (x[25:], y[25:])]
    content = {}
    for name in NAMES:
        given = {"steps": 4, "optimizer": SGD, **SETTINGS.get(name, {})}
        sets, model = {"forget": forget, "retain": clusters(75, 2)}, mlp()
        before = {key: value.clone() for key, value in model.state_dict().items()}
        result = untrain.unlearn(model, **sets, method=name, batch_size=25, device="cpu", fsdp=engine.fsdp, **given)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        content |= {f"{name}/{key}": value for key, value in result.model.state_dict().items()}
    return content


def narrow(engine):
    """In float32, whose sums other processes make another way."""
    work = small(engine, Reader().float())
    for name, count, seed in (("forget", 40, 1), ("retain", 100, 2)):
        x, y = small_classifiers.samples(count, seed).tensors
        setattr(work, name, Stream(TensorDataset(x.float(), y), name, engine, 19))
    return run(
        make("sfron", {**SFRON, "optimizer": SGD, "forget_optimizer": SGD}), work, engine
    ).state.module.state_dict()


def small(engine, model=None):
    work, _ = small_classifiers.problem(model, batch_size=19)
    return shared(work, engine)


def shared(work, engine):
    for stream in (work.forget, work.retain):
        stream.engine = engine
    return work


SFRON = {"steps": 4, "optimizer": ADAM, "forget_optimizer": ADAM, "calibrate": False}


def resumed(engine, folder):
    """A transformer that is looked at after each step; among several, a run that is killed and goes on."""
    saver = Checkpoints(folder / f"{engine.num_processes}.resume.pt", "mark", resume=True, every=0.0)
    alive = not engine.fsdp

    def look(module, step):
        if step == 3 and not alive:
            raise KeyboardInterrupt
        return {"seen": float(sum(parameter.detach().square().sum() for parameter in module.parameters()))}

    def go():
        work = small(engine, Reader())
        return run(make("sfron", SFRON), work, engine, checkpoints=saver, evaluate=look, evaluate_every=1)

    if engine.fsdp:
        try:
            go()
        except KeyboardInterrupt:
            alive = True
        engine.wait()
    done = go()
    history = {key: [record[key] for record in done.history] for key in ("seen", "forget_loss", "retain_loss")}
    return {**done.state.module.state_dict(), **{key: torch.tensor(value) for key, value in history.items()}}


def taught(engine):
    """A transformer of diffusers whose original teaches it what to predict."""
    work, _ = small_generators.problem(small_generators.denoiser("dit"), batch_size=5)
    settings = {**SFRON, "steps": 2, "objective": "redirect", "teacher": "original"}
    return run(make("sfron", settings), shared(work, engine), engine).state.module.state_dict()


def diverged(engine):
    """A step beyond all numbers: the model has its last good weights again, whole."""
    work = small(engine, Reader())
    try:
        run(make("gradient-ascent", {"steps": 4, "optimizer": Optimizer("sgd", 1e300), "max_norm": None}), work, engine)
    except Diverged:
        return work.subject.module.state_dict()
    raise RuntimeError("it did not diverge")


def check_batch_statistics(engine):
    """Batch norm looks at each process's part: as without fsdp in the same processes, running statistics too."""
    found = [
        run(make("sfron", SFRON), small(chosen), chosen).state.module.state_dict()
        for chosen in (engine, replace(engine, fsdp=False))
    ]
    for (name, value), other in zip(found[0].items(), found[1].values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-12, msg=name)


def check_parts(engine):
    """Of weights, gradients, both optimisers' moments and the mask each process has its half, within a tenth."""
    work = small(engine, Reader())
    method = make("sfron", SFRON).resolved(work, engine)
    state = method.start(work, engine)
    whole = sum(parameter.numel() for parameter in state.parameters)
    state.divide()
    method.step(state, 0)
    held = {
        "weights": state.parameters,
        "gradients": [parameter.grad for parameter in state.parameters],
        "mask": list(state.mask.values()),
    }
    for name, optimizer in state.optimizers.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            held[f"{moment} of {name}"] = [each[moment] for each in optimizer.state.values()]
    for name, tensors in held.items():
        size = sum(part.numel() for part in local_parts(tensors)) / whole
        assert abs(size - 1 / engine.num_processes) < 0.05, (name, size)


def check_refusals(engine):
    for words in ({"precision": "fp16"}, {"compile": True}, {"microbatch": 2}):
        with pytest.raises(SettingError, match=next(iter(words))):
            Engine.start("cpu", fsdp=True, **words)
    with pytest.raises(ModelError, match="from outside"):
        run(make("finetune", {"steps": 1, "optimizer": ADAM}), small(engine, Peeping()), engine)
    with pytest.raises(SettingError, match="lr"):
        run(make("finetune", {"steps": 1}), small(engine), engine)


def main(folder, fsdp):
    engine = Engine.start("cpu", fsdp=fsdp)
    cases = {"resumed": resumed(engine, folder), "taught": taught(engine), "diverged": diverged(engine)}
    cases["narrow"] = narrow(engine)
    content = {f"{case}/{key}": value for case, values in cases.items() for key, value in values.items()}
    content |= unlearned(engine)
    if fsdp:
        for check in (check_batch_statistics, check_parts, check_refusals):
            check(engine)
    if engine.is_main:
        torch.save(content, folder / f"{engine.num_processes}.pt")
    engine.wait()
