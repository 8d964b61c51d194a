"""Default settings on a model and data that are not the library's: nothing is tuned, nothing is told.

    python benchmarks/not_ours.py FOLDER --seeds 0 1 2

FOLDER holds CIFAR-10 as parquet. The model is written out below, has no batch normalisation, and is trained by a plain
loop with Adam, as a user might; the library gets the module and three data sets, and finds its learning rate itself.
"""

import argparse
import time
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Subset, TensorDataset

import untrain
from untrain.data.sources import load

MEASURES = ("FA", "RA", "TA", "MIA", "AvgD", "KL")


def network() -> nn.Module:
    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *stage(3, 24), *stage(24, 48), *stage(48, 96), nn.Flatten(), nn.Linear(1536, 64), nn.ReLU(), nn.Linear(64, 10)
    ).to(memory_format=torch.channels_last)


def train(data: TensorDataset, seed: int, epochs: int) -> nn.Module:
    torch.manual_seed(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * -(-len(data) // 128))
    x, y = data.tensors
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def tensors(source: object) -> TensorDataset:
    images = source.input.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
    return TensorDataset(images, source.labels)


def one(path: str, seed: int, epochs: int) -> dict[str, dict[str, float]]:
    pool, test = (
        tensors(load("cifar10", part, path=path, limit=n, seed=seed)) for part, n in (("train", 6600), ("test", 3000))
    )
    order = torch.randperm(6600, generator=torch.Generator().manual_seed(seed))
    holdout, forget, retain = (Subset(pool, part.tolist()) for part in order.split([600, 600, 5400]))
    rows = {name: TensorDataset(*pool[list(part.indices)]) for name, part in (("f", forget), ("r", retain))}
    both = TensorDataset(*(torch.cat([a, b]) for a, b in zip(rows["f"].tensors, rows["r"].tensors, strict=True)))
    original = train(both, seed, epochs)
    start = time.perf_counter()
    references = [train(rows["r"], 100 + seed, epochs)]
    seconds = {"retrained": time.perf_counter() - start}
    references.append(train(rows["r"], 200 + seed, epochs))
    done = untrain.unlearn(original, forget=forget, retain=retain, holdout=holdout, seed=seed)
    print(f"seed {seed}: {'; '.join(done.notes)}", flush=True)
    same = done.method.steps * (done.method.retain_steps + 1)
    tuned = untrain.unlearn(original, forget=forget, retain=retain, method="finetune", steps=same, seed=seed)
    seconds |= {"sfron": done.seconds, "finetune": tuned.seconds}
    models = {"original": original, "retrained": references[0], "retrained-2": references[1]}
    models |= {"finetune": tuned.model, "sfron": done.model}
    sets = {"forget": forget, "retain": retain, "test": test}
    found = {name: untrain.evaluate(model, **sets, reference=references[0]) for name, model in models.items()}
    return {n: {m: getattr(e, m) for m in MEASURES} | {"seconds": seconds.get(n)} for n, e in found.items()}


def cell(values: list[float | None]) -> str:
    numbers = [v for v in values if v is not None]
    if len(numbers) < len(values):
        return "–"
    spread = f" ± {stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()
    found = [one(args.folder, seed, args.epochs) for seed in args.seeds]
    columns = [*MEASURES, "seconds"]
    print("| model | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name in found[0]:
        cells = [cell([f[name][column] for f in found]) for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
