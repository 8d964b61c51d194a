"""What an audit finds of one method: the rows of its card, as values that know nothing of how they are shown."""

from dataclasses import asdict, dataclass, field
from typing import Any

from untrain.audit.finding import Values
from untrain.audit.statistics import Epsilon, Hits, Interval

OUTPUTS, INSIDE, RELEARNED, EXPOSED = "outputs", "inside", "relearned", "exposed"
SIGNALS: dict[str, tuple[str, ...]] = {
    OUTPUTS: ("confidence", "nearby"),
    INSIDE: ("refit", "centre", "spread"),
    RELEARNED: ("relearned",),
}
"""The signals of each group, by name."""
TESTED = (OUTPUTS, EXPOSED, INSIDE, RELEARNED)
"""The groups that have a p of their own, in the order in which a trace is described."""


@dataclass(frozen=True)
class Group:
    """How well an attacker tells forgotten samples from never-seen ones by a group of signals.

    Attributes:
        auc: mean over models; 0.5 is chance.
        auc_ci: its 95 % interval, over twins and samples at once.
        null_sd: deviation of the AUC where coins are redrawn.
        p: of an AUC as large where coins are redrawn.
        p_holm: p, adjusted for the number of groups.
        left: share of the originals' advantage over chance that remains; None where they have none.
        left_ci: its interval, from the same draws.
        signals: AUC of each signal alone.
        missing: why there are no values; None where there are.
    """

    auc: float | None = None
    auc_ci: Interval | None = None
    null_sd: float | None = None
    p: float | None = None
    p_holm: float | None = None
    left: float | None = None
    left_ci: Interval | None = None
    signals: dict[str, float] = field(default_factory=dict)
    missing: str | None = None


@dataclass(frozen=True)
class Mean:
    """A mean and its 95 % interval, which takes two values."""

    value: float
    ci: Interval | None


@dataclass(frozen=True)
class Kept:
    """Accuracy of unlearned models less that of retrained ones, in points.

    Attributes:
        base: on what all twins keep.
        test: on test data.
        never_seen: on samples of the pool that a model never saw.
    """

    base: Mean
    test: Mean
    never_seen: Mean


@dataclass(frozen=True)
class Control:
    """Retrained models in place of twins: nothing may be found in them.

    Attributes:
        aucs: of each group, mean over models and places.
        p: of each group, adjusted for the number of places and groups.
    """

    aucs: dict[str, float]
    p: dict[str, float]


@dataclass(frozen=True)
class ThisModel:
    """How well the attack tells forgotten from unseen samples in the run's own model.

    Attributes:
        auc: within classes; 0.5 is chance.
        auc_ci: its 95 % interval, over samples.
        p: of an AUC as large where it is permuted which samples of a class are the forgotten ones.
        forgotten: samples that are compared.
        unseen: likewise.
    """

    auc: float
    auc_ci: Interval
    p: float
    forgotten: int
    unseen: int


@dataclass(frozen=True)
class PlantedNoise:
    """How far models' gradients remember noise that was planted in images they were told to forget.

    Attributes:
        mean: of values that are N(0, 1) to a model that never saw the noise; above 0 as in the originals.
        ci: its 95 % interval.
        p: of a mean as far from 0.
        values: how many.
        shown: whether the originals remember it; if not, nothing can be said of the method.
    """

    mean: float
    ci: Interval
    p: float
    values: int
    shown: bool


@dataclass(frozen=True)
class Traces(Values):
    """What is found of one method.

    Attributes:
        groups: by name, see `SIGNALS`, and `exposed`: outputs on the tenth of the pool that shows most in the
            originals.
        tpr: hits at few false alarms.
        epsilon: what is refuted.
        direction: confidence of forgotten less that of never-seen samples, nats.
        kept: None where accuracies were not given.
        control: None where there is no retrained model.
        this_model: of the run's own model; None where the run kept no samples back for it.
        planted: None where no noise was planted.
    """

    groups: dict[str, Group]
    tpr: tuple[Hits, ...]
    epsilon: Epsilon | None
    direction: Mean | None
    kept: Kept | None = None
    control: Control | None = None
    this_model: ThisModel | None = None
    planted: PlantedNoise | None = None

    def plain(self) -> dict[str, Any]:
        """Returns them as audit.json holds them: groups beside what else there is."""
        values = asdict(self)
        return {**values.pop("groups"), **values}
