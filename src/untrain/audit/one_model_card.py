"""The card of one model without twins, and its verdict, which never says more than one model can tell."""

from collections.abc import Iterator, Mapping

from untrain.audit.card import NOTHING
from untrain.audit.finding import AuditVerdict, CardRow, Finding
from untrain.audit.one_model import OneModelTraces
from untrain.audit.score import CONFIDENCE
from untrain.audit.traces import INSIDE, RELEARNED, SIGNALS
from untrain.audit.verdict import BLIND, FAMILY_P, HIDDEN, ORIGINAL_P, PUSHED_AWAY, STILL_KNOWN, TRACE, WEAK

CANNOT_JUDGE = "cannot-judge"
"""The verdict where forgotten and unseen samples may differ by themselves."""
_ROWS: Mapping[str, tuple[str, str]] = {
    "confidence": ("confidence", "How often the model is surer of a forgotten sample than of an unseen one."),
    "nearby": ("confidence nearby", "The same, of copies that are moved or changed a little."),
    "refit": ("new head", "The same, by a head that is fitted to what is kept, on what the last layer is given."),
    "centre": ("angle to class", "The same, by how near a sample points to the centre of its class there."),
    "spread": ("distance to class", "The same, by how far a sample lies from the centre of its class there."),
    "relearned": ("dormant", "The same, after a little training on other data."),
}
NOT_SAYABLE = (
    "anything about one record",
    "an ε",
    "how far the model is from a retrained one",
    "that the samples are forgotten",
)
"""What one model cannot tell."""


def judge_one_model(name: str, found: OneModelTraces, original: OneModelTraces | None) -> AuditVerdict:
    """Judges a model by what was found of it and of its original.

    A difference is a finding whatever the original shows: the test is exact. Where none is seen, an original that
    shows none either means that this attack sees nothing here at all.

    Args:
        name: of the model, for the sentence.
        found: of it.
        original: of the model before; None where it was not given.
    """
    if found.p is None:
        means = ", ".join(
            f"the mean confidence on {'forgotten' if kind == 'forget' else kind} data is {value:.2f} nats"
            for kind, value in found.confidence.items()
        )
        sentence = (
            "Nothing can be judged: that forgotten and unseen data were drawn from one source at random was not said, "
            "so that a difference may be one of the data."
        )
        return AuditVerdict(CANNOT_JUDGE, None, f"{sentence} Described, {means}." if means else sentence)
    if found.p <= FAMILY_P:
        subkind = _subkind(found)
        how = {
            PUSHED_AWAY: ", and the model is less sure of forgotten data",
            STILL_KNOWN: ", and the model is surer of forgotten data",
            HIDDEN: ", from inside, or after a little training on other data",
        }.get(subkind or "", "")
        sentence = f"{name} leaves a trace: forgotten and unseen data differ (p = {found.p:.4f}){how}."
        return AuditVerdict(TRACE, subkind, sentence)
    if original is not None and original.p is not None and original.p > ORIGINAL_P:
        return AuditVerdict(
            BLIND,
            None,
            f"The audit cannot judge: even in the original, forgotten and unseen data do not differ (p = "
            f"{original.p:.2f}). The network generalises too well for this attack, or samples are too few.",
        )
    unknown = "" if original is not None else " Whether it sees anything in the original is not known."
    return AuditVerdict(
        WEAK,
        None,
        f"No difference was seen (p = {found.p:.2f}). This attack is weak: it looks at one model, and finds less than "
        f"one that learns from twins.{unknown}",
    )


def _subkind(found: OneModelTraces) -> str | None:
    seen = {name for name, trace in found.signals.items() if trace.p <= FAMILY_P}
    if seen <= {*SIGNALS[INSIDE], *SIGNALS[RELEARNED]}:
        return HIDDEN
    ci = None if found.direction is None else found.direction.ci
    if ci is None or ci[0] <= 0 <= ci[1]:
        return None
    return PUSHED_AWAY if ci[1] < 0 else STILL_KNOWN


def finding_of(name: str, found: OneModelTraces, original: OneModelTraces | None, references: int) -> Finding:
    """Returns values, verdict and card of a model.

    Args:
        name: of the model.
        found: of it.
        original: of the model before; None where it was not given.
        references: models that saw neither kind, whose mean was taken off.
    """
    lines = [f"{found.forgotten} forgotten and {found.unseen} unseen samples, {references} references"]
    if found.direction is not None:
        mean, ci = found.direction.value, found.direction.ci
        interval = "" if ci is None else f" ({ci[0]:+.2f} to {ci[1]:+.2f})"
        lines.insert(0, f"direction: {mean:+.2f} nats{interval}; above 0: still known, below: pushed away")
    lines.append(f"cannot be said from one model: {'; '.join(NOT_SAYABLE)}")
    return Finding(found, judge_one_model(name, found, original), tuple(one_model_rows(found, original)), tuple(lines))


def one_model_rows(found: OneModelTraces, original: OneModelTraces | None) -> Iterator[CardRow]:
    """Yields the rows of a model's card."""
    if found.p is None:
        for kind, value in found.confidence.items():
            before = NOTHING if original is None else f"{original.confidence[kind]:.2f} nats"
            words = "forgotten" if kind == "forget" else kind
            meaning = f"Mean confidence on {words} data; a difference may be one of the data."
            yield CardRow(f"confidence, {words}", f"{value:.2f} nats", NOTHING, NOTHING, before, meaning)
        return
    before = NOTHING if original is None or original.p is None else f"p {original.p:.4f}"
    yield CardRow(
        "forgotten and unseen differ", f"p {found.p:.4f}", NOTHING, f"above {FAMILY_P:g}", before,
        "How often chance alone differs as much, over all that is looked at.",
    )  # fmt: skip
    for name in (each for each in _ROWS if each in found.signals):
        trace, (title, meaning) = found.signals[name], _ROWS[name]
        own = None if original is None else original.signals.get(name)
        interval = f"{trace.auc_ci[0]:.3f} to {trace.auc_ci[1]:.3f}"
        before = NOTHING if own is None else f"{own.auc:.3f}"
        yield CardRow(title, f"{trace.auc:.3f}, p {trace.p:.4f}", interval, "0.500", before, meaning)
    yield from _pushed_away(found, original)


def _pushed_away(found: OneModelTraces, original: OneModelTraces | None) -> Iterator[CardRow]:
    pushed = found.pushed_away
    if pushed is None:
        return
    own = None if original is None else original.pushed_away
    yield CardRow(
        "far below the unseen",
        f"{100 * pushed.share:.1f} %",
        f"{100 * pushed.ci[0]:.1f} to {100 * pushed.ci[1]:.1f} %, approximate",
        f"{100 * pushed.expected:.1f} %",
        NOTHING if own is None else f"{100 * own.share:.1f} %",
        f"Share of forgotten samples whose {CONFIDENCE} lies below nearly all unseen ones of their class.",
    )
