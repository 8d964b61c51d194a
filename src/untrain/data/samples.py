"""Sources: data sets of labelled samples that can also gather many samples at once.

What fits into memory once decoded becomes `Arrays`, or `Columns` where a sample is more than an input and a label:
tensors that can live on the device. What does not stays encoded (`Images`) and is decoded on access, so that worker
processes can do it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from untrain.data.columns import Columns, check_column, check_ids, check_labels, class_names
from untrain.data.decoding import Remarks, decode
from untrain.data.encoded import IN_MEMORY_BYTES, Rows
from untrain.data.geometry import Size, size_facts
from untrain.data.sections import Interpolation
from untrain.data.source import Source
from untrain.errors import DataError, spell
from untrain.io import hash_json, hash_tensors
from untrain.lazy import np, torch
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
        first = self._decode(rows.read([int(self.order[0])])[0], 0)
        self.shape = tuple(first.shape)

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
        """Samples at these positions, decoded one after the other."""
        indices = indices.cpu()
        encoded = self.rows.read(self.order[indices].tolist())
        inputs = [self.decode(i, data) for i, data in zip(indices.tolist(), encoded, strict=True)]
        return {"input": torch.stack(inputs), "label": self.labels[indices], "index": indices}

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

    def _decode(self, data: bytes, i: int) -> Tensor:
        how = (self.image_size, self.grayscale, self.remarks, self.interpolation)
        return decode(data, self.name(i), *how)

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
        self.ids, self.shape, self.in_memory = source.ids, source.shape, source.in_memory

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

    def fingerprint(self) -> str:
        """A hash of the content, and of the numbers and names."""
        return hash_json([self.source.fingerprint(), self.numbers.tolist(), self.classes])


def decoded_if_small(source: Source) -> Source:
    """The source with its images decoded, where they take at most `IN_MEMORY_BYTES`."""
    if not isinstance(source, Images) or len(source) * int(np.prod(source.shape)) > IN_MEMORY_BYTES:
        return source
    inputs = torch.empty((len(source), *source.shape), dtype=torch.uint8)
    for i, image in decode_all(source):
        inputs[i] = image
    return Arrays(inputs, source.labels, source.classes, source.ids)


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
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        apply = pool.map if np.prod(images.shape) >= 1 << 14 else map  # threads slow small images down
        for start in track(starts, "decoding images", console=console, transient=True, disable=hidden):
            indices = range(start, min(start + 64, len(images)))
            encoded = images.rows.read(images.order[start : indices.stop].tolist())
            for i, result in zip(indices, apply(attempt, indices, encoded), strict=True):
                if isinstance(result, torch.Tensor):
                    yield i, result
                else:
                    broken.append(str(result))
    if broken:
        more = f"\n… and {len(broken) - 10} more" if len(broken) > 10 else ""
        count = f"{len(broken)} images cannot be used:\n" if len(broken) > 1 else ""
        raise DataError(count + "\n".join(broken[:10]) + more)
