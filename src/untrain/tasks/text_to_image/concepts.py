"""Concepts of a text-to-image pipeline: prompts with images, made by the pipeline where there are none, as a data set.

What a step needs of an image and a prompt is computed once: the posterior of its latent, and its embedded text. Both
are small (a 512 × 512 image: 128 KiB; a prompt: 231 KiB, stored once), so the VAE and the text encoders are done before
the first step. A tool that makes models forget must not keep what they forget: all that is written here lies in one
folder, which goes when the run ends.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from untrain.data.decoding import IMAGE_SUFFIXES, Remarks, to_tensor
from untrain.data.decoding import decode as decode_image
from untrain.data.encoded import FileRows, row_bytes
from untrain.data.samples import Arrays, Images, Source
from untrain.data.splits import Subset
from untrain.diffusion.denoisers import denoiser_of
from untrain.diffusion.images import Conditions, ImageMaker, is_picture, missing_of, pixels_of, png
from untrain.diffusion.latents import POSTERIOR, Latents, decode, encode, latent_shape
from untrain.diffusion.pipelines import flow_of, schedule_of
from untrain.diffusion.text import Prompts, architecture_of, check_pipeline, encode_prompts, own_size
from untrain.engine import Engine, on_device, seed_of
from untrain.errors import CheckpointError, DataError, EmptySet, Overlap, SettingError, spell
from untrain.folders import ensure_dir, exclusive_lock
from untrain.io import hash_json, hash_tensors, write_bytes
from untrain.models import checkpoints
from untrain.reading import IMAGE_LIMIT, LeftOut, expand, find_files, printable, read_bytes
from untrain.settings import check_arguments, describe
from untrain.tasks.text_to_image.from_prompts import Starts
from untrain.tasks.text_to_image.sections import ConceptImages
from untrain.tasks.text_to_image.task import TextToImage
from untrain.types import Batch

CACHE = ".concepts.tmp"
"""Folder of images and latents within a run's; by its name a temporary one, which is no part of a run."""
PIXELS = 1 << 18
"""So many are encoded at once: one image of 512 × 512, or many small ones."""


@check_arguments
@dataclass(frozen=True)
class Concept:
    """Something that a prompt asks for.

    Attributes:
        prompt: the text, as it would be given to the pipeline.
        images: what it looks like: a folder; a list of files, PIL images, arrays uint8 [H, W, 3], encoded bytes, or
            cells of a column of `datasets`; or a tensor [N, 3, H, W], uint8 or in [−1, 1]; None: the pipeline makes
            them.
        anchor: the text that the prompt is redirected to; None: of what is forgotten the empty prompt, of what is
            retained the prompt itself.
        label: what a classifier calls it that judges the result.
        links: whether links in a folder of images may lead out of it.
    """

    prompt: Any  # looked at below: the message says what it is for
    images: Any = None
    anchor: str | None = None
    label: str | None = None
    links: bool = False

    def __post_init__(self) -> None:
        """Checks the texts, and of the images that they are some."""
        if not isinstance(self.prompt, str):
            raise DataError(
                f"a concept's prompt is the text that would be given to the pipeline to have it drawn, not "
                f"{describe(self.prompt)}: write Concept('a photo of a dog', images=…), one for each prompt."
            )
        for name, text in (("prompt", self.prompt), ("anchor", self.anchor)):
            if text is not None and not text.strip():
                raise DataError(f"a concept's {name} must be a text that says something, not {text!r}.")
        if self.anchor == self.prompt:
            raise DataError(f"the anchor of {self.prompt!r} is the prompt itself: name what to make of it instead.")
        if not isinstance(self.images, str | Path | Tensor | Sequence | np.ndarray | NoneType):
            raise DataError(
                f"the images of {self.prompt!r} are a {type(self.images).__name__}: give a folder, a list of files or "
                "images ([image] of one), or a tensor [N, 3, H, W]; or none, and the pipeline makes them."
            )


def text_task(pipeline: Any, *, image_size: int | None = None, **settings: Any) -> TextToImage:
    """The task of a pipeline: its path and what it predicts are read off its scheduler, how it is called off its class.

    Args:
        pipeline: a supported one.
        image_size: height and width of the images, by which some flows are shifted; None: the pipeline's own.
        settings: what else the task is to have.

    Raises:
        ModelError: if the pipeline is not supported, or predicts something else than noise, v or a velocity.
        SettingError: if its prompts are to be dropped, and it is guided otherwise than by the empty prompt.
    """
    check_pipeline(pipeline)
    kind = architecture_of(pipeline)
    if kind.flows:
        own = flow_of(pipeline, kind.tokens_of_image(pipeline, image_size or own_size(pipeline)))
    else:
        own = schedule_of(pipeline, ("epsilon", "v_prediction"))
    if kind.guidance == "input":
        if settings.get("drop") not in (None, 0, TextToImage.drop):
            raise SettingError(
                f"drop: {type(pipeline).__name__} takes its guidance as an input and is not trained on empty prompts: "
                "leave drop out."
            )
        own["drop"] = 0.0
    return TextToImage(**{**settings, **own, "architecture": kind.name})


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────


def images_of(
    concept: Concept, number: int, texts: Sequence[str], how: ConceptImages | None = None, *, links: bool = False
) -> Source:
    """A user's images of a concept, all labelled with its number.

    Args:
        concept: has images.
        number: of its prompt.
        texts: all prompts.
        how: of what size files are to be; None: as they are.
        links: whether links in a folder may lead out of it, whatever the concept says.

    Raises:
        DataError: if they cannot be read or are of mixed size; names the first that differs.
        EmptySet: if there is none.
    """
    given, about = concept.images, f"the images of {concept.prompt!r}"
    if isinstance(given, str | Path):
        folder = expand(given)
        if not os.path.isdir(folder):
            raise DataError(f"{about}: {printable(folder)} is no folder. Give one, or a list of files.")
        left_out, follow = LeftOut(folder), links or concept.links
        given = find_files(folder, folder, IMAGE_SUFFIXES, links=follow, deep=False, left_out=left_out)
        left_out.warn()
    if isinstance(given, Tensor):
        if given.ndim != 4 or given.shape[1] != 3:
            raise DataError(f"{about} must be [N, 3, H, W], not {list(given.shape)}.")
        return Arrays(given, torch.full((len(given),), number), texts)
    if not len(given):
        raise EmptySet(f"{about}: there is none. Files must end in {', '.join(IMAGE_SUFFIXES)}.")
    labels = torch.full((len(given),), number)
    if all(isinstance(each, str | Path) for each in given):
        wanted = {} if how is None else {"image_size": how.image_size, "interpolation": how.interpolation}
        source = Images(FileRows(tuple(Path(each) for each in given)), labels, texts, **wanted)  # type: ignore[arg-type]
        for i in range(len(source)):
            source[i]  # decodes it: of what size it is must be known before the first step
        return source
    remarks = Remarks()
    pixels = [_pixels(image, f"{about}, number {i}", remarks) for i, image in enumerate(given)]
    other = next((i for i, image in enumerate(pixels) if image.shape != pixels[0].shape), None)
    if other is not None:
        unlike, first = ("×".join(map(str, pixels[i].shape[:0:-1])) for i in (other, 0))
        raise DataError(
            f"{about} are of mixed size: number 0 has {first} pixels, number {other} {unlike}. Resize them to one."
        )
    return Arrays(torch.stack(pixels), labels, texts)


def _pixels(image: Any, name: str, remarks: Remarks) -> Tensor:
    """uint8 [3, H, W] of an image in memory, or in a file."""
    if isinstance(image, str | Path):
        return decode_image(read_bytes(image, IMAGE_LIMIT), printable(image), remarks=remarks)
    if isinstance(image, bytes | Mapping):
        return decode_image(row_bytes(image, name, None), name, remarks=remarks)
    if isinstance(image, Image.Image | np.ndarray):
        return to_tensor(image, name, remarks=remarks)
    raise DataError(
        f"{name}, is a {type(image).__name__}: give files, PIL images, or arrays uint8 [H, W, 3]; tensors as one "
        "[N, 3, H, W], by torch.stack(images)."
    )


def make_images(maker: ImageMaker, pipeline: Any, prompts: Prompts, number: int, count: int, place: Path) -> Source:
    """Makes images of one prompt by the pipeline, in files; those that are there and whole are left.

    The noise of image i comes from a generator of its own, so it is the same in a batch of any size, on any number of
    processes, and after any interruption. The pipeline's safety checker is not asked: it would blacken what is to be
    forgotten.

    Args:
        maker: how images are made; the main process of its engine writes.
        pipeline: its network is on the engine's device.
        prompts: embedded, on the engine's device.
        number: of the prompt.
        count: how many images.
        place: the folder of these very images, named by all that decides them.

    Raises:
        FolderError: if the images cannot be written. ModelError: if they are not finite.
    """
    paths, engine = [place / f"{i:06d}.png" for i in range(count)], maker.engine
    missing = missing_of(lambda: [is_picture(path) for path in paths], len(paths), engine)
    label = f"images of {prompts.texts[number]!r}"
    for images, _, numbers in maker.generate(denoiser_of(pipeline), torch.full_like(missing, number), missing, label):
        if engine.is_main:
            for i, pixels in zip(numbers.tolist(), pixels_of(images), strict=True):
                write_bytes(paths[i], png(Image.fromarray(pixels)))
    engine.wait()
    return Images(FileRows(tuple(paths)), torch.full((count,), number), prompts.texts)


def prompt_conditions(task: TextToImage, prompts: Prompts) -> Conditions:
    """Returns the prompts as what images are made of, by number."""
    return Conditions(
        lambda numbers, shape: task.blank(prompts.rows(numbers, torch.zeros_like(numbers)), shape),
        lambda number: prompts.texts[number],
    )


def latent_shape_of(pipeline: Any, image_size: int | None = None) -> tuple[int, ...]:
    """(C, h, w) of the latents of images that a pipeline makes; None: of its own size."""
    size = image_size or own_size(pipeline)
    return latent_shape(pipeline.vae, (int(pipeline.vae.config.in_channels), size, size))


# ── data sets ───────────────────────────────────────────────────────────────────────────────────────────────────


class ConceptSet(Source, Dataset[Batch]):
    """Concepts as the network sees them: latents, and the embedded texts of each, gathered from one table.

    Its classes are the prompts. Nothing is made or encoded before the first sample is asked for.

    Args:
        make: gives the latents, or what stands in their place, labelled with the numbers of their prompts; called
            once, when they are needed.
        labels: those numbers, [N].
        prompts: the texts.
        anchors: of every text the number of its anchor, int64 [T].
        shape: (C, h, w) of a latent.
        origin: a hash of all that decides the latents.
    """

    in_memory = True
    ids: tuple[str, ...] | None = None

    def __init__(
        self,
        make: Callable[[], Latents | Starts],
        labels: Tensor,
        prompts: Prompts,
        anchors: Tensor,
        shape: tuple[int, ...],
        origin: str,
    ) -> None:
        self._make = make
        self.labels = labels
        self.prompts = prompts
        self.anchors = anchors
        self.classes, self.shape, self.origin = prompts.texts, shape, origin
        self._moved: dict[torch.device, ConceptSet] = {}

    @cached_property
    def latents(self) -> Latents | Starts:
        """The posteriors of all images, or what stands for images that are not made."""
        return self._make()

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.labels)

    def __getitem__(self, i: int) -> Batch:
        """Sample i, without the first dimension of `batch`."""
        return {name: tensor[0] for name, tensor in self.batch(torch.tensor([range(len(self))[i]])).items()}

    def batch(self, indices: Tensor) -> Batch:
        """Samples at these positions; see `TextToImage` for what a batch holds."""
        found = self.latents.batch(indices)
        return {**found, **self.prompts.rows(found["label"], self.anchors[found["label"]])}

    def select(self, indices: Tensor) -> "ConceptSet":
        """These samples alone, numbered from 0."""
        chosen, origin = indices.cpu(), hash_json([self.origin, indices.tolist()])
        parts = (self.labels[chosen], self.prompts, self.anchors, self.shape, origin)
        return ConceptSet(lambda: self.latents.select(chosen), *parts)

    def to(self, device: torch.device | str) -> "ConceptSet":
        """The same samples on another device; asked twice, the same copy is given."""
        place = torch.empty(0, device=device).device
        if place == self.anchors.device:
            return self
        if place not in self._moved:
            texts, anchors = self.prompts.to(place), self.anchors.to(place)
            self._moved[place] = ConceptSet(
                lambda: self.latents.to(place), self.labels, texts, anchors, self.shape, self.origin
            )
        return self._moved[place]

    def fingerprint(self) -> str:
        """A hash of images, texts, and of what they were encoded by."""
        return hash_json([self.origin, self.prompts.fingerprint(), self.anchors.tolist()])


Concepts = Concept | Sequence[Concept]


def concept_data(
    pipeline: Any,
    sets: Mapping[str, Concepts],
    engine: Engine,
    folder: Path,
    *,
    task: TextToImage | None = None,
    how: ConceptImages | None = None,
    seed: int = 0,
    links: bool = False,
) -> tuple[ConceptSet, dict[str, Tensor]]:
    """Concepts as one data set, and which of its samples are each set's; images are made where there are none.

    They are made and encoded when the first sample is asked for, and wait in the folder for a run that goes on.

    Args:
        pipeline: a supported one; its network and VAE are on their own devices again afterwards.
        sets: "forget" and "retain": a concept or several.
        engine: device, precision, processes.
        folder: of images and latents; what is there from an interrupted run is used, if its inputs are the same.
        task: the pipeline's, with what the user set; None: `text_task(pipeline)`.
        how: how images are made; None: as published. With `from_prompts` none is: rows then stand for images, and are
            for the task of `work_from_prompts`.
        seed: of their noise.
        links: whether links in folders of images may lead out of them.

    Returns:
        The data set, and set → its samples' positions in it, int64.

    Raises:
        DataError: a prompt is in both sets, too long, or images do not fit.
    """
    task, how = task or text_task(pipeline), how or ConceptImages()
    lists = concept_lists(sets)
    texts = [text for each in lists.values() for c in each for text in (c.prompt, c.anchor) if text is not None]
    prompts = encode_prompts(pipeline, texts, how.image_size or own_size(pipeline), device=engine.device)
    prompts = prompts.to("cpu")
    maker = _ConceptEncoder(pipeline, task, prompts, engine, folder, how, seed)
    concepts = [concept for each in lists.values() for concept in each]
    if how.from_prompts is not None:
        _check_without_images(concepts)
    sources = [
        None if c.images is None else images_of(c, prompts.number(c.prompt), prompts.texts, how, links=links)
        for c in concepts
    ]
    shape = maker.shape_of(concepts, sources)
    counts = [how.count if source is None else len(source) for source in sources]
    numbers = torch.tensor([prompts.number(c.prompt) for c in concepts])
    labels = numbers.repeat_interleave(torch.tensor(counts))
    origin = maker.origin(concepts, sources)
    data = ConceptSet(
        lambda: maker.latents(concepts, sources, labels, origin) if how.from_prompts is None else Starts(labels, shape),
        labels,
        prompts,
        _anchors(prompts, lists),
        shape,
        origin,
    )
    owners = torch.tensor([place for place, each in enumerate(lists.values()) for _ in each])
    owners = owners.repeat_interleave(torch.tensor(counts))
    return data, {name: (owners == place).nonzero().flatten() for place, name in enumerate(lists)}


def _check_without_images(concepts: Sequence[Concept]) -> None:
    given = next((concept.prompt for concept in concepts if concept.images is not None), None)
    if given is not None:
        raise SettingError(
            f"{given!r} has images, and from_prompts looks at none: leave out either "
            f"{spell('concepts.images.from_prompts', 'from_prompts=')} or its images."
        )


def concept_lists(sets: Mapping[str, Concepts]) -> dict[str, list[Concept]]:
    """Each set's concepts as a list; a single one is a list of one.

    Raises:
        EmptySet: if a set has none. DataError: if one holds something else, or a prompt is there twice. Overlap: if it
            is in two sets.
    """
    lists = {name: [given] if isinstance(given, Concept) else list(given) for name, given in sets.items()}
    seen: dict[str, str] = {}
    for name, concepts in lists.items():
        if not concepts:
            raise EmptySet(f"the {name} set names no concept: give at least one.")
        for concept in concepts:
            if not isinstance(concept, Concept):
                raise DataError(f"the {name} set must be concepts, untrain.Concept(prompt, …), not {concept!r}.")
            if concept.prompt in seen:
                same = seen[concept.prompt] == name
                kind, where = (DataError, f"twice in the {name} set") if same else (Overlap, "in two sets")
                raise kind(f"{concept.prompt!r} is {where}: a prompt can be there once, with all its images.")
            seen[concept.prompt] = name
    return lists


def _anchors(prompts: Prompts, lists: Mapping[str, Sequence[Concept]]) -> Tensor:
    """The number of every text's anchor, [T]: what is given, else the empty text (forgotten) or the text itself."""
    anchors = torch.arange(len(prompts.texts))
    for name, concepts in lists.items():
        for concept in concepts:
            number = prompts.number(concept.prompt)
            if concept.anchor is not None:
                anchors[number] = prompts.number(concept.anchor)
            elif name == "forget":
                anchors[number] = 0
    return anchors


@dataclass(frozen=True, eq=False)
class _ConceptEncoder:
    """Turns concepts into latents."""

    pipeline: Any
    task: TextToImage
    prompts: Prompts
    engine: Engine
    folder: Path
    how: ConceptImages
    seed: int

    @property
    def part(self) -> str:
        """What the pipeline calls its network."""
        return self.task.kind.part

    @cached_property
    def weights(self) -> dict[str, str]:
        """Hashes of what images are made and encoded by."""
        return {name: checkpoints.state_hash(self.pipeline.components[name]) for name in (self.part, "vae")}

    @cached_property
    def own_shape(self) -> tuple[int, ...]:
        """(C, h, w) of the latents of images that are made."""
        return latent_shape_of(self.pipeline, self.how.image_size)

    def shape_of(self, concepts: Sequence[Concept], sources: Sequence[Source | None]) -> tuple[int, ...]:
        """(C, h, w) of all latents.

        Raises:
            DataError: if they differ; names the first that does.
        """
        shapes = [
            self.own_shape if source is None else latent_shape(self.pipeline.vae, source.shape) for source in sources
        ]
        other = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
        if other is not None:
            raise DataError(
                f"images of {concepts[other].prompt!r} are not of the size of those of {concepts[0].prompt!r} (latents "
                f"{list(shapes[other][1:])} and {list(shapes[0][1:])}): resize them to one."
            )
        return tuple(shapes[0])

    def made_by(self, concept: Concept) -> list[Any]:
        """All that decides a concept's made images, as JSON; not how many, so that more can be made later."""
        chosen = torch.tensor([self.prompts.number(concept.prompt), 0])
        embedding = hash_tensors(self.prompts.rows(chosen, chosen))
        how = [asdict(self.how.sampler), self.own_shape, self.seed, self.engine.precision]
        return [self.weights, concept.prompt, embedding, asdict(self.task), *how]

    def origin(self, concepts: Sequence[Concept], sources: Sequence[Source | None]) -> str:
        """A hash of all that decides the latents."""
        parts = [
            [self.made_by(concept), self.how.count] if source is None else [concept.prompt, source.fingerprint()]
            for concept, source in zip(concepts, sources, strict=True)
        ]
        way = [] if self.how.from_prompts is None else [asdict(self.how.from_prompts)]
        return hash_json([parts, self.weights["vae"], *way])

    def latents(
        self, concepts: Sequence[Concept], sources: Sequence[Source | None], labels: Tensor, origin: str
    ) -> Latents:
        """The posteriors of all concepts' images; read from the folder if they are there."""
        own = exclusive_lock(ensure_dir(self.folder), wait=True) if self.engine.is_main else nullcontext()
        with own:  # another method of a comparison may be making the same ones
            return self._latents(concepts, sources, labels, origin)

    def _latents(
        self, concepts: Sequence[Concept], sources: Sequence[Source | None], labels: Tensor, origin: str
    ) -> Latents:
        path, engine = self.folder / f"latents-{origin[:16]}.safetensors", self.engine
        there = torch.tensor([int(_is_whole(path, origin))], device=engine.device)
        engine.broadcast_([there])
        if int(there):
            return Latents(checkpoints.load_state(path)[0]["posterior"], labels, self.prompts.texts, origin=origin)
        pipeline = self.pipeline
        with on_device(engine.device, denoiser_of(pipeline), pipeline.vae):
            prompts = self.prompts.to(engine.device)
            whole = [
                self._made(concept, prompts) if source is None else source
                for concept, source in zip(concepts, sources, strict=True)
            ]
            joined = _Joined(whole, labels)
            at_once = max(1, PIXELS // (joined.shape[1] * joined.shape[2]))
            encoded = encode(pipeline.vae, joined, engine, batch_size=at_once)
        batch = encoded.batch(torch.arange(len(encoded)))
        posterior = torch.stack([batch[name].cpu() for name in POSTERIOR], 1)
        if engine.is_main:
            checkpoints.save({"posterior": posterior}, path, {"origin": origin})
        engine.wait()
        return Latents(posterior, labels, self.prompts.texts, origin=origin)

    def _made(self, concept: Concept, prompts: Prompts) -> Source:
        how, pipeline = self.how, self.pipeline
        maker = ImageMaker(
            self.task,
            prompt_conditions(self.task, prompts),
            self.own_shape,
            how.sampler,
            self.engine,
            seed_of(self.seed, "concept"),
            how.batch_size,
            partial(decode, pipeline.vae),
        )
        place = self.folder / hash_json(self.made_by(concept))[:16]
        return make_images(maker, pipeline, prompts, prompts.number(concept.prompt), how.count, place)


def _is_whole(path: Path, origin: str) -> bool:
    """Whether a file holds the latents of this origin; a broken one is made again."""
    if not path.is_file():
        return False
    try:
        return bool(checkpoints.load_state(path)[1].get("origin") == origin)
    except CheckpointError:
        return False


class _Joined(Source, Dataset[Batch]):
    """Sources one after another, labelled anew: as much of a source as encoding looks at."""

    in_memory = False
    ids: tuple[str, ...] | None = None

    def __init__(self, sources: Sequence[Source], labels: Tensor) -> None:
        self.sources = sources
        self.labels = labels
        self.classes, self.shape = sources[0].classes, sources[0].shape
        self.ends = torch.tensor([len(source) for source in sources]).cumsum(0)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, i: int) -> Batch:
        return {name: tensor[0] for name, tensor in self.batch(torch.tensor([range(len(self))[i]])).items()}

    def batch(self, indices: Tensor) -> Batch:
        owners = torch.searchsorted(self.ends, indices, right=True)
        starts = torch.cat([self.ends.new_zeros(1), self.ends])
        parts = [
            self.sources[int(owner)].batch(indices[owners == owner] - starts[owner])["input"]
            for owner in owners.unique()
        ]  # in the order of indices, which ascend
        if len({part.dtype for part in parts}) > 1:
            parts = [part.float() / 127.5 - 1 if part.dtype == torch.uint8 else part for part in parts]
        return {"input": torch.cat(parts), "label": self.labels[indices], "index": indices}

    def select(self, indices: Tensor) -> Source:
        return Subset(self, indices)

    def to(self, device: torch.device | str) -> "_Joined":
        return self

    def fingerprint(self) -> str:
        return hash_json([source.fingerprint() for source in self.sources])


@contextmanager
def until_done(folder: Path | None, engine: Engine, *, keep: bool = False) -> Iterator[Path]:
    """A folder for what a run computes once. It goes when the block ends, and stays if it was interrupted.

    Args:
        folder: None: a temporary one, which goes in any case.
        engine: the main process removes it, once all are done.
        keep: leave it there, for a user who asked for the images.

    Raises:
        SettingError: if several processes are to share a folder that nobody named.
    """
    if folder is None:
        if engine.num_processes > 1:
            raise SettingError(
                f"several processes share what they make in a folder: name one with {spell('--out', 'out=')}."
            )
        with tempfile.TemporaryDirectory(prefix="untrain-") as place:
            yield Path(place)
        return
    yield folder
    if not keep:
        remove(folder, engine)


def remove(folder: Path, engine: Engine) -> None:
    """Removes what was computed once, when all processes are done with it."""
    engine.wait()
    if engine.is_main:
        shutil.rmtree(folder, ignore_errors=True)
