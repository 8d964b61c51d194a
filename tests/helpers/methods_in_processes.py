"""What one process does among several: short runs of methods on a model without batch statistics.

The main process writes OUT. Batches have an odd number of samples, and the forget set's last one has a single sample,
so that one process has no share of it.
"""

import torch
from torch import nn

import untrain
from helpers.small_classifiers import clusters
from untrain.engine import Engine


def main(out, *names):
    content = {}
    for name in names:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 5)).double()
        settings = {} if name == "ssd" else {"steps": 9, "optimizer": untrain.Optimizer("sgd", 0.05, 0.9)}
        settings |= {"layers": 1} if name in ("eu-k", "cf-k") else {}
        x, y = clusters(26, 1).tensors
        forget = [(x[:13], y[:13]), (x[13:25], y[13:25]), (x[25:], y[25:])]
        result = untrain.unlearn(
            model, forget=forget, retain=clusters(75, 2), method=name, batch_size=25, device="cpu", **settings
        )
        content |= {f"{name}/{key}": value for key, value in result.model.state_dict().items()}
    engine = Engine.start("cpu")
    content["processes"] = torch.tensor(engine.num_processes)
    if engine.is_main:
        torch.save(content, out)
    engine.wait()
