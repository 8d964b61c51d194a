"""The figures of an audit by coins: ROC, how scores are spread, and what each attack makes of every model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from untrain.audit.curves import edges_of, false_alarms, roc_of, spread_of
from untrain.audit.score import Audited, Signals
from untrain.audit.statistics import Resamples, auc_of_models
from untrain.audit.traces import EXPOSED, INSIDE, OUTPUTS, RELEARNED, SIGNALS, TESTED
from untrain.report.audit import (
    AuditBins,
    AuditCurve,
    AuditGroup,
    AuditHistogram,
    AuditLine,
    AuditRow,
    AuditValues,
    Shown,
)
from untrain.runs.names import ORIGINAL, RETRAINED

NAMES = {
    OUTPUTS: "told apart, by outputs",
    EXPOSED: "most exposed tenth",
    RELEARNED: "dormant, after relearning",
    INSIDE: "inside, by features",
}
"""Group → what the card calls it."""
DIGITS = 5
"""Decimals of what is drawn."""


def figures_of(name: str, audited: Audited, originals: Audited, retrained: Signals | None) -> dict[str, Any]:
    """Returns the figures of a method as audit.json holds them; both audits must have been found already.

    Args:
        name: of the method.
        audited: the unlearned twins.
        originals: the twins before.
        retrained: signals of models that never saw the pool, [R, N] each.
    """
    by_group = _AucsByModel(audited, originals, retrained)
    found = {"attacks": by_group.figure(name).plain()}
    outputs = [each for each in SIGNALS[OUTPUTS] if each in audited.signals and each in originals.signals]
    if outputs:
        found = {
            "roc": _roc(name, audited, originals, retrained, outputs).plain(),
            "scores": _spread(name, audited, originals, outputs).plain(),
            **found,
        }
    return found


def _roc(
    name: str, audited: Audited, originals: Audited, retrained: Signals | None, outputs: Sequence[str]
) -> AuditCurve:
    coins, resamples = audited.coins, audited.resamples
    fpr = false_alarms(coins.shape[1])
    lines = []
    kinds: tuple[tuple[str, Shown, Audited], ...] = ((ORIGINAL, "original", originals), (name, "unlearned", audited))
    for label, role, each in kinds:
        lines.append(_line(label, role, each.scores(outputs, coins), coins, resamples, fpr))
    control = audited.control_scores(OUTPUTS, retrained or {})
    if len(control):
        models = len(control)
        rng = np.random.default_rng([audited.seed, 4])
        twins = rng.multinomial(models, np.full(models, 1 / models), size=len(resamples.samples)).astype(float)
        drawn = Resamples(twins, resamples.samples)
        lines.append(_line(RETRAINED, "retrained", control, coins[:models], drawn, fpr))
    caption = (
        "How many forgotten samples an attack by outputs finds, against how many never-seen ones it accuses wrongly: "
        "mean over the twins, each with a threshold of its own, with a 95 % band over twins and samples. A model "
        "without a trace lies on the dashed line. To the left an attacker is nearly certain."
    )
    x, y = "never-seen samples accused [%]", "forgotten samples found [%]"
    return AuditCurve("ROC of the attack by outputs", lines, x, y, "xy", True, caption)


def _line(
    label: str, role: Shown, scores: np.ndarray, coins: np.ndarray, resamples: Resamples, fpr: np.ndarray
) -> AuditLine:
    roc = roc_of(scores, coins, resamples, fpr)
    x, y, low, high = ((100 * values).round(DIGITS).tolist() for values in (roc.fpr, roc.tpr, roc.low, roc.high))
    return AuditLine(label, x, y, low, high, role)


def _spread(name: str, audited: Audited, originals: Audited, outputs: Sequence[str]) -> AuditHistogram:
    panels = []
    for label, each in ((ORIGINAL, originals), (name, audited)):
        scores, coins = each.scores(outputs, each.coins), each.coins
        level = [np.median(row[~members]) for row, members in zip(scores, coins, strict=True)]
        scores = scores - np.array(level)[:, None]
        edges = edges_of(scores)
        groups = zip(("forgotten", "never seen"), spread_of(scores, coins, edges), strict=True)
        shown = {group: densities.round(DIGITS).tolist() for group, densities in groups}
        panels.append(AuditBins(label, edges.round(DIGITS).tolist(), shown))
    caption = (
        "The attack's scores by outputs over all twins, from the median of each twin's never-seen samples: the higher, "
        "the rather a sample was forgotten. Where both outlines fall together, nobody can tell forgotten from "
        "never-seen samples. Each bin holds 20 scores or more; what lies further out counts for the last bin."
    )
    return AuditHistogram("Scores of forgotten and of never-seen samples", panels, "score of the attack", caption)


class _AucsByModel:
    """AUC of every model by every group of signals."""

    def __init__(self, audited: Audited, originals: Audited, retrained: Signals | None) -> None:
        self.audited, self.originals, self.retrained = audited, originals, retrained

    def figure(self, name: str) -> AuditValues:
        found = self.audited.found
        rows = [
            AuditRow(NAMES[group], self._groups(group), target=0.5, p=found[group].p_holm)
            for group in TESTED
            if found[group].auc is not None
        ]
        caption = (
            f"Chance that an attack ranks a forgotten sample above a never-seen one, for every model before and after "
            f"{name}, and for models that were retrained without any of them; 0.5 is chance. Bars are means, lines "
            "their 95 % intervals. The most exposed tenth are the samples that the originals of other twins show most."
        )
        return AuditValues("AUC by attack", rows, caption)

    def _groups(self, group: str) -> list[AuditGroup]:
        found: tuple[tuple[Shown, Audited], ...] = (("original", self.originals), ("unlearned", self.audited))
        told = [self._group(role, each, group) for role, each in found if each.found[group].auc is not None]
        control = None if self.retrained is None or group == EXPOSED else self._control(group)
        return told if control is None else [*told, control]

    def _group(self, role: Shown, each: Audited, group: str) -> AuditGroup:
        coins = each.coins
        if group == EXPOSED:
            aucs = auc_of_models(each.by_other_fold, coins, each.most_exposed)
        else:
            aucs = auc_of_models(each.scores([n for n in SIGNALS[group] if n in each.signals], coins), coins)
        return AuditGroup(role, _finite(aucs), each.found[group].auc_ci)

    def _control(self, group: str) -> AuditGroup | None:
        scores = self.audited.control_scores(group, self.retrained or {})
        if not len(scores):
            return None
        return AuditGroup("retrained", _finite(auc_of_models(scores, self._coins(scores))))

    def _coins(self, scores: np.ndarray) -> np.ndarray:
        return self.audited.coins[: len(scores)]


def _finite(values: np.ndarray) -> list[float]:
    return values[np.isfinite(values)].round(DIGITS).tolist()
