"""From findings to a verdict: the first that holds, in a sentence. It never says that forgetting was proved."""

import math

from untrain.audit.finding import AuditVerdict
from untrain.audit.score import SEEN
from untrain.audit.statistics import Interval
from untrain.audit.traces import EXPOSED, INSIDE, OUTPUTS, RELEARNED, TESTED, Group, Traces

BLIND, BROKEN, TRACE, DAMAGED, WEAK, PASSED = "blind", "broken", "trace", "damaged", "weak", "passed"
PUSHED_AWAY, STILL_KNOWN, HIDDEN, UNEVEN = "pushed-away", "still-known", "hidden", "uneven"
TOLERATED_LEFT, TOLERATED_POINTS = 0.25, 1.5
"""What a passed audit must exclude: this share of the originals' advantage, and this loss of accuracy in points."""
ORIGINAL_P, CONTROL_P, FAMILY_P = 0.01, 0.005, 0.05
NOT_EXCLUDED = f"a loss of accuracy beyond {TOLERATED_POINTS} points is not excluded"


def judge_traces(method: str, found: Traces, original: Traces, twins: int) -> AuditVerdict:
    """Judges a method by what was found of it and of the originals.

    Args:
        method: its name, for the sentence.
        found: of the unlearned models.
        original: of the models before.
        twins: how many there are.
    """
    before = original.groups[OUTPUTS]
    if not was_seen(before):
        auc = "unknown" if before.auc is None else f"{before.auc:.3f}"
        return AuditVerdict(
            BLIND,
            None,
            f"The audit cannot judge: even the originals' members cannot be told apart (AUC {auc}). The network "
            "generalises too well, or there are too few twins.",
        )
    if found.control is not None and any(p <= CONTROL_P for p in found.control.p.values()):
        return AuditVerdict(
            BROKEN,
            None,
            "The audit is wrong: it finds traces in models that never saw these samples. Do not use it; report it.",
        )
    rejected = [name for name in TESTED if _is_rejected(found.groups.get(name))]
    if rejected:
        return _trace(method, found, rejected)
    return _nothing_found(found, twins)


def was_seen(group: Group) -> bool:
    """Returns whether the originals' members can be told apart."""
    return group.p is not None and group.auc_ci is not None and group.p <= ORIGINAL_P and group.auc_ci[0] > SEEN


def _is_rejected(group: Group | None) -> bool:
    return group is not None and group.p_holm is not None and group.p_holm <= FAMILY_P


def _trace(method: str, found: Traces, rejected: list[str]) -> AuditVerdict:
    subkind = _subkind(found, rejected)
    how = {
        PUSHED_AWAY: "pushed away: their confidence lies below that of samples which were never seen",
        STILL_KNOWN: "still known: their confidence lies above that of samples which were never seen",
        HIDDEN: "recognisable from inside, or after a little training on other data",
        UNEVEN: "recognisable where the originals knew them best, if not on average",
    }.get(subkind or "", "recognisable, though not by their mean confidence")
    shown = next((found.groups[name] for name in (OUTPUTS, *rejected) if found.groups[name].left is not None), None)
    share = ""
    if shown is not None and shown.left is not None and shown.left_ci is not None:
        low, high = (100 * max(0.0, end) for end in shown.left_ci)
        share = (
            f" Of the advantage that an attacker had before, {100 * max(0.0, shown.left):.0f} % ({low:.0f} to "
            f"{high:.0f} %) remains."
        )
    return AuditVerdict(TRACE, subkind, f"{method} leaves a trace: forgotten samples are {how}.{share}")


def _subkind(found: Traces, rejected: list[str]) -> str | None:
    direction = None if found.direction is None else found.direction.ci
    if direction is not None and direction[1] < 0:
        return PUSHED_AWAY
    if direction is not None and direction[0] > 0:
        return STILL_KNOWN
    if not {OUTPUTS, EXPOSED} & set(rejected) and {INSIDE, RELEARNED} & set(rejected):
        return HIDDEN
    return UNEVEN if rejected == [EXPOSED] else None


def judge_damage(test: Interval | None) -> AuditVerdict | None:
    """Judges a method that left no trace by its models' accuracy on test data, less that of retrained ones, points."""
    if test is None or test[1] >= -TOLERATED_POINTS:
        return None
    return AuditVerdict(
        DAMAGED,
        None,
        f"No trace was found, but the models are damaged: on test data they are {-test[1]:.1f} to {-test[0]:.1f} "
        "points worse than retrained ones.",
    )


def _nothing_found(found: Traces, twins: int) -> AuditVerdict:
    test = None if found.kept is None else found.kept.test.ci
    damaged = judge_damage(test)
    if damaged is not None:
        return damaged
    outputs = found.groups[OUTPUTS]
    if outputs.left is None or outputs.left_ci is None:
        return AuditVerdict(WEAK, None, "Nothing was found, but how much could have been missed is not known.")
    upper, dormant = outputs.left_ci[1], found.groups[RELEARNED].auc is None
    could_be_damaged = test is not None and test[0] < -TOLERATED_POINTS
    if upper > TOLERATED_LEFT or could_be_damaged:
        needed = needed_twins(twins, outputs.left, upper)
        missed = f"up to {100 * upper:.0f} % of an attacker's advantage could have been missed"
        if upper <= TOLERATED_LEFT:
            missed = NOT_EXCLUDED
        return AuditVerdict(WEAK, None, f"Nothing was found, but {missed}; use --twins {needed}.")
    return AuditVerdict(
        PASSED,
        None,
        f"No trace was found: with these attacks an advantage of more than {100 * max(0.0, upper):.0f} % of the "
        "originals' is excluded at 95 %. Other attacks may find more."
        + (" What lies dormant was not looked for." if dormant else ""),
    )


def needed_twins(twins: int, left: float, upper: float) -> int:
    """Computes how many twins it takes to exclude the tolerated share, as intervals shrink with their root."""
    wanted = TOLERATED_LEFT - min(left, 0.15)
    return max(twins + 1, math.ceil(twins * ((upper - left) / wanted) ** 2))
