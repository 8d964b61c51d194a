"""Sources: data sets of labelled samples that can also gather many samples at once.

What fits into memory once decoded becomes `Arrays`, or `Columns` where a sample is more than an input and a label:
tensors that can live on the device. Of many files each is decoded when it is needed first, and kept. What does not fit
stays encoded (`Images`) and is decoded on access, so that worker processes can do it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from untrain.data.columns import Columns, check_column, check_ids, check_labels, class_names
from untrain.data.decoding import Remarks, decode, size_of_whole
from untrain.data.encoded import DECODED_FIRST, IN_MEMORY_BYTES, FileRows, Rows
from untrain.data.geometry import Size, size_facts
from untrain.data.in_memory import take
from untrain.data.sections import Interpolation
from untrain.data.source import Source
from untrain.errors import DataError, spell
from untrain.io import hash_json, hash_tensors
from untrain.lazy import Image, np, torch
from untrain.types import Batch

if TYPE_CHECKING:
    from torch import Tensor


class Arrays(Columns):
    """A source whose inputs and labels are tensors in memory: columns "input" and "label".

    Args:
        input: [N, …] of numbers.
        labels: [N] of an integer type, from 0 to the number of classes − 1.
        classes: names; None names the classes "0", "1", … up to the largest label.
        ids: a unique name for every sample, or None.

    Raises:
        DataError: if a value is NaN or infinite, or labels do not fit; EmptySet if there is no sample.
    """

    def __init__(
        self,
        input: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int],
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        checked = check_column("input", input)
        if checked.ndim < 2:
            raise DataError(f"inputs must be [N, …], one row a sample; they are {list(checked.shape)}.")
        numbers = check_labels(labels, len(checked), classes)
        super().__init__({"input": checked, "label": numbers.to(checked.device)}, numbers, classes, ids)

    @property
    def input(self) -> Tensor:
        """The inputs, [N, …]."""
        return self.columns["input"]


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Images that were decoded so far.

    Attributes:
        pixels: uint8 [N, C, H, W], of those alone; memory of the others is not touched.
        there: which ones these are, bool [N].
    """

    pixels: Tensor
    there: Tensor

    @classmethod
    def none(cls, count: int, shape: Sequence[int]) -> DecodedImages:
        """Room for so many."""
        return cls(torch.empty((count, *shape), dtype=torch.uint8), torch.zeros(count, dtype=torch.bool))

    def put(self, place: int, image: Tensor) -> None:
        """Keeps an image."""
        self.pixels[place] = image
        self.there[place] = True


class Images(Source):
    """A source whose images stay encoded, in files or tables, and are decoded on access.

    It can be pickled and read by worker processes.

    Args:
        rows: the encoded images.
        labels: class number of every sample, [N].
        classes: names of the classes.
        ids: a unique name for every sample, or None.
        image_size: the shorter side is resized to so many pixels and the centre cut out, a square; or how exactly; None
            leaves images as they are, which then must be of one size.
        grayscale: one channel instead of red, green, blue.
        interpolation: of resized images.
        order: the row of every sample, [N]; None: sample i is row i.
        remarks: what was said of these images already.
        decoded: where images are kept once they are decoded; None: each is decoded every time.
        places: of the samples there, [N].
    """

    in_memory = False

    def __init__(
        self,
        rows: Rows,
        labels: Tensor | np.ndarray | Sequence[int],
        classes: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        *,
        image_size: Size = None,
        grayscale: bool = False,
        interpolation: Interpolation = "bilinear",
        order: Tensor | None = None,
        remarks: Remarks | None = None,
        decoded: DecodedImages | None = None,
        places: Tensor | None = None,
    ) -> None:
        count = len(labels)
        self.rows = rows
        self.labels = check_labels(labels, count, classes)
        self.classes = class_names(self.labels, classes)
        self.ids = check_ids(ids, count)
        self.image_size = image_size
        self.grayscale = grayscale
        self.interpolation = interpolation
        self.order = torch.arange(count) if order is None else order
        self.remarks = remarks or Remarks()
        if decoded is None:
            self.shape = tuple(self._decode(rows.read([int(self.order[0])])[0], 0).shape)
        else:
            self.shape = tuple(decoded.pixels.shape[1:])
        self._decoded, self.keeps = decoded, decoded is not None
        self.places = torch.arange(count) if places is None else places

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process needs: not the images that this one has decoded."""
        return {**self.__dict__, "_decoded": None, "keeps": False}

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.labels)

    def name(self, i: int) -> str:
        """What sample i is called in messages: a file's path, or a table and row."""
        return self.rows.name(int(self.order[i]))

    def __getitem__(self, i: int) -> Batch:
        """Sample i, decoded; a DataError names an image that cannot be."""
        batch = self.batch(torch.tensor([range(len(self))[i]]))
        return {name: tensor[0] for name, tensor in batch.items()}

    def batch(self, indices: Tensor) -> Batch:
        """Samples at these positions; what is kept is decoded once."""
        indices = indices.cpu()
        if self._decoded is None:
            inputs = torch.stack(self._decode_some(indices))
        else:
            missing = indices[~self._decoded.there[self.places[indices]]].unique()
            for i, image in zip(missing.tolist(), self._decode_some(missing), strict=True):
                self._decoded.put(int(self.places[i]), image)
            inputs = take(self._decoded.pixels, self.places[indices])
        return {"input": inputs, "label": self.labels[indices], "index": indices}

    def _decode_some(self, indices: Tensor) -> list[Tensor]:
        encoded = self.rows.read(self.order[indices].tolist())
        if not self.keeps:
            return [self.decode(i, data) for i, data in zip(indices.tolist(), encoded, strict=True)]
        with decoding_threads(self.shape) as apply:
            return list(apply(self.decode, indices.tolist(), encoded))

    def decode(self, i: int, data: bytes) -> Tensor:
        """The bytes of sample i as a uint8 tensor of the source's shape.

        Raises:
            DataError: names the image if it is damaged, or of another size than the first one.
        """
        image = self._decode(data, i)
        if tuple(image.shape) != self.shape:
            raise DataError(
                f"{self.name(i)} is {image.shape[2]}×{image.shape[1]} pixels, {self.name(0)} is "
                f"{self.shape[2]}×{self.shape[1]}: images of unequal size need "
                f"{spell('--data.image_size', 'image_size')}, such as 224."
            )
        return image

    def is_whole(self, data: bytes) -> bool:
        """Whether the bytes of a sample are those of an image that can be used, as far as they tell undecoded."""
        size = size_of_whole(data)
        if size is None or size[0] * size[1] > min(_MOST_PIXELS, Image.MAX_IMAGE_PIXELS or _MOST_PIXELS):
            return False
        return self.image_size is not None or size == (self.shape[2], self.shape[1])

    def _decode(self, data: bytes, i: int) -> Tensor:
        how = (self.image_size, self.grayscale, self.remarks, self.interpolation)
        return decode(data, self.name(i), *how)

    def keeping(self, decoded: DecodedImages) -> Images:
        """The same samples, which are kept there once they are decoded."""
        made = object.__new__(Images)
        made.__dict__.update(self.__dict__, _decoded=decoded, keeps=True, places=torch.arange(len(self)))
        return made

    def select(self, indices: Tensor) -> Images:
        """A source of these samples alone, numbered from 0."""
        chosen = indices.cpu()
        ids = None if self.ids is None else [self.ids[i] for i in chosen.tolist()]
        return Images(
            self.rows,
            self.labels[chosen],
            self.classes,
            ids,
            image_size=self.image_size,
            grayscale=self.grayscale,
            interpolation=self.interpolation,
            order=self.order[chosen],
            remarks=self.remarks,
            decoded=self._decoded,
            places=self.places[chosen],
        )

    def to(self, device: torch.device | str) -> Images:
        """Itself: images are decoded on the CPU."""
        return self

    def fingerprint(self) -> str:
        """A hash of the encoded images, their order, labels and class names, and of how they are decoded."""
        tensors = hash_tensors({"label": self.labels, "order": self.order})
        how = [size_facts(self.image_size), self.grayscale]
        how += [self.interpolation] if self.interpolation != "bilinear" else []
        return hash_json([self.rows.fingerprint(), tensors, self.classes, *how])

    def digests(self, positions: Tensor) -> list[str] | None:
        """Hashes of the encoded images; see `Source`."""
        rows = self.order[positions.cpu()].tolist()
        if not isinstance(self.rows, FileRows) or not all(row in self.rows.digests for row in rows):
            return None
        return [self.rows.digest(row) for row in rows]


_MOST_PIXELS = 1 << 22
"""Larger images are looked at by decoding them: whether they unpack into too much is said there."""


class Relabelled(Source):
    """A source under other class numbers and names.

    Args:
        source: the samples.
        numbers: new number of each of its classes, by its old one.
        classes: names by the new numbers.
    """

    def __init__(self, source: Source, numbers: Sequence[int], classes: Sequence[str]) -> None:
        self.source = source
        self.numbers = torch.tensor(numbers, dtype=torch.int64)
        self.classes = tuple(classes)
        self.labels = self.numbers[source.labels]
        self.ids, self.shape = source.ids, source.shape
        self.in_memory, self.keeps = source.in_memory, source.keeps

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.source)

    def __getitem__(self, i: int) -> Batch:
        """Sample i; see `Source`."""
        return self._renumbered(self.source[i])

    def batch(self, indices: Tensor) -> Batch:
        """Samples at these positions; see `Source`."""
        return self._renumbered(self.source.batch(indices))

    def _renumbered(self, batch: Batch) -> Batch:
        label = batch["label"]
        return {**batch, "label": self.numbers.to(label.device)[label]}

    def select(self, indices: Tensor) -> Relabelled:
        """These samples alone, numbered from 0."""
        return Relabelled(self.source.select(indices), self.numbers.tolist(), self.classes)

    def to(self, device: torch.device | str) -> Relabelled:
        """The same samples on another device."""
        moved = self.source.to(device)
        return self if moved is self.source else Relabelled(moved, self.numbers.tolist(), self.classes)

    def digests(self, positions: Tensor) -> list[str] | None:
        """Hashes of the content; see `Source`."""
        return self.source.digests(positions)

    def fingerprint(self) -> str:
        """A hash of the content, and of the numbers and names."""
        return hash_json([self.source.fingerprint(), self.numbers.tolist(), self.classes])


def decoded_if_small(source: Source) -> Source:
    """The source with its images decoded, now or once each is needed, where they take at most `IN_MEMORY_BYTES`.

    Up to `DECODED_FIRST` files, and images in tables, are decoded now. More files are looked at: each is read, hashed
    and, where it does not show that it is whole, decoded; see `size_of_whole`. Of files that take more than
    `IN_MEMORY_BYTES` encoded not even that is done.

    Raises:
        DataError: if images cannot be used; names at most ten of them.
    """
    if not isinstance(source, Images) or len(source) * int(np.prod(source.shape)) > IN_MEMORY_BYTES:
        return source
    if len(source) > DECODED_FIRST and isinstance(source.rows, FileRows):
        return _decoded_later(source, source.rows)
    inputs = torch.empty((len(source), *source.shape), dtype=torch.uint8)
    for i, image in decode_all(source):
        inputs[i] = image
    return Arrays(inputs, source.labels, source.classes, source.ids)


def _decoded_later(images: Images, files: FileRows) -> Images:
    decoded = DecodedImages.none(len(images), images.shape)
    order = images.order.tolist()
    broken: list[str] = []
    for i, row in enumerate(order if files.size(order) <= IN_MEMORY_BYTES else ()):
        try:
            data = files.look(row)
            if not images.is_whole(data):
                decoded.put(i, images.decode(i, data))
        except DataError as error:
            broken.append(str(error))
    _check_none_broken(broken)
    return images.keeping(decoded)


def decode_all(images: Images) -> Iterator[tuple[int, Tensor]]:
    """Every image decoded, in order, large ones by threads (decoders let go of the interpreter's lock).

    Raises:
        DataError: at the end, if images cannot be decoded; names at most ten of them.
    """
    from rich.console import Console
    from rich.progress import track

    def attempt(i: int, data: bytes) -> Tensor | DataError:
        try:
            return images.decode(i, data)
        except DataError as error:
            return error

    broken: list[str] = []
    console = Console(stderr=True)
    starts = range(0, len(images), 64)  # so many files, of up to 128 MiB each, are in memory at a time
    hidden = len(images) < 5_000 or not console.is_terminal
    with decoding_threads(images.shape) as apply:
        for start in track(starts, "decoding images", console=console, transient=True, disable=hidden):
            indices = range(start, min(start + 64, len(images)))
            encoded = images.rows.read(images.order[start : indices.stop].tolist())
            for i, result in zip(indices, apply(attempt, indices, encoded), strict=True):
                if isinstance(result, torch.Tensor):
                    yield i, result
                else:
                    broken.append(str(result))
    _check_none_broken(broken)


@contextmanager
def decoding_threads(shape: Sequence[int]) -> Iterator[Callable[..., Iterator[Any]]]:
    """Gives what applies a decoder to images of a shape: `map`, or that of threads where images are large."""
    if math.prod(shape) < 1 << 14:  # threads slow small images down
        yield map
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield pool.map


def _check_none_broken(broken: Sequence[str]) -> None:
    if broken:
        more = f"\n… and {len(broken) - 10} more" if len(broken) > 10 else ""
        count = f"{len(broken)} images cannot be used:\n" if len(broken) > 1 else ""
        raise DataError(count + "\n".join(broken[:10]) + more)
