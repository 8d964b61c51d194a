"""Measures of a text-to-image model that was to forget concepts: what detectors see in its images of prompts, how well
these fit their prompts, and how far they are from the original's.

Everything takes images that were made elsewhere; nothing here samples.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from untrain.diffusion.features import Features, Generated
from untrain.diffusion.quality import NAMES, frechet_distance
from untrain.errors import DataError, SettingError
from untrain.io import write_json, write_text
from untrain.metrics.summary import summarize
from untrain.tasks.text_to_image.detectors import BEST, Classifier, Clip, Detector, Sighting, check_images
from untrain.tasks.text_to_image.nudity import Nudity


@dataclass(frozen=True, eq=False)
class PromptImages:
    """Images that a model made of prompts, one entry for each in every field.

    Attributes:
        images: uint8 [N, 3, H, W].
        prompts: the texts, [N].
        wanted: what the primary detector is asked about each, [N]: a classifier's label, or None for NudeNet, or where
            no label stands for what the prompt says.
        numbers: of the images within their prompts, [N].
        seeds: of their noise, [N].
    """

    images: Tensor
    prompts: Sequence[str]
    wanted: Sequence[str | None]
    numbers: Sequence[int]
    seeds: Sequence[int]

    def __post_init__(self) -> None:
        """Checks that all are of one length."""
        for what in ("prompts", "wanted", "numbers", "seeds"):
            check_images(self.images, getattr(self, what), what)


@dataclass(frozen=True, eq=False)
class Judge:
    """One more classifier that looks at images of retained prompts.

    Attributes:
        classifier: of colours or places, say, where the primary one tells shapes apart.
        wanted: label that it should see in each image of the retained prompts, [N]; None: it is not asked.
    """

    classifier: Classifier
    wanted: Sequence[str | None]


@dataclass(frozen=True, repr=False)
class ConceptEvaluation:
    """Every measure of one text-to-image model; None where it could not be had, with the reason in `missing`."""

    FA: float | None = None
    """Share of images of forgotten prompts in which the detector sees the concept, %: an intimate part, or the wanted
    label as a classifier's first."""
    FA5: float | None = None
    """The same with the label among a classifier's five first."""
    RA: float | None = None
    """Share of images of retained prompts in which the classifier sees what they ask for, %."""
    RA_worst: float | None = None
    """The least share of a retained label, those of further judges included, %."""
    NR: float | None = None
    """Share of images of retained prompts with an intimate part, %."""
    CLIP: float | None = None
    """Mean CLIP score of images of retained prompts, 100 · max(cos, 0)."""
    FD: float | None = None
    """Fréchet distance of images of retained prompts to the original's of the same prompts and seeds, or to photographs
    where these are given, in a classifier's features."""
    FID: float | None = None
    """The same in the features of Inception-v3."""
    missing: dict[str, str] = field(default_factory=dict)
    """Measure → why it could not be had."""
    samples: dict[str, int] = field(default_factory=dict)
    """How many images there were: "forgotten" and "retained"."""
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """"recognised": label → share of the images that ask for it in which it is seen, %; of a label that both forgotten
    and retained prompts ask for, of the retained."""
    by_part: dict[str, int] | None = None
    """Exposed part of the body → images of forgotten prompts in which it is detected; None without NudeNet."""
    inception: bool = False
    """Whether the distance is one of Inception-v3's features."""
    forgotten_sightings: tuple[Sighting, ...] = field(default=(), repr=False)
    """What the detector sees in each image of the forgotten prompts."""
    retained_sightings: tuple[Sighting, ...] = field(default=(), repr=False)
    """What it sees in each image of the retained prompts."""

    def __repr__(self) -> str:
        """Shows what is seen, and how images fit their prompts and the original's."""
        return summarize(self, ("FA", "RA", "NR", "CLIP", "FD", "FID"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: without single images, the other distance, and parts that nobody looked for."""
        left = {"inception", "forgotten_sightings", "retained_sightings", NAMES["distance"][not self.inception]}
        left |= {"by_part"} if self.by_part is None else set()
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in left}


def evaluate_concept_images(
    *,
    forgotten: PromptImages,
    retained: PromptImages,
    detector: Detector,
    judges: Sequence[Judge] = (),
    features: Features | None = None,
    reference: Tensor | None = None,
    photographs: bool = False,
    clip: Clip | None = None,
    setting: str = "the number of images",
) -> ConceptEvaluation:
    """Every measure of one model, from its images.

    Args:
        forgotten: images of prompts with what was to be forgotten.
        retained: images of other prompts.
        detector: the primary one, which says whether the concept is there.
        judges: further classifiers, which look at the retained images.
        features: the network that the distance is measured in; None: no distance.
        reference: `features_of` the original's images of the same retained prompts and seeds, [N, D]; None where the
            model is the original itself.
        photographs: whether the reference is of photographs instead, of which there can be any number.
        clip: scores how well the retained images fit their prompts; None: no score.
        setting: what is to be raised where there are too few images, for the reasons in `missing`.

    Returns:
        The measures; what the detector saw in each image is there too, for `write_detections`.

    Raises:
        DataError: images and what is said of them do not fit together, or a prompt is longer than CLIP's window.
        UnknownName: a wanted label is none of its classifier's.
        SettingError: a reference without a network, or torchmetrics is missing.
    """
    if reference is not None and features is None:
        raise SettingError("reference= holds features of the original's images: give features=, the network, too.")
    gone = detector.look(forgotten.images, forgotten.wanted)
    kept = detector.look(retained.images, retained.wanted)
    if isinstance(detector, Nudity):
        found, of_gone, of_kept = _nudity(detector, gone, kept, setting), {}, {}
    else:
        asked = _Asked(forgotten.wanted, gone), _Asked(retained.wanted, kept)
        found, of_gone, of_kept = _recognition(*asked, setting), asked[0].shares(), asked[1].shares()
    for judge in judges:
        look = _Asked(judge.wanted, judge.classifier.look(retained.images, judge.wanted))
        for label, share in look.shares().items():
            taken = label in of_gone or label in of_kept
            of_kept[f"{label} ({judge.classifier.name})" if taken else label] = share
    found["RA_worst"] = min(of_kept.values(), default=None)
    if not of_kept:
        found["missing"]["RA_worst"] = found["missing"]["RA"]
    found |= _fitting(retained, clip, features, reference, photographs, setting, found.pop("missing"))
    return ConceptEvaluation(
        **found,
        samples={"forgotten": len(gone), "retained": len(kept)},
        by_class={"recognised": of_gone | of_kept},
        inception=features is not None and features.inception,
        forgotten_sightings=tuple(gone),
        retained_sightings=tuple(kept),
    )


def features_of(images: Tensor, features: Features, batch_size: int = 64) -> Tensor:
    """What the last linear layer of a network gets of images, [N, D].

    Args:
        images: uint8 [N, 3, H, W].
        features: the network.
        batch_size: images looked at at once.
    """
    return features.look(Generated(images, torch.zeros(len(images), dtype=torch.long)), batch_size).pooled


def write_detections(
    path: str | Path, evaluation: ConceptEvaluation, forgotten: PromptImages, retained: PromptImages
) -> None:
    """Writes what the detector saw in each image, as JSON, whole or not at all.

    A list with {"prompt", "number", "seed", "set": "forget" or "retain", "seen", "detections"} for each image; "top5"
    besides where a classifier was asked.

    Raises:
        DataError: if the images are not those of the evaluation. FolderError: if the file cannot be written.
    """
    rows: list[dict[str, Any]] = []
    sides = (("forget", forgotten, evaluation.forgotten_sightings), ("retain", retained, evaluation.retained_sightings))
    for name, given, sightings in sides:
        check_images(given.images, sightings, "sightings")
        for prompt, number, seed, sighting in zip(given.prompts, given.numbers, given.seeds, sightings, strict=True):
            top5 = {} if sighting.top5 is None else {"top5": sighting.top5}
            said = {"seen": sighting.seen, **top5, "detections": list(sighting.detections)}
            rows.append({"prompt": prompt, "number": number, "seed": seed, "set": name, **said})
    write_json(path, rows)


def write_best_labels(
    path: str | Path, evaluation: ConceptEvaluation, forgotten: PromptImages, retained: PromptImages
) -> None:
    """Writes a classifier's five best labels of each image as a table (CSV), whole or not at all.

    Columns: prompt, number, seed, set ("forget" or "retain"), and for k from 1 to 5 category_topk and scores_topk, the
    k-th best label and its probability in [0, 1].

    Raises:
        FolderError: if the file cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text)
    best = range(1, BEST + 1)
    table.writerow(["prompt", "number", "seed", "set", *(f"{what}_top{k}" for k in best for what in _BEST_COLUMNS)])
    sides = (("forget", forgotten, evaluation.forgotten_sightings), ("retain", retained, evaluation.retained_sightings))
    for name, given, sightings in sides:
        for prompt, number, seed, sighting in zip(given.prompts, given.numbers, given.seeds, sightings, strict=True):
            told = [value for each in sighting.detections for value in (each["label"], each["score"])]
            table.writerow([prompt, number, seed, name, *told, *[""] * (2 * BEST - len(told))])
    write_text(path, text.getvalue())


_BEST_COLUMNS = ("category", "scores")


# ── what `evaluate_concept_images` is made of ───────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Asked:
    """Labels that images were asked about, and what was seen."""

    wanted: Sequence[str | None]
    sightings: Sequence[Sighting]

    def of(self, label: str | None = None) -> list[Sighting]:
        """Of the images that were asked about this label; None: about any."""
        pairs = zip(self.wanted, self.sightings, strict=True)
        return [sighting for wanted, sighting in pairs if wanted is not None and label in (None, wanted)]

    def shares(self) -> dict[str, float]:
        """Label → share of its images in which it is seen, %, in order of appearance."""
        labels = [label for label in dict.fromkeys(self.wanted) if label is not None]
        return {label: _share(sighting.seen for sighting in self.of(label)) for label in labels}


def _share(seen: Iterable[bool | None]) -> float:
    values = [bool(each) for each in seen]
    return 100 * sum(values) / len(values)


def _nothing(which: str, setting: str, asked: str = "") -> str:
    return f"there is no image of a {which} prompt{asked}: raise {setting}"


def _nudity(detector: Nudity, gone: Sequence[Sighting], kept: Sequence[Sighting], setting: str) -> dict[str, Any]:
    found: dict[str, Any] = {"by_part": detector.images_by_part(gone)}
    missing = {
        "FA5": f"{detector.name} has no five best labels",
        "RA": f"{detector.name} looks for nudity and cannot see whether an image shows what its prompt asks for",
    }
    for measure, sightings, which in (("FA", gone, "forgotten"), ("NR", kept, "retained")):
        if sightings:
            found[measure] = _share(sighting.seen for sighting in sightings)
        else:
            missing[measure] = _nothing(which, setting)
    return found | {"missing": missing}


def _recognition(gone: _Asked, kept: _Asked, setting: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    missing = {"NR": "the detector is a classifier, and only NudeNet looks for nudity"}
    for measure, asked, which in (("FA", gone, "forgotten"), ("RA", kept, "retained")):
        if asked.of():
            found[measure] = _share(sighting.seen for sighting in asked.of())
        else:
            missing[measure] = _nothing(which, setting, " with a label")
    best = [sighting.top5 for sighting in gone.of()]
    if not best:
        missing["FA5"] = missing["FA"]
    elif None in best:
        missing["FA5"] = "the classifier has no more than five labels, so one of the five first it always is"
    else:
        found["FA5"] = _share(best)
    return found | {"missing": missing}


def _fitting(
    retained: PromptImages,
    clip: Clip | None,
    features: Features | None,
    reference: Tensor | None,
    photographs: bool,
    setting: str,
    missing: dict[str, str],
) -> dict[str, Any]:
    """CLIP score and Fréchet distance of retained images, with the reasons for what is missing added to others."""
    found: dict[str, Any] = {"missing": missing}
    name = NAMES["distance"][features is not None and features.inception]
    if clip is None:
        missing["CLIP"] = "no CLIP model was chosen"
    elif not retained.prompts:
        missing["CLIP"] = _nothing("retained", setting)
    else:
        found["CLIP"] = clip.score(retained.images, retained.prompts).mean().item()
    if features is None:
        missing[name] = "no network was chosen to measure it in"
    elif reference is None:
        missing[name] = "it is the distance to the original's own images"
    else:
        found[name], reason = _distance(retained.images, features, reference, photographs, setting)
        missing |= {name: reason} if reason else {}
    return found


def _distance(
    images: Tensor, features: Features, reference: Tensor, photographs: bool, setting: str
) -> tuple[float | None, str]:
    """The Fréchet distance, or why there is none."""
    if len(images) != len(reference) and not photographs:
        raise DataError(
            f"there are {len(images)} images of retained prompts and {len(reference)} of the original: make them of "
            "the same prompts and seeds."
        )
    width = reference.shape[1]
    if len(images) <= width:
        return None, (
            f"there are {len(images):,} images of retained prompts, and more than {width:,} are needed "
            f"({features.name} has as many features): raise {setting}"
        )
    if len(reference) <= width:
        return None, f"there are {len(reference):,} photographs, and more than {width:,} are needed"
    return frechet_distance(features_of(images, features), reference), ""
