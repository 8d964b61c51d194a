"""The card of an audit: one row a question, with its value, interval, target and the original's value beside it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from untrain.audit.finding import CardRow
from untrain.audit.statistics import Interval, detectable_auc
from untrain.audit.traces import EXPOSED, INSIDE, OUTPUTS, RELEARNED, Mean, Traces
from untrain.audit.verdict import CONTROL_P, was_seen

NOTHING = "–"
"""In place of a value that there is not."""

MEANINGS = {
    OUTPUTS: "Chance that an attack ranks a forgotten sample above one that the model never saw; half is guessing.",
    EXPOSED: "The same chance for the samples that the originals give away most: averages hide a few such.",
    RELEARNED: "The same chance after a little training on other data, which wakes what only seems forgotten.",
    INSIDE: "The same chance for an attacker who sees the network's features, not its answers alone.",
}
"""Group → what its AUC means, in one sentence."""


def card_rows(found: Traces, original: Traces) -> Iterator[CardRow]:
    """Yields the rows of a method's card.

    Args:
        found: of the method.
        original: of the originals.
    """
    yield _control(found, original)
    yield _group("told apart", OUTPUTS, found, original)
    yield _hits(found, original)
    yield _group("most exposed tenth", EXPOSED, found, original)
    yield _group("dormant", RELEARNED, found, original)
    yield _group("inside", INSIDE, found, original)
    yield _epsilon(found, original)
    yield from _kept(found, original)
    yield from _this_model(found, original)
    yield from _planted(found, original)


def _control(found: Traces, original: Traces) -> CardRow:
    seen = "original seen" if was_seen(original.groups[OUTPUTS]) else "original not seen"
    control = "no retrained model"
    if found.control is not None:
        clean = all(p > CONTROL_P for p in found.control.p.values())
        control = "retrained not seen" if clean else "retrained seen"
    meaning = "Whether the audit works here: it must see the originals, and nothing in retrained models."
    return CardRow("control", f"{seen}, {control}", NOTHING, "original seen, retrained not seen", NOTHING, meaning)


def _group(name: str, key: str, found: Traces, original: Traces) -> CardRow:
    group, before, meaning = found.groups[key], original.groups[key], MEANINGS[key]
    if group.auc is None:
        return CardRow(name, NOTHING, group.missing or NOTHING, "0.500", _number(before.auc), meaning)
    left = "" if group.left is None else f", {100 * max(0.0, group.left):.0f} % left"
    p = "" if group.p_holm is None else f", p {group.p_holm:.3f}"
    return CardRow(name, f"{group.auc:.3f}{left}{p}", _interval(group.auc_ci), "0.500", _number(before.auc), meaning)


def _hits(found: Traces, original: Traces) -> CardRow:
    name = "at 1 % false alarms"
    meaning = "Share of forgotten samples that an attack finds while it accuses one in a hundred never-seen ones."
    if not found.tpr:
        return CardRow(name, NOTHING, "too few never-seen samples", "1.0 %", NOTHING, meaning)
    hits = found.tpr[0]
    low, high = hits.tpr_ci
    before = f"{100 * original.tpr[0].tpr:.1f} %" if original.tpr else NOTHING
    value = f"{100 * hits.tpr:.1f} % at {100 * hits.fpr_realised:.1f} %"
    return CardRow(name, value, f"{100 * low:.1f} to {100 * high:.1f} %, approximate", "1.0 %", before, meaning)


def _epsilon(found: Traces, original: Traces) -> CardRow:
    values = [NOTHING if each.epsilon is None else f"{each.epsilon.lower:.2f}" for each in (found, original)]
    meaning = "Any promise of forgetting with a smaller ε is refuted, with 95 % confidence."
    return CardRow("ε at least", values[0], NOTHING, "0", values[1], meaning)


def _kept(found: Traces, original: Traces) -> Iterator[CardRow]:
    names: Mapping[str, Callable[[Traces], Mean | None]] = {
        "kept data": lambda each: each.kept.base if each.kept else None,
        "test data": lambda each: each.kept.test if each.kept else None,
        "never-seen data": lambda each: each.kept.never_seen if each.kept else None,
    }
    for name, get in names.items():
        yield kept_row(name, get(found), get(original))


def kept_row(name: str, mean: Mean | None, before: Mean | None) -> CardRow:
    """Returns the row of an accuracy less that of retrained models.

    Args:
        name: of the data.
        mean: of a method's models.
        before: of the originals.
    """
    value = NOTHING if mean is None else f"{mean.value:+.1f} points"
    ci = NOTHING if mean is None or mean.ci is None else f"{mean.ci[0]:+.1f} to {mean.ci[1]:+.1f}"
    meaning = f"Accuracy on {name}, less that of models which were trained without the forgotten samples."
    return CardRow(name, value, ci, "0", NOTHING if before is None else f"{before.value:+.1f} points", meaning)


def _this_model(found: Traces, original: Traces) -> Iterator[CardRow]:
    mine, before = found.this_model, original.this_model
    if mine is not None:
        value = f"{mine.auc:.3f}, p {mine.p:.4f}"
        meaning = (
            f"The same for the run's own model: {mine.forgotten} forgotten samples against {mine.unseen} that were "
            "kept back."
        )
        shown = NOTHING if before is None else f"{before.auc:.3f}"
        yield CardRow("this model", value, _interval(mine.auc_ci), "0.500", shown, meaning)


def _planted(found: Traces, original: Traces) -> Iterator[CardRow]:
    noise, before = found.planted, original.planted
    if noise is None:
        return
    name, meaning = "planted noise", "How far gradients remember noise that was planted in forgotten images."
    shown = NOTHING if before is None else f"{before.mean:+.2f} deviations"
    if not noise.shown:
        yield CardRow(name, "cannot show", "the originals do not remember it", "0", shown, meaning)
        return
    interval = f"{noise.ci[0]:+.2f} to {noise.ci[1]:+.2f}"
    yield CardRow(name, f"{noise.mean:+.2f} deviations, p {noise.p:.4f}", interval, "0", shown, meaning)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _interval(ci: Interval | None) -> str:
    return NOTHING if ci is None else f"{ci[0]:.3f} to {ci[1]:.3f}"


def direction_of(found: Traces) -> str:
    """Says whether forgotten samples are more or less certain than never-seen ones."""
    if found.direction is None:
        return ""
    mean, ci = found.direction.value, found.direction.ci
    interval = "" if ci is None else f" ({ci[0]:+.2f} to {ci[1]:+.2f})"
    return f"direction: {mean:+.2f} nats{interval}; above 0: still known, below: pushed away"


def lines_below(found: Traces, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the lines under the card: direction, and what was looked at with how sharp an eye."""
    sizes = f"{facts['twins']} twins, {facts['pool']['size']} samples, {facts['references']} retrained models"
    size = detectable_auc(facts["twins"], facts["pool"]["size"])
    lines = (direction_of(found), f"{sizes}; an AUC of {size:.3f} would have been found")
    return tuple(line for line in lines if line)
