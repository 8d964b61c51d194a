"""Generated images: made condition by condition from numbered noise, and written as folders, arrays and grids.

The noise of image i of class c comes from a generator of its own, so an image is the same in a batch of any size, on
any number of processes, and can be made again alone. That is what makes every writer here resumable: what is there is
left as it is, and what is missing is made.
"""

from __future__ import annotations

import math
import re
import shutil
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from untrain.engine import Engine, generator_of
from untrain.errors import DataError, FolderError, ModelError, SettingError
from untrain.folders import exclusive_lock
from untrain.io import hash_json, open_atomic, write_bytes, write_json
from untrain.lazy import Image, nn, np, torch
from untrain.models.checkpoints import state_hash
from untrain.reading import DAMAGED, check_regular, open_regular, read_json
from untrain.sampling import Sampler
from untrain.types import Batch, GenerativeTask

if TYPE_CHECKING:
    from torch import Tensor

Decode = Callable[["Tensor"], "Tensor"]
"""Latents [B, C, h, w] → images [B, 3, H, W], uint8 or in [−1, 1]."""

Counts = Mapping[int, int]
"""Class → how many images of it."""

RECORD = "samples.json"
"""What a set was made with, in its folder, or beside its file as NAME.samples.json."""

GAP, LEAST = 2, 32
"""Pixels between the images of a grid, and how wide and high each is at least."""


@dataclass(frozen=True)
class Conditions:
    """What images can be made of, by number: classes, or prompts.

    Attributes:
        blank: (numbers [B] on the device, (C, H, W)) → a batch without images, as the task's `generate` takes it.
        key: number → what stands for it in the seeds of noise.
    """

    blank: Callable[[Tensor, Sequence[int]], Batch]
    key: Callable[[int], str | int]


class ImageBatch(NamedTuple):
    """A batch of generated images.

    Attributes:
        images: [B, C, H, W] in [−1, 1], or latents, on the engine's device; what `decode` gives, where there is one.
        labels: their classes, or the numbers of their conditions, [B], on the CPU.
        numbers: their numbers within their classes, [B], on the CPU.
    """

    images: Tensor
    labels: Tensor
    numbers: Tensor


@dataclass(frozen=True, eq=False)
class ImageMaker:
    """Makes images of numbered conditions, always of the same noise; models go in and out.

    Attributes:
        task: of the models; prepared.
        conditions: what the numbers stand for.
        shape: (C, H, W) of an image or latent.
        sampler: steps, η, guidance scale.
        engine: device, precision, processes.
        seed: with condition and number it decides an image's noise.
        batch_size: images at a time, over all processes.
        decode: makes images of latents, on each process for its own share.

    Raises:
        SettingError: the task cannot be sampled so.
    """

    task: GenerativeTask
    conditions: Conditions
    shape: tuple[int, ...]
    sampler: Sampler
    engine: Engine
    seed: int = 0
    batch_size: int = 64
    decode: Decode | None = None

    def __post_init__(self) -> None:
        """Checks what can be checked before anything is made."""
        self.task.visited(self.sampler)
        if self.batch_size < 1:
            raise SettingError(f"the batch size must be at least 1, not {self.batch_size}.")

    def generate(
        self, model: nn.Module, labels: Tensor, numbers: Tensor, label: str | None = "sampling"
    ) -> Iterator[ImageBatch]:
        """Makes these images batch by batch; all processes get all of them.

        Args:
            model: predicts noise; on the engine's device.
            labels: of each image its condition, int64 [N].
            numbers: its number within that, int64 [N].
            label: what the progress bar is called; None: no bar.
        """
        size = self.batch_size
        parts = list(zip(labels.split(size), numbers.split(size), strict=True)) if len(labels) else []
        if label is None:
            for part in parts:
                yield ImageBatch(self._batch(model, *part, lambda: None), *part)
            return
        steps = len(self.task.visited(self.sampler))
        with self.engine.progress(label, len(parts) * steps) as bar:
            done = 0
            for part in parts:
                note = f"{done} of {len(labels)} images"
                images = self._batch(model, *part, partial(bar.advance, note))
                done += len(images)
                yield ImageBatch(images, *part)

    def collect(
        self, model: nn.Module, conditions: Sequence[int], count: int, label: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Makes `count` images of each condition: uint8 [N, C, H, W], and their conditions, [N], both on the CPU."""
        made = self.generate(model, *number_images(dict.fromkeys(conditions, count)), label)
        parts = [(to_uint8(part.images).cpu(), part.labels) for part in made]
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

    def _batch(self, model: nn.Module, labels: Tensor, numbers: Tensor, advance: Callable[[], None]) -> Tensor:
        """Images of one batch, gathered from all processes."""
        mine = self.engine.shard({"label": labels, "number": numbers})
        rows = len(mine["label"])
        if not rows:  # a process without a share makes one image for nothing, and so knows what to gather
            mine = {"label": labels[:1], "number": numbers[:1]}
        keys = zip(mine["label"].tolist(), mine["number"].tolist(), strict=True)
        generators = [generator_of(self.seed, "sample", self.conditions.key(c), i) for c, i in keys]
        blank = self.conditions.blank(mine["label"].to(self.engine.device), self.shape)
        dtype = next((p.dtype for p in model.parameters()), blank["input"].dtype)
        batch = {**blank, "input": blank["input"].to(dtype)}
        with self.engine.autocast():
            images = self.task.generate(model, batch, generators, self.sampler, advance=advance)
        if self.decode is not None:  # not under autocast: VAEs overflow in fp16
            with torch.no_grad():
                images = self.decode(images)
        return self.engine.gather(images[:rows])


def number_images(counts: Counts, first: int = 0) -> tuple[Tensor, Tensor]:
    """Numbers all images of a mapping: labels and numbers, [N] each, class after class."""
    labels = torch.tensor([c for c, count in counts.items() for _ in range(count)], dtype=torch.long)
    numbers = torch.tensor([first + i for count in counts.values() for i in range(count)], dtype=torch.long)
    return labels, numbers


def to_uint8(images: Tensor) -> Tensor:
    """Images in [−1, 1] as bytes: 127.5 (x + 1), rounded and kept in 0 … 255; bytes are given back as they are.

    Raises:
        ModelError: if a value is not finite.
    """
    if images.dtype == torch.uint8:
        return images
    if not torch.isfinite(images).all():
        raise ModelError("the model makes images that are not finite: its weights are damaged. Make them again.")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor) -> Image.Image:
    """One picture of images [R, K, C, H, W], bytes or in [−1, 1]: R rows, K columns, on white.

    Small images are enlarged by a whole number, each pixel to a square of one colour.

    Raises:
        DataError: if the images have neither 1 nor 3 channels.
    """
    rows, columns, _, height, width = images.shape
    scale = math.ceil(LEAST / min(height, width)) if min(height, width) < LEAST else 1
    pixels = pixels_of(images.flatten(0, 1)).repeat(scale, axis=1).repeat(scale, axis=2)
    down, along = height * scale + GAP, width * scale + GAP
    canvas = np.full((rows * down - GAP, columns * along - GAP, pixels.shape[-1]), 255, dtype=np.uint8)
    for k, image in enumerate(pixels):
        top, left = k // columns * down, k % columns * along
        canvas[top : top + height * scale, left : left + width * scale] = image
    return _picture(canvas)


def pixels_of(images: Tensor) -> np.ndarray:
    """Images [B, C, H, W] as bytes [B, H, W, C], C 1 or 3."""
    if images.shape[1] not in (1, 3):
        raise DataError(
            f"images of {images.shape[1]} channels cannot be shown: 1 or 3 can. Latents need the decoder of their VAE."
        )
    return to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


# Sets in files.


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A set of generated images, by all that decides them."""

    model: nn.Module
    """Predicts noise; on the device that writes the set."""
    maker: ImageMaker
    """How images are made."""
    counts: Counts
    """Class → how many images of it, numbered from 0."""
    classes: Sequence[str] | None = None
    """Names of the model's classes; None: they are called by their numbers."""
    decoder: str | None = None
    """A hash of what latents are decoded with: images of another decoder are other images."""

    def __post_init__(self) -> None:
        """Checks that there are images, that they can be made, and that they can be shown."""
        if not self.counts or min(self.counts.values()) < 1:
            raise SettingError("a set needs at least one class, and at least one image of each class.")
        for c in self.counts:  # a class that the model has not is found before a note of the set is written
            self.maker.conditions.blank(torch.tensor([c], device=self.maker.engine.device), self.maker.shape)
        if self.maker.decode is None and self.maker.shape[0] not in (1, 3):
            raise SettingError(
                f"the model makes {self.maker.shape[0]} channels, which cannot be shown: 1 or 3 can. If these are "
                "latents, give the whole pipeline with its VAE."
            )

    def name(self, c: int) -> str:
        """Names a class."""
        return str(c) if self.classes is None or c >= len(self.classes) else self.classes[c]

    def numbered(self) -> tuple[Tensor, Tensor]:
        """Returns classes and numbers of the images in order, [N] each."""
        return number_images(self.counts)

    def facts(self, form: str) -> dict[str, Any]:
        """Returns what decides the set, as JSON."""
        maker = self.maker
        return {
            "form": form,
            "weights": state_hash(self.model),
            "decoder": self.decoder,
            "task": asdict(maker.task),  # type: ignore[call-overload]
            "sampler": asdict(maker.sampler),
            "seed": maker.seed,
            "shape": list(maker.shape),
            "precision": maker.engine.precision,
            "counts": {str(c): count for c, count in self.counts.items()},
            "names": {str(c): self.name(c) for c in self.counts},
        }

    def generate(self, positions: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Makes the images at some positions of the set's order: (positions [B], images [B, …]), in that order."""
        labels, numbers = (values[positions] for values in self.numbered())
        made = self.maker.generate(self.model, labels, numbers)
        for batch, part in zip(made, positions.split(self.maker.batch_size), strict=False):
            yield part, batch.images


def write_folder(images: ImageSet, folder: str | Path) -> int:
    """Writes CLASS/000000.png and so on; images that are there and whole are left.

    Args:
        images: the set.
        folder: is made if it is missing. Classes' names are made fit for file systems; the main process writes.

    Returns:
        How many images were made.

    Raises:
        FolderError: if the folder holds something else, or images from other settings or weights.
    """
    folder, engine = Path(folder), images.maker.engine
    names = _folder_names({c: images.name(c) for c in images.counts})
    labels, numbers = (values.tolist() for values in images.numbered())
    paths = [folder / names[c] / f"{i:06d}.png" for c, i in zip(labels, numbers, strict=True)]
    with claimed(folder, folder / RECORD, images.facts("folder"), engine):
        missing = missing_of(lambda: [is_picture(path) for path in paths], len(paths), engine)
        for positions, made in images.generate(missing):
            if engine.is_main:
                for position, pixels in zip(positions.tolist(), pixels_of(made), strict=True):
                    write_bytes(paths[position], png(_picture(pixels)))
        engine.wait()
        return len(missing)


def write_npz(images: ImageSet, path: str | Path) -> int:
    """Writes one .npz as public evaluators of ImageNet models read it.

    "arr_0" holds the images, uint8 [N, H, W, 3], gray ones repeated to three channels; "arr_1" the classes, int64 [N].
    What was made so far is kept in PATH.parts until the file is whole.

    Args and errors as of `write_folder`; returns how many images were made.

    Source: Dhariwal, Nichol: *Diffusion Models Beat GANs on Image Synthesis*, NeurIPS 2021; their evaluator's format.
    """
    return _write_file(images, Path(path), "npz", _is_array, _write_arrays)


def write_grid(images: ImageSet, path: str | Path) -> int:
    """Writes one PNG: a row for each class, a column for each number, 2 pixels between them.

    Images are enlarged to at least 32 pixels. What was made so far is kept in PATH.parts until the file is whole.

    Args and errors as of `write_folder`; returns how many images were made.
    """
    return _write_file(images, Path(path), "grid", _is_grid, _write_picture)


def _write_file(
    images: ImageSet,
    path: Path,
    form: str,
    whole: Callable[[Path, int], bool],
    write: Callable[[ImageSet, Path, list[_Part]], None],
) -> int:
    """Makes what is missing of a set in parts, then one file of them."""
    engine = images.maker.engine
    parts, total = path.with_name(f"{path.name}.parts"), sum(images.counts.values())
    with claimed(path, path.with_name(f"{path.name}.{RECORD}"), images.facts(form), engine):
        missing = missing_of(lambda: [True] * total if whole(path, total) else _covered(parts, total), total, engine)
        for positions, made in images.generate(missing):
            if engine.is_main:
                _save_parts(parts, positions, pixels_of(made))
        if engine.is_main:
            if not whole(path, total):
                write(images, path, _parts(parts, total))
            shutil.rmtree(parts, ignore_errors=True)
        engine.wait()
        return len(missing)


def missing_of(have: Callable[[], list[bool]], total: int, engine: Engine) -> Tensor:
    """Positions that are not there yet, [M]: the main process looks, all hear of it."""
    found = torch.tensor(have()) if engine.is_main else torch.zeros(total, dtype=torch.bool)
    shared = found.to(engine.device, torch.int64)
    engine.broadcast_([shared])
    return (shared == 0).nonzero().flatten().cpu()


@contextmanager
def claimed(target: Path, record: Path, facts: Mapping[str, Any], engine: Engine) -> Iterator[None]:
    """Lets no other process write these images inside the block, and notes beside them what they are made with.

    A note of a stopped run without images counts for nothing. The main process locks and writes.

    Raises:
        FolderError: if another process is at it, or there is something else, or images from other settings or weights.
    """
    if not engine.is_main:
        yield
        return
    with exclusive_lock(target.parent, name=target.name):
        _claim(target, record, facts)
        yield


def _claim(target: Path, record: Path, facts: Mapping[str, Any]) -> None:
    inside = record.parent == target
    if target.exists() and target.is_dir() != inside:
        what = "a file, but a folder" if inside else "a folder, but a file"
        raise FolderError(f"{target} is {what} is to be written. Choose another name for --out.")
    around = (target.iterdir() if target.exists() else ()) if inside else (target, Path(f"{target}.parts"))
    held = any(path.exists() and path != record and not path.name.startswith(".") for path in around)
    facts = {**facts, "fingerprint": hash_json(facts)}
    kept = _read_record(record)
    if held and kept is None:
        raise FolderError(f"{target} holds something else than images made here. Choose another --out.")
    if held and kept is not None and kept.get("fingerprint") != facts["fingerprint"]:
        changed = [key for key in facts if key != "fingerprint" and kept.get(key) != facts[key]]
        verb = "differs" if len(changed) == 1 else "differ"
        raise FolderError(
            f"{target} holds images that were made otherwise: {', '.join(changed)} {verb}. Choose another --out, or "
            f"remove it and {record.name} to make them anew."
        )
    if kept != facts:
        write_json(record, facts)


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except DataError:
        return None
    return content if isinstance(content, dict) and "fingerprint" in content else None


def _folder_names(names: Mapping[int, str]) -> dict[int, str]:
    """Names that any file system takes: no separators, no reserved names, not too long, different without case."""
    safe = {c: _safe(name) for c, name in names.items()}
    if len({name.casefold() for name in safe.values()}) == len(safe):
        return safe
    return {c: f"{name}-{c}" for c, name in safe.items()}


def _safe(name: str) -> str:
    plain = re.sub(r"[^\w ,()+-]", "_", unicodedata.normalize("NFC", name))
    plain = plain.encode()[:100].decode(errors="ignore").strip(" ")
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)?", plain)
    return f"_{plain}" if reserved else plain


def is_picture(path: Path) -> bool:
    """Whether a file is a whole PNG."""
    try:
        with open_regular(path) as file, Image.open(file, formats=("PNG",)) as image:
            image.verify()
    except (DataError, Image.DecompressionBombError, *DAMAGED):  # a SyntaxError is Pillow's word for a broken PNG
        return False
    return True


def _is_grid(path: Path, total: int) -> bool:
    return is_picture(path)


def _is_array(path: Path, total: int) -> bool:
    """Whether a file is a whole .npz of so many images."""
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as entry:
            np.lib.format.read_magic(entry)
            shape, _, _ = np.lib.format.read_array_header_1_0(entry)
            return bool(shape) and shape[0] == total and "arr_1.npy" in archive.namelist()
    except (DataError, *DAMAGED):
        return False


class _Part(NamedTuple):
    """Some consecutive images of a set, uint8 [rows, H, W, C] in a file."""

    start: int
    rows: int
    path: Path

    def read(self) -> np.ndarray:
        check_regular(self.path)
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


def _parts(folder: Path, total: int) -> list[_Part]:
    """The whole parts in a folder, in order."""
    found = []
    for path in sorted(folder.glob("*.npy")):
        try:
            part = _Part(int(path.stem), 0, path)
            part = part._replace(rows=len(part.read()))
        except (DataError, *DAMAGED):  # broken: its images are made again
            continue
        if part.start + part.rows <= total:
            found.append(part)
    return found


def _covered(folder: Path, total: int) -> list[bool]:
    have = [False] * total
    for start, rows, _ in _parts(folder, total):
        have[start : start + rows] = [True] * rows
    return have


def _save_parts(folder: Path, positions: Tensor, pixels: np.ndarray) -> None:
    """Writes a batch as one part for each run of consecutive positions."""
    gaps = (positions.diff() != 1).nonzero().flatten() + 1
    for run in torch.arange(len(positions)).tensor_split(gaps.tolist()):
        buffer = BytesIO()
        np.save(buffer, pixels[run.numpy()])
        write_bytes(folder / f"{int(positions[run[0]]):09d}.npy", buffer.getvalue())


def _write_arrays(images: ImageSet, path: Path, parts: list[_Part]) -> None:
    """Streams the parts into one .npz, so that a set may be larger than memory."""
    labels, _ = images.numbered()
    shape = (len(labels), *parts[0].read().shape[1:3], 3)
    with open_atomic(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo("arr_0.npy"), "w", force_zip64=True) as entry:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(entry, header)
            for part in parts:
                entry.write(np.broadcast_to(part.read(), (part.rows, *shape[1:])).tobytes())
        with archive.open(zipfile.ZipInfo("arr_1.npy"), "w") as entry:
            np.lib.format.write_array(entry, labels.numpy(), allow_pickle=False)


def _write_picture(images: ImageSet, path: Path, parts: list[_Part]) -> None:
    """A row for each class; where a class has fewer images than another, its row ends in white."""
    pixels = torch.from_numpy(np.concatenate([part.read() for part in parts])).permute(0, 3, 1, 2)
    counts = list(images.counts.values())
    cells = torch.full((len(counts), max(counts), *pixels.shape[1:]), 255, dtype=torch.uint8)
    for row, chosen in enumerate(pixels.split(counts)):
        cells[row, : len(chosen)] = chosen
    write_bytes(path, png(grid(cells)))
