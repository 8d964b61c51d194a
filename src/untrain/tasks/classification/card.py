"""What stands beside a classifier that forgot: what was asked, how, from which weights, and what was measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from untrain.models.card import (
    base_front,
    base_name,
    card_text,
    code,
    figure,
    how_section,
    plain,
    versions_section,
    weights_section,
)
from untrain.report.presentation import Measure

_BEFORE, _TARGET = "original", "retrained"


@dataclass(frozen=True)
class ClassifierCard:
    """What a model card says of a classifier that forgot.

    Attributes:
        forgotten: what was asked: names of classes; empty where samples were listed or drawn.
        count: how many training samples were to be forgotten.
        kept: how many were to stay.
        method: its name.
        settings: of the method, as they were resolved.
        base: hub id, folder or file of the original; of a path only the last name is written down; None: the recipe
            trained it.
        base_hash: of its weights, as `state_hash` gives it.
        hash: of the weights afterwards.
        versions: library → version.
        evaluation: what evaluation.json holds.
        entry: which of its models this one is.
        measures: what is shown of it.
        seed: of the run.
        licence: of the original, as `licence_of` gives it.
    """

    forgotten: Sequence[str]
    count: int
    kept: int
    method: str
    settings: Mapping[str, Any]
    base: str | None
    base_hash: str
    hash: str
    versions: Mapping[str, str]
    evaluation: Mapping[str, Any]
    entry: str
    measures: Sequence[Measure]
    seed: int
    licence: Mapping[str, str] = field(default_factory=dict)


def classifier_card(facts: ClassifierCard) -> str:
    """A model card in Markdown, behind the YAML that model hubs read."""
    base = facts.base or "A classifier trained by the recipe"
    front = base_front(base, facts.licence) | {
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "machine-unlearning", "untrain"],
    }
    made = facts.evaluation["models"][facts.entry]
    parts = [
        f"# {base_name(base)}, made to forget",
        _removed(facts),
        how_section(facts.method, "on all its weights that can be trained", facts.settings, facts.seed, made),
        weights_section(base, facts.base_hash, facts.hash, facts.licence, "its weights"),
        _measured(facts),
        _LIMITS,
        versions_section(facts.versions),
    ]
    return card_text(front, parts)


def _removed(facts: ClassifierCard) -> str:
    asked = f"{facts.count:,} training images, of {facts.count + facts.kept:,}"
    if facts.forgotten:
        asked = f"The classes {', '.join(map(code, facts.forgotten))}: all of their {facts.count:,} training images"
    return f"## What was to be forgotten\n\n{asked}. The model was to become as if it had been trained without them."


def _measured(facts: ClassifierCard) -> str:
    """The measures beside those of the original and of a model that was retrained without the forgotten images."""
    models, sizes = facts.evaluation["models"], facts.evaluation.get("sizes", {})
    shown = [name for name in (_BEFORE, facts.entry, _TARGET) if name in models]
    titles = {_BEFORE: "before", facts.entry: "after", _TARGET: "retrained without"}
    rows = [
        f"| {each.key} | {plain(each.title)}{', %' * (each.unit == '%')} | "
        + " | ".join(figure(models[name].get(each.key)) for name in shown)
        + " |"
        for each in facts.measures
        if models[facts.entry].get(each.key) is not None
    ]
    head = f"| Measure | | {' | '.join(titles[name] for name in shown)} |"
    counts = ", ".join(f"{plain(name)} {size:,}" for name, size in sizes.items())
    aim = (
        "The aim of each is the value of the model that was retrained without the forgotten images."
        if _TARGET in shown
        else "No model was retrained without the forgotten images: how far from that this one is, is not known."
    )
    table = [head, f"|---|---|{'--:|' * len(shown)}", *rows]
    return "\n".join(["## What was measured", "", f"{aim} Images: {counts}.", "", *table])


_LIMITS = """## Limits

- The measures are of the images that were named or drawn here. Others that show the same were not looked at.
- An attack that was not tried, or further training, may still tell that the forgotten images were once trained on.
- What is forgotten here is not forgotten elsewhere: the original, copies of it and what was trained from it are as
  they were.
- This is no proof that training data was deleted."""
