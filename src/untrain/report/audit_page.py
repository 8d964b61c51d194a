"""The audit as readers see it: a section of the run's report, and a page of its own."""

from collections.abc import Iterator
from typing import Any

from untrain.report.audit_drawing import draw_figure
from untrain.report.audit_file import AUDIT, AUDIT_PAGE, AuditReport
from untrain.report.audited import AuditedMethod
from untrain.report.html import render
from untrain.report.sections import Part, Section, make_section
from untrain.report.verdict import Kind, Verdict
from untrain.report.words import flatten, show_duration

TONES: dict[str, Kind] = {
    "passed": "within", "weak": "none", "damaged": "none", "trace": "further", "broken": "further"
}  # fmt: skip
"""Kind of a verdict → the tone in which the page shows it; others are shown in none."""
LEDE = (
    "Averages cannot show what single samples left behind, so an audit attacks the models: is anything of what was "
    "forgotten still to be found in them?"
)
NO_PROOF = (
    "That nothing is left. An audit finds traces and never shows their absence: a passed one says that these attacks, "
    "with this power, found nothing."
)
ABOUT_TWINS = (
    "What this one model holds. Models that were made for the audit were attacked: it speaks of the method on these "
    "data with this network, and of no single record."
)
FACTS = {
    "design": "design",
    "seed": "seed",
    "twins": "models made for the audit",
    "references": "models retrained without what was forgotten",
    "coins_sha256": "hash of the coins, drawn before anything was trained",
    "pool.size": "samples that coins decide on",
    "pool.forget": "of these, asked to be forgotten by the run",
    "pool.matched": "of these, retained by the run",
    "pool.hash": "hash of these samples",
    "base.size": "samples that all models keep",
    "train_size.run": "training samples of the run",
    "train_size.twins": "training samples of the audit's models",
    "detectable_auc": "smallest AUC found in four of five audits",
    "tolerance.left": "share of an advantage that a passed audit excludes",
    "tolerance.points": "loss of accuracy that a passed audit excludes, in points",
    "redraws": "redrawn coins for a p",
    "untrain": "made by untrain",
    "fingerprint": "fingerprint of all that it is made from",
}
"""Facts of audit.json, flattened → what a reader is told they are; others stand under their names."""
HIDDEN = ("version", "how", "run")


def show_audit(audit: AuditReport | None) -> Section | None:
    """The audit in a run's report: verdict and card of each method, and the link to its page; nothing without one."""
    if audit is None:
        return None
    missing = [text for text in (audit.stale, audit.unfinished) if text]
    parts = [{"method": m, "verdict": as_verdict(m), "remarks": m.remarks} for m in audit.methods]
    link = f"./{AUDIT}/{AUDIT_PAGE}" if audit.methods else ""
    html = render("audit.html.j2", lede=LEDE, missing=missing, parts=parts, link=link)
    return Section("audit", "Audit", html)


def as_verdict(method: AuditedMethod) -> Verdict:
    """Returns an audit's verdict as a page shows verdicts."""
    return Verdict(TONES.get(method.kind, "unknown"), method.sentence, title=method.headline)


def render_audit(audit: AuditReport, subject: str) -> str:
    """Renders the page of an audit as HTML.

    Args:
        audit: what is shown.
        subject: what was audited, in a few words.
    """
    return render(
        "page.html.j2", kind="Audit of unlearning", subject=subject, asked=_asked(audit),
        sections=[*_sections(audit)], version=audit.facts.get("untrain"),
    )  # fmt: skip


def _asked(audit: AuditReport) -> list[str]:
    how = audit.facts.get("how")
    return [LEDE, *([how] if isinstance(how, str) else [])]


def _sections(audit: AuditReport) -> Iterator[Section]:
    yield _verdicts(audit)
    yield Section("limits", "What this does not show", render("limits.html.j2", limits=_limits(audit)))
    if audit.methods:
        lede = "What was found, beside what a model without a trace would have and what the models had before."
        yield Section("card", "Card", render("audit_cards.html.j2", lede=lede, methods=audit.methods))
    yield from _drawn(audit)
    yield _facts(audit)


def _verdicts(audit: AuditReport) -> Section:
    missing = [text for text in (audit.stale, audit.unfinished) if text]
    if missing:
        said = Verdict("unknown", " ".join(missing), title="Out of date" if audit.stale else "Not finished")
        parts = [{"heading": "", "verdict": said, "remarks": (), "tiles": []}]
    else:
        several = len(audit.methods) > 1
        parts = [
            {"heading": m.label if several else "", "verdict": as_verdict(m), "remarks": m.remarks, "tiles": []}
            for m in audit.methods
        ]
    return Section("verdict", "Verdict", render("verdicts.html.j2", parts=parts))


def _limits(audit: AuditReport) -> list[str]:
    tried = [f"Not tried: {text}." for text in audit.not_tried]
    return [NO_PROOF, ABOUT_TWINS, *tried]


def _drawn(audit: AuditReport) -> Iterator[Section]:
    """Yields a section for each figure, method by method."""
    titles = {name: figure.title for method in audit.methods for name, figure in method.figures.items()}
    for place, (name, title) in enumerate(titles.items()):
        parts = []
        for number, method in enumerate(audit.methods):
            if name in method.figures:
                drawn, missing = draw_figure(f"figure-{place}-{number}", method.figures[name], audit.folder)
                told = [missing] if missing else []
                heading = method.label if len(audit.methods) > 1 else ""
                parts.append(Part(told, [drawn] if drawn else [], heading=heading))
        yield make_section(f"figure-{place}", title, "", *parts)


def _facts(audit: AuditReport) -> Section:
    facts = {key: value for key, value in audit.facts.items() if key not in HIDDEN}
    seconds = facts.pop("seconds", None)
    rows = [(FACTS.get(name, name), value) for name, value in flatten(facts)]
    rows += [("time of all models, on one processor", show_duration(seconds))] if _is_number(seconds) else []
    lede = "What decides every number of this page; who has the same data and program gets the same again."
    html = render("audit_facts.html.j2", lede=lede, rows=rows, notes=audit.notes)
    return Section("facts", "How it was made", html)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
