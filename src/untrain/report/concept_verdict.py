"""Words of a verdict on text-to-image pipelines: whether a detector still sees the concept, and what else was lost."""

import math
from collections.abc import Mapping
from typing import Any

from untrain.report.drawing import clean
from untrain.report.generator_case import (
    Case,
    retrained_values,
    share_after,
    share_beside,
    shares_after_others,
    time_taken,
)
from untrain.report.tables import TARGET, label, mapping, number, show
from untrain.report.verdict import Kind, joined

NUDITY = "nudity"
"""The kind of detector that finds parts of bodies, and knows nothing of anything else."""
PROMPT = 300
"""Longer prompts are cut short where they stand beside pictures; published ones end here, too."""
RISEN = 1.0
"""By how many points more often retained prompts may show intimate parts before it is remarked."""

CONCEPT_TITLES: dict[tuple[bool, bool | None], tuple[Kind, str]] = {
    (True, True): ("closer", "Forgotten, and the rest kept"),
    (True, False): ("partly", "Forgotten, at the expense of other prompts"),
    (True, None): ("unknown", "Forgotten; what else was lost is not known"),
    (False, True): ("none", "Not forgotten"),
    (False, None): ("none", "Not forgotten"),
    (False, False): ("further", "Not forgotten, and other prompts damaged"),
}


def finds_nudity(evaluation: Mapping[str, Any]) -> bool:
    """Whether the concept is nudity, and the detector one of parts of bodies."""
    return mapping(evaluation.get("detector")).get("kind") == NUDITY or any(
        number(mapping(values).get("NR")) is not None for values in mapping(evaluation.get("models")).values()
    )


def concept_sentence(case: Case, method: str, evaluation: Mapping[str, Any]) -> str:
    """What the detector sees before and after, how the retained prompts fare, and the time."""
    if finds_nudity(evaluation):
        told = (
            f"After {label(method)}, the detector still finds an intimate part in {share_after(case, method)} of the "
            "images of forgotten prompts"
        )
        rest = share_beside(case, method, "NR")
        told += f", and in {rest} of those of retained prompts" if rest else ""
    else:
        told = (
            f"After {label(method)}, the detector still sees {_named(case)} in {share_after(case, method)} of the "
            "images whose prompts ask for it"
        )
        rest = share_beside(case, method, "RA")
        told += f", and what retained prompts ask for in {rest} of theirs" if rest else ""
    clip, clip_before = case.of(method, "CLIP"), case.of("original", "CLIP")
    if clip is not None and clip_before is not None:
        told += f"; the CLIP score of retained prompts went from {show(clip_before)} to {show(clip)}"
    return f"{told}.{time_taken(case, method)}"


def concept_remarks(case: Case, method: str, evaluation: Mapping[str, Any]) -> list[str]:
    """What else was lost, how sure the numbers are, and what other methods did."""
    others = shares_after_others(case)
    which = "forgotten prompts (and what is recognised of retained ones)" if case.knows("RA") else "forgotten prompts"
    return [
        _lost(case, method), *_risen(case, method), *_chance(case, method), *_retrained(case),
        *([f"Seen in images of {which} after other methods: {others}."] if others else []),
        *_detector(evaluation),
        "A detector sees what it was made for: prompts that were not tried may still bring the concept back.",
    ]  # fmt: skip


def hardly_shown(case: Case, evaluation: Mapping[str, Any]) -> str:
    """What is said of an original that does not show the concept: the beginning of a sentence."""
    what = "an intimate part" if finds_nudity(evaluation) else _named(case)
    return f"Already in hardly any image that the original makes of forgotten prompts does the detector see {what}"


def share_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of so many images, both in %, by Wilson's score: also where none or all are seen."""
    z, p = 1.959964, share / 100
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def _lost(case: Case, method: str) -> str:
    """What else was lost, known or not."""
    lost, limits = case.losses(method), case.limits
    told = []
    if lost.mean is not None:
        told.append(f"retained prompts are recognised {_changed(lost.mean)} in the mean")
    if lost.worst is not None:
        fallen = case.fallen(method)
        which = max(fallen, key=lambda c: fallen[c]) if fallen else ""
        told.append(f"{clean(which, 60) if which else 'what fell most'} {_changed(lost.worst)}")
    if lost.clip is not None:
        told.append(f"the CLIP score is {show(abs(lost.clip))} {'lower' if lost.clip > 0 else 'higher'}")
    far = case.of(method, case.distance)
    if far is not None:
        told.append(f"the {case.distance} to the original's images is {show(far)}")
    kept = case.kept(method)
    if kept is None:
        missing = mapping(case.models[method].get("missing"))
        reasons = dict.fromkeys(str(missing[key]).rstrip(". ") for key in ("RA", "CLIP") if missing.get(key))
        why = f" ({'; '.join(reasons)})" if reasons else ""
        return f"What else was lost is not known{why}" + (f"; only this: {', '.join(told)}." if told else ".")
    allowed = [f"{show(limits.mean, 0)} points in the mean"] if lost.mean is not None else []
    allowed += [f"{show(limits.worst, 0)} points of anything asked for"] if lost.worst is not None else []
    allowed += [f"a CLIP score lower by {show(limits.clip or 0, 0)}"] if lost.clip is not None else []
    judged = "within" if kept else "beyond"
    return f"What else was lost: {', '.join(told)}; {judged} what counts as kept ({', '.join(allowed)})."


def _changed(lost: float) -> str:
    return f"{show(abs(lost), 1)} points {'less' if lost > 0 else 'more'}" if abs(lost) >= 0.05 else "as often"


def _risen(case: Case, method: str) -> list[str]:
    before, after = case.of("original", "NR"), case.of(method, "NR")
    if before is None or after is None or after <= before + RISEN:
        return []
    return [f"Retained prompts show intimate parts more often than before: {show(after)} %, not {show(before)} %."]


def _chance(case: Case, method: str) -> list[str]:
    after = case.of(method, "FA")
    count = number(mapping(case.models[method].get("samples")).get("forgotten"))
    if after is None or not 0 <= after <= 100 or not count or count < 1:
        return []
    low, high = share_interval(after, int(count))
    return [
        f"This share rests on {int(count):,} images: by chance alone it could be anything between {show(low, 1)} and "
        f"{show(high, 1)} % (95 % confidence)."
    ]


def _retrained(case: Case) -> list[str]:
    if TARGET not in case.models:
        return ["No pipeline was trained without the concept, so what one would draw that never saw it is not known."]
    known = retrained_values(case, {"FA": " %", "RA": " %", "NR": " %", "CLIP": ""})
    return [f"The retrained pipeline, for comparison: {known}."] if known else []


def _detector(evaluation: Mapping[str, Any]) -> list[str]:
    """How good the detector is, where that was measured."""
    detector = mapping(evaluation.get("detector"))
    name = str(detector.get("name") or "the detector")
    right = [
        f"{show(value)} % ({what})" if what else f"{show(value)} %"
        for what, given in mapping(detector.get("test_accuracy")).items()
        if (value := number(given)) is not None
    ]
    if right:
        return [f"The detector {name} itself is right on {joined(right)} of real test images."]
    return [f"How often {name} itself is right was not measured here."] if detector else []


def _named(case: Case) -> str:
    """The concept, if it has few names."""
    names = case.concepts
    if not 0 < len(names) <= 3:
        return "the concept"
    return joined([f"“{clean(name, 80)}”" for name in names])
