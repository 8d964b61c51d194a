"""A task that is none of ours: regression on a table, with a measure of its own; and how a distribution is installed.

It stands for the distribution of somebody else, so it uses what `docs/adding-a-task.md` names and nothing besides.
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_diabetes
from torch import nn

from untrain import Domain, Measure, Task
from untrain.data.columns import Columns
from untrain.data.sections import Forget
from untrain.metrics.losses import mean_losses, sample_values
from untrain.report.presentation import LossPresentation


@dataclass(frozen=True)
class Regression(Task):
    """Squared error of one number."""

    def outputs(self, model, batch):
        return model(batch["features"])

    def loss(self, model, batch):
        return (self.outputs(model, batch)[:, 0] - batch["target"]).square()

    def near(self, model, batch):
        """Whether the prediction is within half a standard deviation, [B]."""
        return (self.loss(model, batch) < 0.25).double()


@dataclass(frozen=True)
class Data:
    """The table."""

    rows: int = 200
    """Patients to train on; all others are tested on."""


@dataclass(frozen=True)
class RegressionSections:
    """What a recipe on tables says besides what every recipe does."""

    data: Data = Data()
    forget: Forget = Forget()
    width: int = 32
    """Units of the hidden layers."""


class RegressionPresentation(LossPresentation):
    """Presents how many predictions are near."""

    measures = (
        Measure("forget_near", "FN", "Near on the forget set", "%", "Predictions near the truth.", "As retrained."),
        *LossPresentation.measures,
    )


class RegressionDomain(Domain):
    """Regression on a table."""

    name = "regression"
    task_class = Regression
    Sections = RegressionSections
    presentation = RegressionPresentation()

    def load(self):
        table = load_diabetes()
        target = torch.tensor((table.target - table.target.mean()) / table.target.std(), dtype=torch.float32)
        features = torch.tensor(table.data / table.data.std(0), dtype=torch.float32)
        rows, sexes = self.sections.data.rows, (table.data[:, 1] > 0).astype(int)
        parts = (slice(0, rows), slice(rows, None))
        train, test = (
            Columns({"features": features[part], "target": target[part]}, sexes[part], ["one", "other"])
            for part in parts
        )
        return train, test

    def build(self, seed):
        width = self.sections.width
        with self.context.engine.seeded(seed):
            layers = nn.Linear(10, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
            return nn.Sequential(*layers).to(self.context.engine.device)

    @classmethod
    def values(cls, module, task, sets, engine):
        near = {name: sample_values(module, task, stream, engine, task.near) for name, stream in sets.items()}
        own = {f"{name}_near": 100 * values.mean().item() for name, values in near.items()}
        return mean_losses(module, task, sets, engine) | own


def install(site, entries, distribution="untrain-elsewhere", group="untrain.tasks"):
    """What an installer leaves on disk for a distribution: metadata with entry points, name → MODULE:ATTRIBUTE."""
    info = site / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
