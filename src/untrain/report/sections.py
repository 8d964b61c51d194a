"""What the pages of a run and of a comparison have in common: sections, the files they are read from, settings."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from untrain.errors import UntrainError
from untrain.report.drawing import SETS, Figure
from untrain.report.figures import Histogram
from untrain.report.measures import GENERATION
from untrain.report.tables import TARGET, duration, mapping, number, render, sequence, share, show


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its heading, and its HTML."""

    key: str
    title: str
    html: Markup


@dataclass(frozen=True)
class Folded:
    """Something that a reader opens when wanted; on paper it is open."""

    summary: str
    figure: Figure | None = None
    rows: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Part:
    """What stands under one heading of a section: what could not be drawn, figures, notes, and what is folded away."""

    missing: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    folded: Sequence[Folded] = ()
    notes: Sequence[str] = ()
    heading: str = ""
    """Empty where the section has only this part."""


def figure_section(key: str, title: str, lede: str, *parts: Part) -> Section:
    """A section of figures; the lede is left out where there is none to introduce."""
    drawn = any(part.figures or part.folded for part in parts)
    return Section(key, title, render("figures.html.j2", lede=lede if drawn else "", parts=parts))


def tiles_of(
    original: Mapping[str, Any], method: Mapping[str, Any], target: Mapping[str, Any], floor: Mapping[str, Any]
) -> list[dict[str, str]]:
    """The numbers that the verdict on a classifier rests on: distance, forget accuracy, test accuracy, time.

    Args:
        original: measure → value; a value that is no number is shown as missing, in all four.
        method: the model that the verdict is about.
        target: the retrained model.
        floor: the distances between retrained models.
    """
    return [
        _tile("AvgD", "Average distance", "points", original, method, "noise floor", floor),
        _tile("FA", "Accuracy on the forget set", "%", original, method, TARGET, target),
        _tile("TA", "Accuracy on new images", "%", original, method, TARGET, target),
        _time_tile(method, target),
    ]


def generator_tiles(
    task: str,
    original: Mapping[str, Any],
    method: Mapping[str, Any],
    target: Mapping[str, Any],
    real: Mapping[str, Any] | None = None,
) -> list[dict[str, str]]:
    """The numbers that a verdict on generated images rests on: what is recognised, how good the rest is, time.

    Args:
        task: classes or text to image.
        original: measure → value.
        method: the model that the verdict is about.
        target: the retrained model; empty where there is none.
        real: the distances between two halves of the real images, of a generator of classes.
    """
    beside = TARGET if target else ""
    distance = "FID" if "FID" in method else "FD"
    if task == GENERATION:
        return [
            _tile("FA", "Forgotten classes recognised", "%", original, method, beside, target),
            _tile("RA", "Other classes recognised", "%", original, method, beside, target),
            _tile(distance, f"{distance} to real images", "", original, method, "two real halves", real or {}),
            _time_tile(method, target),
        ]
    rest = ("NR", "Intimate parts, retained prompts") if _has(method, "NR") else ("RA", "Retained prompts recognised")
    quality = ("CLIP", "CLIP score, retained prompts") if _has(method, "CLIP") else (distance, f"{distance} to before")
    steps = number(method.get("steps"))
    timed = _time_tile(method, target)
    if not target:  # which is the rule: then the steps say more
        timed["under"] = f"{steps:,.0f} optimiser steps" if steps is not None else ""
    return [
        _tile("FA", "Concept still seen", "%", original, method, beside, target),
        _tile(*rest, "%", original, method, beside, target),
        _tile(*quality, "", original, method, beside, target),
        timed,
    ]


def _has(values: Mapping[str, Any], measure: str) -> bool:
    return number(values.get(measure)) is not None


def _tile(
    key: str, title: str, unit: str, original: Mapping[str, Any], method: Mapping[str, Any], beside: str,
    aims: Mapping[str, Any],
) -> dict[str, str]:  # fmt: skip
    """A measure before and after, and under it the value of what it is held against, where that exists."""
    before, after, aim = (number(values.get(key)) for values in (original, method, aims))
    return {
        "title": title, "unit": unit if after is not None else "",
        "under": beside and f"{beside} {show(aim) if aim is not None else 'unknown'}",
        "before": show(before) if before is not None else "", "value": show(after) if after is not None else "—",
    }  # fmt: skip


def _time_tile(method: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, str]:
    spent, whole = number(method.get("seconds")), number(target.get("seconds"))
    under = f"{share(spent, whole)} of retraining, {duration(whole)}" if spent is not None and whole else ""
    return {
        "title": "Time", "unit": "", "before": "", "value": duration(spent) if spent is not None else "—",
        "under": under or "retraining time unknown",
    }  # fmt: skip


# Reading a folder.


def read_text(path: Path) -> str:
    """The text of a file; bytes that are not UTF-8 become replacement characters.

    Raises:
        UntrainError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UntrainError(f"cannot read {path}: {error.strerror or error}. Give yourself the permission.") from None


def read_json(path: Path, command: str) -> Mapping[str, Any]:
    """The object in a JSON file, which `command` makes.

    Raises:
        UntrainError: if it cannot be read or holds something else.
    """
    try:
        content = json.loads(read_text(path))
    except ValueError as error:
        raise UntrainError(f"{path} is not JSON ({error}). Make it again with `{command}`.") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UntrainError(f"{path} must hold one JSON object, not a {kind}. Make it again with `{command}`.")
    return content


def histogram_of(name: str, losses: Any) -> Histogram | None:
    """The histogram as drawn; None where there is none or it does not fit together."""
    given = list(sequence(mapping(losses).get("edges")))
    if len(given) > 2 and given[-1] == math.inf and number(given[-2]) is not None and number(given[-3]) is not None:
        given[-1] = given[-2] + (given[-2] - given[-3])  # an open last bin is drawn as wide as the one before it
    known = [e for edge in given if (e := number(edge)) is not None]
    edges = np.array(known, dtype=float)
    if len(known) < len(given) or len(edges) < 3 or not (np.diff(edges) > 0).all():
        return None
    counts = {}
    for part in SETS:
        values = [number(v) for v in sequence(mapping(losses).get(part))]
        if len(values) == len(edges) - 1 and all(v is not None and v >= 0 for v in values) and any(values):
            counts[part] = np.array(values, dtype=float)
    return Histogram(name, edges, counts) if counts else None


# Settings in words.


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and values in words."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", in_words(value)))
    return rows


def in_words(value: Any) -> str:
    """A setting as a reader would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return listed(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def choice_of(spec: Any) -> str:
    """How the forget set was chosen: what is set of its fields, or the first of a list."""
    if isinstance(spec, Mapping):
        given = {key: value for key, value in spec.items() if value not in (None, [], "")}
        return ", ".join(f"{key} {value}" for key, value in flat(given))
    return listed(spec, 6) if isinstance(spec, list) else in_words(spec)


def listed(values: Iterable[Any], most: int = 40) -> str:
    """Values one after the other, no more than so many of them."""
    texts = [in_words(value) for value in values]
    return ", ".join(texts[:most]) + (f", … ({len(texts):,} in all)" if len(texts) > most else "")


def date_of(text: str) -> str:
    """A recorded time to the minute; what is none is shown as it is."""
    try:
        created = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{created:%Y-%m-%d %H:%M} {created.tzname() or ''}".strip()
