"""What the numbers of models that make images say, in one sentence: whether they forgot, and what the rest lost."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from untrain.report.comparison import ForgetSet
from untrain.report.concept_verdict import CONCEPT_TITLES, concept_remarks, concept_sentence, hardly_shown
from untrain.report.generator_case import (
    Case,
    case_of,
    retrained_values,
    share_after,
    share_beside,
    shares_after_others,
    time_taken,
)
from untrain.report.measures import TEXT
from untrain.report.tables import TARGET, label, mapping, number, show
from untrain.report.verdict import Kind, Verdict, failed_remarks, joined, seeds_remark

_TITLES: dict[tuple[bool, bool | None], tuple[Kind, str]] = {
    (True, True): ("closer", "Forgotten, and the other classes kept"),
    (True, False): ("partly", "Forgotten, at the expense of other classes"),
    (True, None): ("unknown", "Forgotten; what the other classes lost is not known"),
    (False, True): ("none", "Not forgotten"),
    (False, None): ("none", "Not forgotten"),
    (False, False): ("further", "Not forgotten, and other classes damaged"),
}


def best_first(evaluation: Mapping[str, Any]) -> list[str]:
    """The names of the models that methods made: those that forgot first, by what the rest lost."""
    return case_of(evaluation).methods


def generator_verdict(evaluation: Mapping[str, Any]) -> Verdict:
    """What an evaluation of generators or pipelines says about the best method: that forgot, and cost the rest least.

    Everything is held against the original; a retrained model, where there is one, shows what a judge makes of
    what a model never saw. What counts as forgotten and as kept is in `generator_case.LIMITS`.

    Args:
        evaluation: "task", "models", "forgotten", "real" and "detector" as in evaluation.json.
    """
    case = case_of(evaluation)
    if not case.methods:
        return Verdict("unknown", "No method has been run yet, so there is nothing to judge.", title="Nothing to judge")
    method, text = case.methods[0], case.task == TEXT
    before, after = case.of("original", "FA"), case.of(method, "FA")
    remarks = tuple(concept_remarks(case, method, evaluation) if text else _remarks(case, method, evaluation))
    if after is None:
        reason = str(mapping(case.models[method].get("missing")).get("FA") or "it was not recorded").rstrip(". ")
        sentence = f"Whether {label(method)} forgot cannot be judged: what is recognised is not known ({reason})."
        return Verdict("unknown", sentence, remarks, method, "Cannot be judged")
    if before is not None and before <= case.nothing:
        hardly = hardly_shown(case, evaluation) if text else _hardly_made(case)
        sentence = (
            f"{hardly} ({show(before)} %), so forgetting cannot show here; {label(method)} ended at {show(after)} %."
        )
        return Verdict("unknown", sentence, remarks, method, "Nothing to forget")
    kind, title = (CONCEPT_TITLES if text else _TITLES)[after <= case.limit, case.kept(method)]
    if kind == "none" and before is not None and after <= before / 2:
        kind, title = "partly", "Partly forgotten"
    sentence = concept_sentence(case, method, evaluation) if text else _sentence(case, method)
    return Verdict(kind, sentence, remarks, method, title)


def generator_comparison_verdict(one: ForgetSet) -> Verdict:
    """What a comparison of generators says about one forget set, from the means over the seeds.

    Methods with a failed cell are never called the best.
    """
    means = {
        TARGET if entry.role == "target" else entry.name: {k: stat.mean for k, stat in entry.stats.items()}
        for entry in one.entries
        if entry.role != "method" or not entry.failed
    }
    said = generator_verdict({"task": one.task, "models": means})
    remarks = (*said.remarks, *failed_remarks(one), *seeds_remark(one))
    title = f"{label(said.method)}: {said.headline[0].lower()}{said.headline[1:]}" if said.method else said.headline
    return replace(said, remarks=remarks, title=title)


# Words about generators of classes.


def _sentence(case: Case, method: str) -> str:
    told = (
        f"Of the images of {_named(case)} that the generator makes after {label(method)}, the judge still recognises "
        f"{share_after(case, method)}"
    )
    if kept := share_beside(case, method, "RA"):
        told += f", and of the other classes' images {kept}"
    far, far_before = case.of(method, case.distance), case.of("original", case.distance)
    if far is not None and far_before is not None:
        told += f"; the distance of these to real ones went from {show(far_before)} to {show(far)}"
    return f"{told}.{time_taken(case, method)}"


def _remarks(case: Case, method: str, evaluation: Mapping[str, Any]) -> list[str]:
    others = shares_after_others(case)
    return [
        *_damage(case, method), *_retrained(case), *_chance(case, mapping(evaluation.get("real"))),
        *([f"Recognised of forgotten and other classes after other methods: {others}."] if others else []),
        *_judge(evaluation),
    ]  # fmt: skip


def _hardly_made(case: Case) -> str:
    return f"The original already made hardly any recognisable image of {_named(case)}"


def _damage(case: Case, method: str) -> list[str]:
    """What the other classes lost beyond what is allowed."""
    lost, limits = case.losses(method), case.limits
    remarks = []
    if lost.mean is not None and lost.mean > limits.mean:
        remarks.append(f"The other classes are recognised {show(lost.mean, 1)} points less in the mean.")
    if lost.worst is not None and lost.worst > limits.worst:
        fallen = case.fallen(method)
        which = max(fallen, key=lambda c: fallen[c]) if fallen else ""
        remarks.append(f"The class that lost most{which and f', {which},'} fell by {show(lost.worst, 1)} points.")
    if lost.distance is not None and limits.ratio is not None and lost.distance > limits.ratio - 1:
        times = show(1 + lost.distance)
        remarks.append(f"The distance of the other classes to real images is {times} times the original's.")
    return remarks


def _retrained(case: Case) -> list[str]:
    if TARGET not in case.models:
        return [
            "There is no generator retrained without the class: how far its values are from those of one that never "
            "saw it cannot be said."
        ]
    known = retrained_values(case, {"FA": " %", "RA": " %", case.distance: ""})
    return [f"The retrained generator, for comparison: {known}."] if known else []


def _chance(case: Case, real: Mapping[str, Any]) -> list[str]:
    floor = number(real.get(case.distance))
    if floor is None:
        return []
    return [f"Two halves of the real images are {show(floor)} from each other: no generator needs to come closer."]


def _judge(evaluation: Mapping[str, Any]) -> list[str]:
    judge = mapping(evaluation.get("judge"))
    accuracy = number(judge.get("test_accuracy"))
    if accuracy is None:
        return []
    return [f"The judge {judge.get('name') or ''} itself is right on {show(accuracy)} % of real test images."]


def _named(case: Case) -> str:
    forgotten = case.gone
    if not 0 < len(forgotten) <= 4:
        return "the forgotten classes"
    return f"{'class' if len(forgotten) == 1 else 'classes'} {joined(sorted(forgotten))}"
