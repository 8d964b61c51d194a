"""What a text-to-image recipe speaks of: its concepts, and the prompts that models are evaluated on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from untrain.data.samples import Relabelled
from untrain.data.source import Source
from untrain.errors import DataError, SettingError, unknown
from untrain.tasks.text_to_image.concepts import Concept, concept_lists
from untrain.tasks.text_to_image.prompts import read_prompts
from untrain.tasks.text_to_image.rendering import JUDGE, EvalPrompt
from untrain.tasks.text_to_image.sections import ConceptEntry, Concepts, Detection

FORGET, RETAIN = "forget", "retain"


@dataclass(frozen=True, eq=False)
class Captioned:
    """Images with captions.

    Attributes:
        train: images whose classes are their captions.
        test: others, likewise.
        attributes: caption → attribute → its value ("shape" → "circle"); empty: captions are judged as they are.
    """

    train: Source
    test: Source
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def captions(self) -> list[str]:
        """The captions that there are images of, in order."""
        return [self.train.classes[c] for c in self.train.labels.unique().tolist()]

    def labels(self, text: str) -> dict[str, str]:
        """Returns judge → the label that it should see in images of a caption."""
        return dict(self.attributes[text]) if self.attributes else {JUDGE: text}

    def judged(self) -> dict[str, tuple[Source, Source]]:
        """Returns judge → training and test images under what it tells apart: each attribute, else the captions."""
        if not self.attributes:
            return {JUDGE: (self.train, self.test)}
        names = list(next(iter(self.attributes.values())))
        return {name: (self._under(self.train, name), self._under(self.test, name)) for name in names}

    def _under(self, source: Source, name: str) -> Relabelled:
        values = list(dict.fromkeys(said[name] for said in self.attributes.values()))
        return Relabelled(source, [values.index(self.attributes[text][name]) for text in source.classes], values)

    def concept(self, text: str, anchor: str | None = None, *, bare: bool = False) -> Concept:
        """Returns a caption with its images as a concept, or `bare`, without."""
        if bare:
            return Concept(text, None, anchor)
        rows = (self.train.labels == self.train.classes.index(text)).nonzero().flatten()
        return Concept(text, self.train.batch(rows)["input"].cpu(), anchor)


def is_captioned(concepts: Concepts) -> bool:
    """Returns whether a recipe's concepts are captions of its data."""
    return any(entry.containing is not None for entry in (*concepts.forget, *concepts.retain))


def make_concepts(section: Concepts, captioned: Captioned | None) -> dict[str, list[Concept]]:
    """Makes the recipe's concepts, "forget" and "retain".

    Args:
        section: names them.
        captioned: the data, where there are any.

    Raises:
        SettingError: if a set is empty, or no caption has a word. DataError: if a prompt is there twice.
    """
    if not section.forget or not (section.retain or captioned is not None):
        name = RETAIN if section.forget else FORGET
        raise SettingError(
            f"concepts.{name} is empty: name what the pipeline must {'keep' if section.forget else 'forget'}, "
            "such as - prompt: a photo of a dog."
        )
    bare = section.images.from_prompts is not None
    gone = [concept for entry in section.forget for concept in _named(entry, captioned, bare=bare)]
    kept = [concept for entry in section.retain for concept in _named(entry, captioned, bare=bare)]
    if not section.retain and captioned is not None:
        taken = {concept.prompt for concept in gone}
        kept = [captioned.concept(text, bare=bare) for text in captioned.captions if text not in taken]
        if not kept:
            words = ", ".join(repr(entry.containing or entry.prompt) for entry in section.forget)
            raise SettingError(f"concepts.forget takes every caption of the data ({words}): leave some to keep.")
    return concept_lists({FORGET: gone, RETAIN: kept})


def _named(entry: ConceptEntry, captioned: Captioned | None, *, bare: bool) -> list[Concept]:
    if entry.prompt is not None:
        return [Concept(entry.prompt, entry.images, entry.anchor, entry.label)]
    word, texts = str(entry.containing), [] if captioned is None else captioned.captions
    found = [text for text in texts if word in text.split()]
    if captioned is None or not found:
        words = {each for text in texts for each in text.split()}
        raise SettingError(unknown("word of the data's captions", word, words))
    return [captioned.concept(text, _with_word(text, word, entry.instead), bare=bare) for text in found]


def _with_word(text: str, word: str, other: str | None) -> str | None:
    return None if other is None else " ".join(other if each == word else each for each in text.split())


def make_eval_prompts(
    section: Detection, concepts: Mapping[str, Sequence[Concept]], captioned: Captioned | None
) -> list[EvalPrompt]:
    """Makes the prompts that every model is evaluated on, the forgotten ones first.

    Raises:
        DataError: if a prompt is evaluated as forgotten and as retained.
    """
    found = []
    for name, file in ((FORGET, section.forget_prompts), (RETAIN, section.retain_prompts)):
        labels = _labels(concepts[name], captioned)
        texts = [concept.prompt for concept in concepts[name]] if file is None else _texts(file)
        one = {} if file is None or name == RETAIN else _common([labels.get(c.prompt, {}) for c in concepts[name]])
        found += [EvalPrompt(text, name == FORGET, labels.get(text, one)) for text in texts]
    both = {each.text for each in found if each.forgotten} & {each.text for each in found if not each.forgotten}
    if both:
        raise DataError(f"{min(both)!r} is evaluated as forgotten and as retained: leave it out of one of the two.")
    return found


def _common(wanted: Sequence[dict[str, str]]) -> dict[str, str]:
    """Judge → label, where all concepts have the same: a prompt of a file asks for it in other words."""
    return {judge: label for judge, label in wanted[0].items() if all(w.get(judge) == label for w in wanted)}


def _texts(file: str) -> list[str]:
    return list(dict.fromkeys(prompt.text for prompt in read_prompts(file)))


def _labels(concepts: Sequence[Concept], captioned: Captioned | None) -> dict[str, dict[str, str]]:
    """Prompt → judge → label, of the prompts that have any."""
    if captioned is not None:
        return {text: captioned.labels(text) for text in captioned.train.classes}
    return {concept.prompt: {JUDGE: concept.label} for concept in concepts if concept.label is not None}


def choose_primary(section: Concepts, prompts: Sequence[EvalPrompt]) -> str:
    """Chooses the judge that says whether the concept is there: whose labels are the forgotten words, or the only one.

    Raises:
        SettingError: if there is none.
    """
    labels: dict[str, set[str]] = {}
    gone = [each for each in prompts if each.forgotten]
    for each in gone:
        for judge, label in each.wanted.items():
            labels.setdefault(judge, set()).add(label)
    words = {entry.containing for entry in section.forget}
    told = {judge: all(words & {label, *label.split()} for label in seen) for judge, seen in labels.items()}
    fitting = [judge for judge, fits in told.items() if fits or len(labels) == 1]
    if len(fitting) != 1 or any(fitting[0] not in each.wanted for each in gone):
        raise SettingError(
            "no judge can tell whether the forgotten concepts are there: give each of concepts.forget a label that the "
            "judge knows, or detection.detector: nudity."
        )
    return fitting[0]


def prompt_facts(prompts: Sequence[EvalPrompt]) -> list[Any]:
    """Returns the prompts as JSON."""
    return [[each.text, each.forgotten, dict(each.wanted)] for each in prompts]
