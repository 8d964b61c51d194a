"""Numbers, times, names and settings as a reader would write them."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

LABELS = {
    "sfron": "SFR-on", "scrub": "SCRUB", "salun": "SalUn", "neggrad-plus": "NegGrad+", "ssd": "SSD",
    "l1-sparse": "L1-sparse", "esd": "ESD", "selective-amnesia": "Selective Amnesia",
    "amun": "AMUN", "delete": "DELETE", "regun": "ReGUn", "lotus": "LoTUS", "eu-k": "EU-k", "cf-k": "CF-k",
    "uce": "UCE", "concept-ablation": "concept ablation", "mace-refine": "MACE refinement",
    "original-first": "original (before all requests)",
}  # fmt: skip


def label_of(name: str) -> str:
    """Returns a model's name as it is shown: methods as their papers write them."""
    return LABELS.get(name, name)


def show(value: float, digits: int = 2) -> str:
    """Shows a number with so many decimals and a real minus sign; tiny ones in scientific notation, 0 below 1e-12."""
    if 1e-12 <= abs(value) < 0.5 * 10**-digits:  # what is smaller is the rounding error of a sum
        return f"{value:.1e}".replace("-", "−")
    return f"{value if abs(value) >= 1e-12 else 0.0:,.{digits}f}".replace("-", "−").replace(",", "\u2009")


def show_difference(value: float, digits: int) -> str:
    """Shows a difference with its sign; ± where it rounds to zero."""
    text = f"{value:+.{digits}f}".replace("-", "−")
    return text if text.strip("+−0.") else f"±{text[1:]}"


def show_duration(seconds: float) -> str:
    """Shows a time span in the units that a reader would choose."""
    if seconds < 10:
        return f"{show(seconds)} s"
    if seconds < 119.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if seconds < 7199.5:
        return f"{int(round(seconds) // 60)} min {int(round(seconds) % 60):02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def show_share(part: float, whole: float) -> str:
    """Shows a part of a whole in percent, coarser the larger it is."""
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent < 9.95 else f"{percent:,.0f} %".replace(",", "\u2009")


def show_value(value: Any) -> str:
    """Shows a setting as a reader would write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return list_values(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else str(value)


def show_date(text: str) -> str:
    """Shows a recorded time to the minute; what is none is shown as it is."""
    try:
        created = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{created:%Y-%m-%d %H:%M} {created.tzname() or ''}".strip()


def list_values(values: Iterable[Any], most: int = 40) -> str:
    """Lists values one after the other, no more than so many of them."""
    texts = [show_value(value) for value in values]
    return ", ".join(texts[:most]) + (f", … ({len(texts):,} in all)" if len(texts) > most else "")


def join_words(names: Sequence[str]) -> str:
    """Joins names to a list in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flattens nested settings to dotted names and values in words."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", show_value(value)))
    return rows


def describe_choice(spec: Any) -> str:
    """Says how the forget set was chosen: what is set of its fields, or the first of a list."""
    if isinstance(spec, Mapping):
        given = {key: value for key, value in spec.items() if value not in (None, [], "")}
        return ", ".join(f"{key} {value}" for key, value in flatten(given))
    return list_values(spec, 6) if isinstance(spec, list) else show_value(spec)


def superscript(number: int | None) -> str:
    """Writes a footnote's number small and high; nothing where there is none."""
    return "" if number is None else str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def count_of(number: int, word: str) -> str:
    """Returns so many of something: "1 seed", "3 seeds"."""
    return f"{number} {word if number == 1 else f'{word}s'}"


def with_article(words: str) -> str:
    """Puts "a" or "an" before the words."""
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def capitalize(text: str) -> str:
    """Writes the first letter large and leaves the others."""
    return text[:1].upper() + text[1:]


def uncapitalize(text: str) -> str:
    """Writes the first letter of a title small, for within a sentence; one that begins with an abbreviation stays."""
    return text if text[1:2].isupper() else text[:1].lower() + text[1:]


def clean(text: str, most: int = 36, keep: str = "start") -> str:
    """Returns text that XML can hold, on one line, shortened with an ellipsis; never a formula or a hidden label."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", " ".join(str(text).split()))
    if len(text) > most:
        text = text[: most - 1] + "…" if keep == "start" else "…" + text[1 - most :]
    return "\u200b" + text if text.startswith("_") else text  # matplotlib hides labels that begin with _
