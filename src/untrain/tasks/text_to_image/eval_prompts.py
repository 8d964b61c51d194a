"""What a text-to-image recipe speaks of: its concepts, and the prompts that it is evaluated on."""

from collections.abc import Mapping, Sequence
from typing import Any

from untrain.data import shapes
from untrain.data.samples import Source
from untrain.errors import DataError, SettingError, unknown
from untrain.runs.recipe import ConceptEntry, Recipe
from untrain.tasks.text_to_image.concepts import Concept, concept_lists
from untrain.tasks.text_to_image.prompts import read_prompts
from untrain.tasks.text_to_image.rendering import JUDGE, Asked

FORGET, RETAIN = "forget", "retain"


def is_captioned(recipe: Recipe) -> bool:
    """Whether its concepts are captions of the recipe's data."""
    return any(entry.containing is not None for entry in (*recipe.concepts.forget, *recipe.concepts.retain))


def concepts_of(recipe: Recipe, captioned: Source | None) -> dict[str, list[Concept]]:
    """The recipe's concepts, "forget" and "retain".

    Args:
        recipe: names them.
        captioned: images whose classes are their captions; None where no concept is named by a word of these.

    Raises:
        SettingError: if a set is empty, or no caption has a word. DataError: if a prompt is there twice.
    """
    given = recipe.concepts
    if not given.forget or not (given.retain or captioned is not None):
        name = RETAIN if given.forget else FORGET
        raise SettingError(
            f"concepts.{name} is empty: name what the pipeline must {'keep' if given.forget else 'forget'}, "
            "such as - prompt: a photo of a dog."
        )
    gone = [concept for entry in given.forget for concept in _named(entry, captioned)]
    kept = [concept for entry in given.retain for concept in _named(entry, captioned)]
    if not given.retain and captioned is not None:
        taken = {concept.prompt for concept in gone}
        kept = [_caption(text, captioned) for text in _captions(captioned) if text not in taken]
        if not kept:
            words = ", ".join(repr(entry.containing or entry.prompt) for entry in given.forget)
            raise SettingError(f"concepts.forget takes every caption of the data ({words}): leave some to keep.")
    return concept_lists({FORGET: gone, RETAIN: kept})


def _named(entry: ConceptEntry, captioned: Source | None) -> list[Concept]:
    if entry.prompt is not None:
        return [Concept(entry.prompt, entry.images, entry.anchor, entry.label)]
    word, texts = str(entry.containing), _captions(captioned)
    found = [text for text in texts if word in text.split()]
    if captioned is None or not found:
        words = {each for text in texts for each in text.split()}
        raise SettingError(unknown("word of the data's captions", word, words))
    return [_caption(text, captioned, _with_word(text, word, entry.instead)) for text in found]


def _with_word(text: str, word: str, other: str | None) -> str | None:
    return None if other is None else " ".join(other if each == word else each for each in text.split())


def _captions(captioned: Source | None) -> list[str]:
    """The captions that there are images of, in order."""
    return [] if captioned is None else [captioned.classes[c] for c in captioned.labels.unique().tolist()]


def _caption(text: str, captioned: Source, anchor: str | None = None) -> Concept:
    rows = (captioned.labels == captioned.classes.index(text)).nonzero().flatten()
    return Concept(text, captioned.batch(rows)["input"].cpu(), anchor)


def attributes_of(captioned: Source) -> dict[str, Source]:
    """Judge → the images under what it tells apart: of the shapes each of their attributes, else the captions."""
    if set(captioned.classes) <= set(shapes.CAPTIONS):
        return {name: shapes.about(captioned, name) for name in shapes.ATTRIBUTES}
    return {JUDGE: captioned}


def asked_prompts(recipe: Recipe, lists: Mapping[str, Sequence[Concept]], captioned: Source | None) -> list[Asked]:
    """The prompts that every model is evaluated on, the forgotten ones first.

    Raises:
        SettingError: if it cannot be told which label stands for a prompt.
    """
    found = []
    for name, file in ((FORGET, recipe.detection.forget_prompts), (RETAIN, recipe.detection.retain_prompts)):
        labels = _labels(lists[name], captioned)
        texts = [concept.prompt for concept in lists[name]] if file is None else _texts(file)
        one = {} if file is None or name == RETAIN else _common([labels.get(c.prompt, {}) for c in lists[name]])
        found += [Asked(text, name == FORGET, labels.get(text, one)) for text in texts]
    both = {asked.text for asked in found if asked.forgotten} & {a.text for a in found if not a.forgotten}
    if both:
        raise DataError(f"{min(both)!r} is evaluated as forgotten and as retained: leave it out of one of the two.")
    return found


def _common(wanted: Sequence[dict[str, str]]) -> dict[str, str]:
    """Judge → label, where all concepts have the same: a prompt of a file asks for it in other words."""
    return {judge: label for judge, label in wanted[0].items() if all(w.get(judge) == label for w in wanted)}


def _texts(file: str) -> list[str]:
    return list(dict.fromkeys(prompt.text for prompt in read_prompts(file)))


def _labels(concepts: Sequence[Concept], captioned: Source | None) -> dict[str, dict[str, str]]:
    """Prompt → judge → label, of the prompts that have any."""
    if captioned is not None and set(captioned.classes) <= set(shapes.CAPTIONS):
        return {text: dict(shapes.meaning(text)) for text in captioned.classes}
    if captioned is not None:
        return {text: {JUDGE: text} for text in captioned.classes}
    return {concept.prompt: {JUDGE: concept.label} for concept in concepts if concept.label is not None}


def primary_of(recipe: Recipe, asked: Sequence[Asked]) -> str:
    """The judge that says whether the concept is there: whose labels are the forgotten words, or the only one.

    Raises:
        SettingError: if there is none.
    """
    labels: dict[str, set[str]] = {}
    gone = [each for each in asked if each.forgotten]
    for each in gone:
        for judge, label in each.wanted.items():
            labels.setdefault(judge, set()).add(label)
    words = {entry.containing for entry in recipe.concepts.forget}
    told = {judge: all(words & {label, *label.split()} for label in seen) for judge, seen in labels.items()}
    fitting = [judge for judge, fits in told.items() if fits or len(labels) == 1]
    if len(fitting) != 1 or any(fitting[0] not in each.wanted for each in gone):
        raise SettingError(
            "no judge can tell whether the forgotten concepts are there: give each of concepts.forget a label that the "
            "judge knows, or detection.detector: nudity."
        )
    return fitting[0]


def facts(asked: Sequence[Asked]) -> list[Any]:
    """The prompts as JSON."""
    return [[each.text, each.forgotten, dict(each.wanted)] for each in asked]
