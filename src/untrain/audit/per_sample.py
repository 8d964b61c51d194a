"""What an audit knows of each single sample: written only when it is asked for, for it tells who was trained on."""

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from untrain.audit.attack import Shadowed
from untrain.audit.score import CONFIDENCE, Audited
from untrain.audit.traces import OUTPUTS, SIGNALS
from untrain.domain import Division
from untrain.errors import SettingError, UnlearningWarning, spell
from untrain.io import write_text

PER_SAMPLE_FILE = "per-sample.csv"


@dataclass(frozen=True)
class SampleRow:
    """What is known of one sample and one method.

    Attributes:
        method: "original" or a method's name.
        position: in the training samples.
        id: its name; "" where samples have none.
        score: mean over the twins that were trained on it and told to forget it: the higher, the rather it can be
            recognised as forgotten; "" where no twin was.
        exposure: how far it shows on average whether a twin was trained on it, in deviations.
    """

    method: str
    position: int
    id: str
    score: float | str
    exposure: float | str


def check_named(division: Division) -> None:
    """Refuses to name samples where the run keeps hashes in the place of their names.

    Raises:
        SettingError: says so.
    """
    if division.records is not None and division.records.hashed:
        flag = spell("--per-sample", "per_sample=")
        raise SettingError(f"{flag} names samples, and this run keeps hashes alone (forget.hash_ids). Leave it out.")


def sample_rows(method: str, audited: Audited, samples: np.ndarray, ids: Sequence[str] | None) -> list[SampleRow]:
    """Returns what is known of each sample of the pool, in the order of positions.

    Args:
        method: "original" or a method's name.
        audited: its signals against the coins.
        samples: positions, [N].
        ids: of all samples by position; None: they have none.
    """
    names = [name for name in SIGNALS[OUTPUTS] if name in audited.signals]
    coins, scores, exposure = audited.coins, None, None
    if names:
        with np.errstate(invalid="ignore"):
            scores = (audited.scores(names, coins) * coins).sum(axis=0) / coins.sum(axis=0)
    if CONFIDENCE in audited.signals:
        shadows = np.ones((1, len(coins)), dtype=bool)
        exposure = Shadowed(audited.signals[CONFIDENCE], shadows).effect(coins).exposure[0]

    def shown(values: np.ndarray | None, i: int) -> float | str:
        return "" if values is None or not np.isfinite(values[i]) else round(float(values[i]), 6)

    return [
        SampleRow(method, int(samples[i]), "" if ids is None else ids[samples[i]], shown(scores, i), shown(exposure, i))
        for i in np.argsort(samples)
    ]


def write_samples(path: Path, rows: Sequence[SampleRow]) -> None:
    """Writes what is known of each sample as csv, and warns of what that reveals."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(SampleRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())
    warnings.warn(
        f"{path} says of single samples how surely models show that they were trained on them. Whoever reads it learns "
        "who is in the training data, and who asked to be forgotten. Keep it as you keep these data, and remove it "
        "when it has served.",
        UnlearningWarning,
        stacklevel=2,
    )
