"""What looks at generated images: detectors, which say whether an image shows something, and CLIP, which compares it
with a text.

Images come from elsewhere, uint8 in [0, 255]; nothing here samples.
"""

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from untrain.data.classes import class_named
from untrain.diffusion.features import Features, Generated, classifier_features
from untrain.diffusion.judges import read_judge
from untrain.engine import Engine, preserve_modes
from untrain.errors import CheckpointError, DataError, SettingError
from untrain.models.checkpoints import state_hash
from untrain.models.pretrained import fetch_folder, refusal_of
from untrain.models.recognition import Recognition
from untrain.settings import check_arguments
from untrain.tasks.text_to_image.sections import Judge

BEST = 5
"""So many classes of the highest probability are told of an image, and count as "top 5"."""


@dataclass(frozen=True)
class Sighting:
    """What a detector says of an image.

    Attributes:
        seen: whether it sees what was wanted.
        top5: whether that is among a classifier's five best; None where there is no such thing.
        detections: all that it tells, as JSON: {"label", "score" in [0, 1]}, and a detector of places also "box", left,
            top, width and height in pixels.
    """

    seen: bool
    top5: bool | None
    detections: tuple[dict[str, Any], ...]


class Detector(ABC):
    """Says of images whether they show what they should, or should no longer.

    Attributes:
        name: as tables show it.
        kind: "nudity": it looks for intimate parts of bodies, whatever is wanted; "classifier": for wanted labels.
        threshold: score from which on a detection counts; None where there is no threshold.
        hash: of its weights.
    """

    name: str
    kind: Literal["nudity", "classifier"]
    threshold: float | None
    hash: str

    @abstractmethod
    def check(self, wanted: Iterable[str | None]) -> None:
        """Refuses labels that it does not know, before anything is sampled.

        Raises:
            UnknownName: guesses what was meant.
        """

    @abstractmethod
    def look(self, images: Tensor, wanted: Sequence[str | None]) -> list[Sighting]:
        """What it sees in each image.

        Args:
            images: uint8 [N, 3, H, W], or of one channel.
            wanted: label that each image is asked about, [N]; None: it is asked about none, and nothing is `seen`.

        Raises:
            DataError: if images are of another type or shape, or there are not as many labels.
            UnknownName: for a label that it does not know.
        """


def check_images(images: Tensor, told: Sequence[Any], what: str) -> None:
    """Refuses what are no images, or not as many as there is said something about.

    Raises:
        DataError: names type and shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"images must be uint8 [N, 1 or 3, H, W], not {images.dtype} {list(images.shape)}. Images in [−1, 1] "
            "become so by untrain.diffusion.images.to_uint8."
        )
    if len(told) != len(images):
        raise DataError(f"there are {len(images)} images and {len(told)} {what}: give one for each.")


@dataclass(frozen=True, eq=False)
class Classifier(Detector):
    """Any classifier of images, asked for its labels.

    Attributes:
        features: the network, as `untrain.diffusion.features.classifier_features` wraps one.
        labels: what its outputs are called, in order; synonyms with commas between them, as a hub's models have it.
        batch_size: images looked at at once.
    """

    features: Features
    labels: Sequence[str]
    batch_size: int = 256
    name: str = field(init=False)
    hash: str = field(init=False)
    kind = "classifier"
    threshold = None

    def __post_init__(self) -> None:
        """Takes the name and the hash of the network's weights."""
        object.__setattr__(self, "name", self.features.name)
        object.__setattr__(self, "hash", state_hash(self.features.network))

    def check(self, wanted: Iterable[str | None]) -> None:
        """Refuses labels that it does not know; guesses what was meant."""
        self._numbers(wanted)

    def _numbers(self, wanted: Iterable[str | None]) -> list[int | None]:
        known = {label: None if label is None else class_named(self.labels, label) for label in set(wanted)}
        return [known[label] for label in wanted]

    def look(self, images: Tensor, wanted: Sequence[str | None]) -> list[Sighting]:
        """Whether the wanted label has the highest probability, or one of the five highest; see `Detector.look`.

        With five labels or fewer there is no `top5`: it would always hold.
        """
        check_images(images, wanted, "wanted labels")
        numbers = self._numbers(wanted)
        if not len(images):
            return []
        seen = self.features.look(Generated(images, torch.zeros(len(images), dtype=torch.long)), self.batch_size)
        if seen.logits.shape[1] != len(self.labels):
            raise DataError(
                f"{self.name} tells {seen.logits.shape[1]} classes apart, and has {len(self.labels)} labels."
            )
        scores, order = seen.logits.double().softmax(dim=1).sort(dim=1, descending=True, stable=True)
        return [
            self._sighting(number, best, score)
            for number, best, score in zip(numbers, order[:, :BEST].tolist(), scores[:, :BEST].tolist(), strict=True)
        ]

    def _sighting(self, number: int | None, best: list[int], scores: list[float]) -> Sighting:
        told = tuple({"label": self.labels[c], "score": score} for c, score in zip(best, scores, strict=True))
        top5 = number in best if len(self.labels) > BEST and number is not None else None
        return Sighting(number == best[0], top5, told)


def hub_classifier(source: str, device: torch.device | str = "cpu") -> Classifier:
    """An image classifier that transformers saved, with the labels that it has and its own way to prepare images.

    Args:
        source: a folder or hub id.
        device: where it works.

    Raises:
        SettingError: if transformers is not installed. CheckpointError: if the source holds no whole classifier.
    """
    model, pictures = _read(source, "AutoModelForImageClassification", ("AutoImageProcessor",))
    names = model.config.id2label
    labels = [str(names[number]) for number in range(len(names))]

    def prepared(images: Tensor) -> Tensor:
        return _pixels(pictures, images).to(device, model.dtype)

    return Classifier(classifier_features(model.to(device), prepared, Path(source).name), labels, batch_size=64)


def _pixels(pictures: Any, images: Tensor) -> Tensor:
    """What a processor of transformers makes of uint8 images [B, 1 or 3, H, W]."""
    return pictures(images=list(images.expand(-1, 3, -1, -1).cpu()), return_tensors="pt")["pixel_values"]


@check_arguments
def image_classifier(
    module: nn.Module,
    labels: Sequence[str],
    prepare: Callable[[Tensor], Tensor] | None = None,
    *,
    name: str | None = None,
) -> Classifier:
    """A user's classifier as a detector.

    Args:
        module: gives logits [B, C], or an object with `.logits`.
        labels: what its outputs are called, in order.
        prepare: uint8 images [B, C, H, W] → its input; None: floats in [−1, 1].
        name: as tables show it; None: that of its class.
    """

    def plain(images: Tensor) -> Tensor:
        return images.float() / 127.5 - 1

    return Classifier(classifier_features(module, prepare or plain, name or type(module).__name__), tuple(labels))


# ── CLIP ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class Clip:
    """A pair of encoders that put an image and a text that fits it at a small angle to each other.

    Attributes:
        name: folder or hub id.
        model: transformers' CLIPModel, on the device that it works on.
        pictures: its processor of images.
        tokenizer: of its texts.
    """

    name: str
    model: nn.Module
    pictures: Any
    tokenizer: Any

    def check(self, texts: Iterable[str]) -> None:
        """Refuses texts that are longer than the window, which would be cut in silence.

        Raises:
            DataError: says how many are, and quotes the first.
        """
        config: Any = self.model.config
        window = int(config.text_config.max_position_embeddings)
        wanted = list(dict.fromkeys(texts))
        lengths = [len(self._tokens(text)) for text in wanted]
        long = [(text, length) for text, length in zip(wanted, lengths, strict=True) if length > window]
        if long:
            text, length = long[0]
            raise DataError(
                f"{len(long)} of {len(wanted)} prompts are longer than the {window} tokens that {self.name} reads, so "
                f"their CLIP score would be that of a part. The first has {length}: {text!r}. Shorten it, or measure "
                "no CLIP score."
            )

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=False, verbose=False)["input_ids"]

    def score(self, images: Tensor, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """100 · max(cos(image, text), 0) of each pair, [N], float64 on the CPU.

        Own code: torchmetrics cuts long texts, bounds the mean instead of each score, and up to 1.9 does not take what
        transformers 5 gives.

        Args:
            images: uint8 [N, 3, H, W], or of one channel.
            texts: [N].
            batch_size: images looked at at once; each text once.

        Raises:
            DataError: if texts are too long, or not as many as images.

        Source: Hessel et al. 2021, with the factor 100 that text-to-image papers use instead of 2.5.
        """
        check_images(images, texts, "texts")
        self.check(texts)
        if not len(images):
            return torch.zeros(0, dtype=torch.float64)
        place = next(self.model.parameters()).device
        known = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        with torch.no_grad(), preserve_modes(self.model):
            self.model.eval()
            written = torch.cat([self._text(text, place) for text in known])
            drawn = torch.cat([self._images(part, place) for part in images.split(batch_size)])
        cosines = (drawn * written[torch.tensor([known[text] for text in texts])]).sum(dim=1)
        return 100 * cosines.clamp_min(0)

    def _text(self, text: str, place: torch.device) -> Tensor:
        model: Any = self.model
        return _direction(model.get_text_features(input_ids=torch.tensor([self._tokens(text)], device=place)))

    def _images(self, images: Tensor, place: torch.device) -> Tensor:
        model: Any = self.model
        dtype = next(self.model.parameters()).dtype
        return _direction(model.get_image_features(pixel_values=_pixels(self.pictures, images).to(place, dtype)))


def _direction(found: Any) -> Tensor:
    """Embeddings at length 1, [B, D]; newer transformers give them inside an output."""
    embeds: Tensor = getattr(found, "pooler_output", found)
    return nn.functional.normalize(embeds.double().cpu(), dim=1)


def load_clip(source: str, device: torch.device | str = "cpu") -> Clip:
    """CLIP of a folder that transformers saved, or of a hub id such as openai/clip-vit-base-patch32.

    Raises:
        SettingError: if transformers is not installed. CheckpointError: if the source holds no whole CLIP.
    """
    model, pictures, tokenizer = _read(source, "CLIPModel", ("CLIPImageProcessor", "CLIPTokenizer"))
    return Clip(source, model.to(device), pictures, tokenizer)


def _read(source: str, kind: str, others: Sequence[str]) -> list[Any]:
    """A model of transformers with all its weights, in evaluation mode, and the other parts of its folder."""
    try:
        import transformers
    except ImportError as error:
        raise SettingError(f"{source} needs transformers ({error}): pip install 'untrain[diffusion]'.") from error
    classes = [getattr(transformers, name) for name in (kind, *others)]
    try:
        folder = fetch_folder(source, _FILES)
        # What has no class of its own by its name would ask for the folder's; the others take no such argument.
        own = [{"trust_remote_code": False} if name.startswith("Auto") else {} for name in (kind, *others)]
        model, loaded = classes[0].from_pretrained(folder, output_loading_info=True, weights_only=True, **own[0])
        rest = [each.from_pretrained(folder, **more) for each, more in zip(classes[1:], own[1:], strict=True)]
    except (CheckpointError, pickle.UnpicklingError, OSError, ValueError, RuntimeError, LookupError) as error:
        raise CheckpointError(
            f"{source} cannot be loaded as {kind}: {refusal_of(error)} Give a folder that transformers saved, with the "
            f"model and all that prepares its inputs ({', '.join(others)}), or a hub id."
        ) from error
    lacking = sorted(loaded["missing_keys"])
    if lacking:  # the library draws them at random
        raise CheckpointError(f"{source} is no whole {kind}: {len(lacking)} weights are missing, such as {lacking[0]}.")
    return [model.eval(), *rest]


_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""What an image classifier or CLIP may have besides its weights."""


def labelled_judge(section: Judge, engine: Engine) -> Classifier:
    """Reads the judge that has its weights already and names its classes, where no data do.

    Raises:
        SettingError: if the recipe gives none, or does not say what its classes are called.
    """
    kind, _, source = section.name.partition(":")
    if kind == "hf" and section.checkpoint is None:
        return hub_classifier(source, engine.device)
    if section.checkpoint is None or not section.classes:
        raise SettingError(
            "who says whether a concept is there? Give judge.name: hf:ID, a classifier of transformers whose labels "
            "concepts.forget names; or judge.checkpoint and judge.classes; or detection.detector: nudity."
        )
    if section.mean is None or section.std is None:
        raise SettingError("judge.checkpoint needs judge.mean and judge.std: how its inputs were normalised.")
    size = section.image_size or 32
    module = read_judge(section, section.classes, (3, size, size), engine)
    task = Recognition(len(section.classes), tuple(section.mean), tuple(section.std))

    def prepared(images: Tensor) -> Tensor:
        resized = nn.functional.interpolate(
            images.to(engine.device).float(), (size, size), mode="bilinear", antialias=True
        )
        return task.normalize(resized.round().clamp(0, 255).to(torch.uint8))

    return Classifier(classifier_features(module, prepared, section.name), section.classes)
