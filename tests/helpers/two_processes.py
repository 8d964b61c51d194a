"""What one process does, for `torchrun`: a Fisher diagonal and a whole run of a model without batch statistics.

Usage: python -m helpers.two_processes OUT; the main process writes OUT.
"""

import sys

import torch
from torch import nn
from torch.utils.data import TensorDataset

import untrain
from untrain.engine import Engine


def samples(count, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 12, generator=g, dtype=torch.float64)
    return TensorDataset(x, torch.randint(0, 5, (count,), generator=g))


def main(out):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 5)).double()
    forget, retain, holdout = samples(37, 1), samples(150, 2), samples(50, 3)
    content = {}
    for estimator in ("sample", "batch"):
        fisher = untrain.fisher_diagonal(model, "classification", retain, estimator=estimator)
        content |= {f"{estimator}.{name}": value for name, value in fisher.items()}
    result = untrain.unlearn(
        model, forget=forget, retain=retain, holdout=holdout, steps=8, batch_size=25,
        optimizer=untrain.Optimizer("sgd", 0.05, 0.9), device="cpu",
    )  # fmt: skip
    content |= {f"model.{name}": value for name, value in result.model.state_dict().items()}
    evaluation = untrain.evaluate(result.model, forget=forget, retain=retain, test=holdout, reference=model)
    content["measures"] = torch.tensor([evaluation.FA, evaluation.RA, evaluation.TA, evaluation.MIA, evaluation.KL])
    engine = Engine.start("cpu")
    content["processes"] = torch.tensor(engine.num_processes)
    if engine.is_main:
        torch.save(content, out)
    engine.wait()


if __name__ == "__main__":
    main(sys.argv[1])
