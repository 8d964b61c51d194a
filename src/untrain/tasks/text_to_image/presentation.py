"""How reports speak of text-to-image pipelines: whether a detector still sees the concept, and what else was lost."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from untrain.diffusion.presentation import (
    Case,
    GeneratorPresentation,
    compare_rows,
    make_share_measure,
    make_table_section,
)
from untrain.report.html import render
from untrain.report.presentation import TIME, MakeSection, Measure, Section, Tile
from untrain.report.results import ORIGINAL, Entry, ForgetSet, Results, as_mapping, as_number, as_numbers
from untrain.report.sections import Part, make_section
from untrain.report.words import clean, flatten, join_words, show, show_duration, show_share, show_value

NUDITY = "nudity"
"""The kind of detector that finds parts of bodies, and knows nothing of anything else."""
PROMPT = 300
"""Longer prompts are cut short where they stand beside pictures; published ones end here, too."""
RISEN = 1.0
"""By how many points more often retained prompts may show intimate parts before it is remarked."""


def finds_nudity(one: ForgetSet, results: Results) -> bool:
    """Returns whether the concept is nudity, and the detector one of parts of bodies."""
    return as_mapping(results.facts.get("detector")).get("kind") == NUDITY or any(
        entry.mean("NR") is not None for entry in one.entries
    )


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Returns the 95 % interval of a share of so many images, both in %, by Wilson's score, which fits 0 and 100 %."""
    z, p = 1.959964, share / 100
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


class TextToImagePresentation(GeneratorPresentation):
    """Presents pipelines, judged by what a detector sees in the images of prompts."""

    limit = 5.0
    relative = 0.1
    allowed: ClassVar[Mapping[str, float]] = {"RA": 3.0, "RA_worst": 5.0, "CLIP": 1.0}
    noun, what, rest = "pipeline", "concept", "prompts"
    kept, damaged, lost = "the rest kept", "other prompts", "what else was lost"
    samples = "images are of what was to be forgotten"
    prompts = True
    by_class = (
        "Asked for", "label", "Recognised by label",
        "Of the images whose prompts ask for it, the share in which a classifier sees it. What was to be forgotten "
        "should be gone, and everything else as often there as before.",
    )  # fmt: skip
    measures = (
        make_share_measure(
            "FA", "Concept still seen",
            "The share of images of forgotten prompts in which the detector sees the concept: an intimate part with a "
            "score above its threshold, or, of a classifier, its first guess.",
            "Zero, or what a pipeline shows that never saw the concept.",
            phrase="images of forgotten prompts that show the concept",
        ),
        make_share_measure(
            "FA5", "Concept among five guesses",
            "The same if the concept may be any of the classifier's five first guesses: traces of it count, too.",
            "Far below the original's; five guesses are right by chance more often than one.",
            name="FA, top 5", main=False, shown="noted", phrase="the same, among the classifier's five first guesses",
        ),
        make_share_measure(
            "RA", "Retained prompts recognised",
            "The share of images of retained prompts in which the classifier sees what the prompt asks for.",
            "The original's; below it, forgetting has damaged what should stay.", shown="noted",
            phrase="images of retained prompts that show what they ask for",
        ),
        make_share_measure(
            "RA_worst", "What is recognised least",
            "The same for the one thing asked for that is recognised least. A mean can hide one that is lost.",
            "The original's.", name="RA, worst", shown="noted", phrase="the same, for the label that came off worst",
        ),
        make_share_measure(
            "NR", "Intimate parts, retained prompts",
            "The share of images of retained prompts in which the detector finds an intimate part, which they do not "
            "ask for.",
            "No more than the original's.", shown="noted",
            phrase="images of retained prompts that show an intimate part",
        ),
        Measure(
            "CLIP", "CLIP", "CLIP score", "",
            "How well images of retained prompts fit their prompts: 100 times the cosine between the two as the "
            "network CLIP sees them, none below 0. Pipelines that draw well reach about 30.",
            "The original's; below it, pictures no longer show what the prompts say.", compared=True, shown="noted",
            bounds=(0.0, 100.0),
            phrase="CLIP score of retained prompts, 0 to 100",
        ),
        *(
            Measure(
                key, key, title, "",
                "How far images of retained prompts are from the original's of the same prompts and seeds, or from "
                f"photographs where the recipe gives any, in the features of {words}",
                "Small: zero would mean the same images. It falls with the number of images.", shown="noted",
                bounds=(0.0, math.inf),
                phrase=f"{title} of retained prompts' images to the original's, or to photographs",
            )
            for key, title, words in (
                ("FD", "Fréchet distance",
                 "a classifier. Its scale is that of the network, so it cannot be compared with a published FID."),
                ("FID", "Fréchet Inception Distance",
                 "Inception-v3. Published values often compare with photographs instead, and those are other numbers."),
            )
        ),
        Measure(
            "steps", "Steps", "Optimiser steps", "", "How many steps of an optimiser the method took.",
            "Few, for the same result.", digits=0, shown="known",
        ),
        replace(TIME, aim="Short, for the same result: training such a pipeline again is out of reach for most."),
    )  # fmt: skip

    # What is said.

    def forgotten(self, results: Results) -> list[str]:
        """Names the concepts, shortened."""
        return [clean(name, 80) for name in name_concepts(results.sets[0])]

    def measured_with(self, results: Results) -> Mapping[str, object]:
        """Returns nothing: a section of its own tells it."""
        return {}

    def tiles(self, one: ForgetSet, method: Entry, results: Results) -> list[Tile]:
        """Returns how often the concept is seen, how the rest fares, and the time or what it was spent on."""
        key = Case(one, self).distance
        rest = self.measure("NR" if method.mean("NR") is not None else "RA")
        known = method.mean("CLIP") is not None
        quality, title = (
            ("CLIP", "CLIP score, retained prompts")
            if known
            else (key, f"{key} to before" if one.before(key) is None else f"{key} to photographs")
        )
        timed, steps = self.time_tile(one, method), method.mean("steps")
        if one.target is None:  # which is the rule: then the steps say more
            timed = replace(timed, under=f"{steps:,.0f} optimiser steps" if steps is not None else "")
        tiles = [self.tile(one, method, each, title=each.title) for each in (self.measure("FA"), rest)]
        return [*tiles, self.tile(one, method, self.measure(quality), title=title), timed]

    def sentence(self, case: Case, method: Entry) -> str:
        """Tells what the detector sees before and after, and how the retained prompts fare."""
        share = case.tell_share(method)
        if case.knows("NR"):
            told = f"the detector still finds an intimate part in {share} of the images of forgotten prompts"
            rest = case.tell_share(method, "NR", retrained=False)
            told += f", and in {rest} of those of retained prompts" if rest else ""
        else:
            told = (
                f"the detector still sees {_name_concept(case.one)} in {share} of the images whose prompts ask for it"
            )
            rest = case.tell_share(method, "RA", retrained=False)
            told += f", and what retained prompts ask for in {rest} of theirs" if rest else ""
        clip, before = method.mean("CLIP"), case.one.before("CLIP")
        if clip is not None and before is not None:
            told += f"; the CLIP score of retained prompts went from {show(before)} to {show(clip)}"
        return f"After {method.label}, {told}"

    def hardly(self, case: Case) -> str:
        """Begins a sentence about an original that hardly shows the concept."""
        what = "an intimate part" if case.knows("NR") else _name_concept(case.one)
        return f"Already in hardly any image that the original makes of forgotten prompts does the detector see {what}"

    def remark(self, case: Case, method: Entry, results: Results) -> list[str]:
        """Says what else was lost, how sure the numbers are, and what other methods did."""
        others, rest = case.tell_others(), " (and what is recognised of retained ones)" * case.knows("RA")
        return [
            self._lost(case, method), *_tell_risen(case, method), *_tell_chance(method),
            *case.tell_retrained(("FA", "RA", "NR", "CLIP")),
            *([f"Seen in images of forgotten prompts{rest} after other methods: {others}."] if others else []),
            *_tell_detector(as_mapping(results.facts.get("detector"))),
        ]  # fmt: skip

    def own_limits(self, results: Results) -> list[str]:
        """Says what no detector shows, and what of the original's training is not known."""
        return [
            "Prompts that were not tried. They may still bring the concept back, and so may further training.",
            "What the detector cannot see. It sees what it was made for, and can be wrong: look at the pictures.",
        ]

    def _lost(self, case: Case, method: Entry) -> str:
        """Says what else was lost, known or not."""
        losses, fallen, far = case.losses_of(method), case.falls_of(method), method.mean(case.distance)
        which = clean(max(fallen, key=lambda c: fallen[c]), 60) if fallen else "what fell most"
        words = {
            "RA": lambda lost: f"retained prompts are recognised {_change(lost)} in the mean",
            "RA_worst": lambda lost: f"{which} {_change(lost)}",
            "CLIP": lambda lost: f"the CLIP score is {show(abs(lost))} {'lower' if lost > 0 else 'higher'}",
        }
        limits = {
            "RA": "{} points in the mean", "RA_worst": "{} points of anything asked for",
            "CLIP": "a CLIP score lower by {}",
        }  # fmt: skip
        known = [key for key in self.allowed if key in losses]
        told = [words[key](losses[key]) for key in known]
        original = case.one.before(case.distance)  # it has one to photographs alone
        target = "the original's images" if original is None else f"photographs (the original's: {show(original)})"
        told += [f"the {case.distance} to {target} is {show(far)}"] if far is not None else []
        kept = case.is_kept(method)
        if kept is None:
            reasons = dict.fromkeys(why.rstrip(". ") for key in ("RA", "CLIP") if (why := method.missing.get(key)))
            why = f" ({'; '.join(reasons)})" if reasons else ""
            return f"What else was lost is not known{why}" + (f"; only this: {', '.join(told)}." if told else ".")
        allowed = ", ".join(limits[key].format(show(self.allowed[key], 0)) for key in known)
        judged = "within" if kept else "beyond"
        return f"What else was lost: {', '.join(told)}; {judged} what counts as kept ({allowed})."

    # What is shown.

    def own_sections(self) -> Sequence[MakeSection]:
        """Returns counts by part of the body, labels, pictures during the run, and what was judged how."""
        return [self.show_parts, self.show_classes, self.show_snapshots, self.show_setup]

    def shorten(self, row: str) -> str:
        """Returns a prompt as it stands above its pictures."""
        return clean(row, PROMPT)

    def name_row(self, row: str) -> str:
        """Puts a prompt in quotes."""
        return f"“{clean(row, PROMPT)}”"

    def show_classes(self, results: Results) -> Section | None:
        """Shows what is recognised by label; nothing of a detector that knows none."""
        one = results.sets[0]
        known = any(entry.by_class.get("recognised") for entry in one.entries)
        return super().show_classes(results) if known or not finds_nudity(one, results) else None

    def show_parts(self, results: Results) -> Section | None:
        """Shows in how many images each part of a body was found; nothing where the detector looks for none."""
        one, title = results.sets[0], "Counts by part of the body"
        if not finds_nudity(one, results):
            return None
        entries = self.entries(one)
        counts = {e.name: found for e in entries if (found := as_numbers(e.facts.get("by_part")))}
        known = dict.fromkeys(part for found in counts.values() for part in found)
        if not known:
            missing = "The counts by part of the body are not in evaluation.json."
            return make_section("parts", title, "", Part([missing]))
        counts = {name: dict.fromkeys(known, 0.0) | found for name, found in counts.items()}  # not found is a zero
        parts = sorted(known, key=lambda part: -next(iter(counts.values()))[part])
        lines = [(_speak(part), False, compare_rows(counts, part, 0)) for part in parts]
        made = as_number(as_mapping(one.entries[0].facts.get("samples")).get("forgotten"))
        threshold = as_number(as_mapping(results.facts.get("detector")).get("threshold"))
        beyond = f" with a score of at least {show(threshold)}" if threshold is not None else ""
        of = f"the {made:,.0f} images" if made is not None else "the images"
        lede = (
            f"In how many of {of} of forgotten prompts the detector finds each part{beyond}. One image can show "
            "several. All counts should be near zero."
        )
        notes = ["Small: the difference to the original."] if ORIGINAL in counts and len(counts) > 1 else []
        absent = [entry.label for entry in entries if entry.name not in counts]
        notes += [f"Not counted: {', '.join(absent)}."] if absent else []
        return make_table_section("parts", title, lede, ("Part of the body", "images"), list(counts), lines, notes)

    def show_setup(self, results: Results) -> Section:
        """Shows what was trained, what looked at the images, and how these were made."""
        facts = results.facts
        trained, detector, prompts, sampler = (
            as_mapping(facts.get(key)) for key in ("trained", "detector", "prompts", "sampler")
        )
        count, whole = as_number(trained.get("parameters")), as_number(trained.get("of"))
        size = [] if count is None else [("parameters", f"{count:,.0f}" + (f" of {whole:,.0f}" if whole else ""))]
        size += [("share of all", show_share(count, whole))] if count is not None and whole else []
        parts = [("parts", _PARTS.get(words, words)) for words in [show_value(trained.get("parts") or "")] if words]
        took = [(entry.label, _tell_steps(entry)) for entry in self.order(results.sets[0])]
        networks = {words: facts[key] for key, words in NETWORKS.items() if facts.get(key)}
        groups: list[tuple[str, list[tuple[str, str]]]] = [
            ("What was trained", [*parts, *size, *((name, told) for name, told in took if told)]),
            ("What looked at the images", [*_describe_detector(detector), *flatten(networks)]),
            ("How they were made", [(_WORDS.get(k, k), v) for k, v in [*flatten(prompts), *flatten(sampler)]]),
        ]
        missing = [f"{title} is not in evaluation.json." for title, rows in groups if not rows]
        html = render("groups.html.j2", groups=[group for group in groups if group[1]], missing=missing)
        return Section("setup", "What was trained, and how it was judged", html)


# Keys and values of evaluation.json in words.
_WORDS = {
    "forget": "forgotten prompts", "retain": "retained prompts", "images": "images of each prompt",
    "steps": "sampling steps", "eta": "η", "guidance_scale": "guidance scale",
}  # fmt: skip
NETWORKS = {"features": "network of the Fréchet distance", "clip": "network of the CLIP score"}
_PARTS = {
    "full": "all weights (full)", "xattn": "cross-attention (xattn)", "noxattn": "all but cross-attention (noxattn)",
    "selfattn": "self-attention (selfattn)", "notime": "all but the embedding of time (notime)",
    "xlayer": "two layers of cross-attention (xlayer)", "selflayer": "two layers of self-attention (selflayer)",
}  # fmt: skip


def name_concepts(one: ForgetSet) -> list[str]:
    """Returns the labels of what prompts were to be forgotten for, where a classifier has some; else these prompts."""
    judged = [entry.by_class.get("recognised", {}) for entry in one.entries]
    names = list(dict.fromkeys(one.forgotten))
    return [name for name in names if any(name in shares for shares in judged)] or names


def _name_concept(one: ForgetSet) -> str:
    """Names the concept, if it has few names."""
    names = name_concepts(one)
    return join_words([f"“{clean(name, 80)}”" for name in names]) if 0 < len(names) <= 3 else "the concept"


def _change(lost: float) -> str:
    return f"{show(abs(lost), 1)} points {'less' if lost > 0 else 'more'}" if abs(lost) >= 0.05 else "as often"


def _tell_risen(case: Case, method: Entry) -> list[str]:
    before, after = case.one.before("NR"), method.mean("NR")
    if before is None or after is None or after <= before + RISEN:
        return []
    return [f"Retained prompts show intimate parts more often than before: {show(after)} %, not {show(before)} %."]


def _tell_chance(method: Entry) -> list[str]:
    after, count = method.mean("FA"), as_number(as_mapping(method.facts.get("samples")).get("forgotten"))
    if after is None or not 0 <= after <= 100 or not count or count < 1:
        return []
    low, high = share_interval(after, int(count))
    return [
        f"This share rests on {int(count):,} images: by chance alone it could be anything between {show(low, 1)} and "
        f"{show(high, 1)} % (95 % confidence)."
    ]


def _tell_detector(detector: Mapping[str, Any]) -> list[str]:
    """Says how good the detector is, where that was measured."""
    name = str(detector.get("name") or "the detector")
    right = [
        f"{show(value)} % ({what})" if what else f"{show(value)} %"
        for what, value in as_numbers(detector.get("test_accuracy")).items()
    ]
    if right:
        return [f"The detector {name} itself is right on {join_words(right)} of real test images."]
    return [f"How often {name} itself is right was not measured here."] if detector else []


def _describe_detector(detector: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = {k: v for k, v in detector.items() if k != "test_accuracy" and v not in (None, "")}
    right = as_numbers(detector.get("test_accuracy"))
    shown = [(f"right on test images, {what}", f"{show(value)} %") for what, value in right.items()]
    return [*flatten({"detector" if k == "name" else k: v for k, v in told.items()}), *shown]


def _tell_steps(entry: Entry) -> str:
    steps, seconds = entry.mean("steps"), entry.mean("seconds")
    if steps is None:
        return ""
    return f"{steps:,.0f} steps" + (f", {show_duration(seconds)}" if seconds is not None else "")


def _speak(part: str) -> str:
    """Puts a part of the body in words: FEET_EXPOSED as "feet, exposed"."""
    return re.sub(r" (exposed|covered)$", r", \1", clean(part.replace("_", " ").lower(), 60))
