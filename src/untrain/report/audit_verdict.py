"""What a verdict by averages says beside an audit: never more than the audit does."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from untrain.report.audited import AuditedMethod
from untrain.report.results import ForgetSet, Results
from untrain.report.verdict import Verdict
from untrain.report.words import join_words, uncapitalize

if TYPE_CHECKING:
    from untrain.report.presentation import Presentation

DOUBTS = ("trace", "broken", "recoverable")
"""Kinds of verdicts beside which no average is shown as a success."""


def audited_methods(one: ForgetSet, results: Results) -> Sequence[AuditedMethod]:
    """Returns what audits say of the methods on a forget set; none where there is no audit."""
    if results.compared:
        return tuple(one.audits.values())
    return () if results.audit is None else results.audit.methods


def add_audit(said: Verdict, one: ForgetSet, results: Results, presentation: "Presentation") -> Verdict:
    """Adds to a verdict what the audit found: in its headline of the method that it is about, else among its remarks.

    Args:
        said: the verdict by averages.
        one: the forget set.
        results: those that it belongs to.
        presentation: of the task, which says what an audit would show where there is none.
    """
    audited = audited_methods(one, results)
    remarks = [f"Audit of {method.label}: {method.sentence}" for method in audited]
    if results.compared and audited:
        remarks = [_side_by_side(audited)]
    if not audited and results.measured:
        remarks = [_without(results, presentation)]
    about = said.method or (one.methods[0].name if len(one.methods) == 1 else None)
    mine = next((method for method in audited if method.name == about), None)
    said = replace(said, remarks=(*said.remarks, *remarks))
    if mine is None:
        return said
    title = f"{said.headline}; audit: {uncapitalize(mine.headline)}"
    doubtful = mine.kind in DOUBTS and said.kind in ("within", "closer")
    return replace(said, title=title, kind="partly" if doubtful else said.kind)


def _side_by_side(audited: Sequence[AuditedMethod]) -> str:
    """Names the verdicts of many methods in a sentence."""
    by_verdict: dict[str, list[str]] = {}
    for method in audited:
        by_verdict.setdefault(uncapitalize(method.headline), []).append(method.label)
    return f"By the audit, {'; '.join(f'{words}: {join_words(names)}' for words, names in by_verdict.items())}."


def _without(results: Results, presentation: "Presentation") -> str:
    """Says that averages alone were measured, and how to audit."""
    audit = results.audit
    if audit is not None:
        return audit.stale or audit.unfinished
    told = "Averages alone were measured"
    if not presentation.audited:
        return f"{told}."
    how = "`compare.audit` in the recipe" if results.compared else "`untrain audit FOLDER`"
    return f"{told}: {presentation.audited} is what {how} shows."
