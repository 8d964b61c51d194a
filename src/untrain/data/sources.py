"""Where samples come from, by name: embedded sets, arrays, image folders, captions, parquet files, the hub."""

from __future__ import annotations

import gzip
import io
import lzma
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from untrain.data.captions import captions
from untrain.data.columns import decoded_texts, label_numbers, names_in, numbered_classes
from untrain.data.decoding import IMAGE_SUFFIXES
from untrain.data.encoded import FileRows
from untrain.data.geometry import Geometry, Size
from untrain.data.parts import PARTS, Part, Request, existing, existing_folder, names_of, part_of
from untrain.data.samples import Arrays, Images, Relabelled, Source, decode_all, decoded_if_small
from untrain.data.sections import Interpolation
from untrain.data.tables import HUB_SETS, hub, known_hub_set, parquet
from untrain.engine import generator_of
from untrain.errors import DataError, EmptySet, SettingError, UnknownName, lookup, unknown
from untrain.lazy import Image, nn, np, torch
from untrain.reading import (
    DAMAGED,
    LeftOut,
    check_inside,
    check_unpacked,
    expand,
    find_files,
    find_folders,
    open_regular,
    read_npz,
    reason_of,
)

if TYPE_CHECKING:
    from torch import Tensor

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class SourceKind:
    """A kind of source.

    Attributes:
        description: one line, for lists.
        load: makes the source.
        options: the fields of a request that it reads, beside part and image size.
        random_test: whether chance alone parted its own test samples from the training samples of their class.
    """

    description: str
    load: Callable[[Request], Source]
    options: tuple[str, ...] = ()
    random_test: bool = False


def load(
    name: str,
    part: Part,
    *,
    path: Path | str | None = None,
    image_size: Size = None,
    interpolation: Interpolation = "bilinear",
    grayscale: bool = False,
    limit: int | None = None,
    seed: int = 0,
    test_fraction: float | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    config: str | None = None,
    links: bool = False,
    classes: Sequence[str] | None = None,
    known: Callable[[str], bool] | None = None,
) -> Source:
    """A source by name.

    Args:
        name: a key of `SOURCES`, or "hub:OWNER/NAME" for any image classification set of the Hugging Face hub.
        part: "train" or "test" (the validation part where a set's own test part has no labels).
        path: a file or folder on this machine; for a set of the hub, a folder in the same layout to read instead.
        image_size: height and width in pixels that images are brought to, or how exactly; None leaves them as they
            are.
        interpolation: of resized images, "bilinear" or "bicubic"; a geometry has its own.
        grayscale: decode images into one channel instead of three.
        limit: at most so many samples, chosen by the seed and balanced over classes; they are numbered from 0.
        seed: of `limit`.
        test_fraction: for data without a test part of its own, the share of every class that makes one. The choice
            is fixed and does not depend on `seed`, so that training and test parts never meet.
        image_column: of a table, where it is not called `image` or `img`.
        label_column: of a table, where it is not called `label`, `labels` or `fine_label`.
        caption_column: of a table, where it is not called `text`, `caption` or `prompt`.
        config: of a set of the hub that has several configurations.
        links: whether links in the folder may lead out of it; the folder itself may be a link in any case.
        classes: names of the classes by number, as a model knows them, though some may have no sample any more.
        known: whether an id is that of a sample to take, instead of a limit.

    Raises:
        UnknownName: lists the known sources.
        SettingError: if a setting is out of range or means nothing for this source.
        DataError: names what is missing, unreadable or damaged.
    """
    kind_name, _, target = name.partition(":")
    kind = lookup("data source", SOURCES, kind_name if kind_name == "hub" else name)
    request = Request(
        target if kind_name == "hub" else name,
        part,
        None if path is None else expand(path),
        image_size,
        interpolation,
        grayscale,
        test_fraction,
        image_column,
        label_column,
        caption_column,
        config,
        links=links,
        classes=None if classes is None else tuple(classes),
    )
    _check_request(name, request, kind, limit)
    source = _resized(kind.load(request), image_size, interpolation)
    if known is not None:
        source = _among(source, known, name, part)
    if limit is not None and limit < len(source):
        source = source.select(balanced(source.labels, limit, generator_of(seed, "limit")))
    source = decoded_if_small(source)
    return source if classes is None or source.classes == tuple(classes) else _under(source, classes, name)


def _among(source: Source, known: Callable[[str], bool], name: str, part: Part) -> Source:
    """The samples whose ids are known."""
    there = torch.tensor([known(each) for each in source.ids or ()], dtype=torch.bool)
    if source.ids is None or there.all():
        return source
    if not there.any():
        raise EmptySet(f"no {part} sample of {name} is one that the request before had: all of them are gone or new.")
    return source.select(there.nonzero()[:, 0])


def _under(source: Source, classes: Sequence[str], name: str) -> Source:
    """The source with its classes numbered as a model knows them."""
    numbers = {each: number for number, each in enumerate(classes)}
    strange = [each for each in source.classes if each not in numbers]
    if strange:
        raise UnknownName(f"{name}: {unknown('class', strange[0], classes)} The model was not trained on it.")
    places = [numbers[each] for each in source.classes]
    if isinstance(source, Arrays):
        return Arrays(source.input, torch.tensor(places)[source.labels], classes, source.ids)
    return Relabelled(source, places, classes)


def _resized(source: Source, size: Size, interpolation: Interpolation) -> Source:
    """Arrays brought to `size` × `size` pixels; images are resized where they are decoded."""
    if isinstance(size, Geometry) and isinstance(source, Arrays):
        return Arrays(_fitted(source.input, size), source.labels, source.classes, source.ids)
    if size is None or isinstance(size, Geometry) or not isinstance(source, Arrays):
        return source
    if source.shape[-2:] == (size, size):
        return source
    if source.shape[1] != source.shape[2]:
        raise SettingError(f"image_size needs square images; these are {source.shape[2]}×{source.shape[1]} pixels.")
    parts = [_interpolated(part, size, interpolation) for part in source.input.split(1000)]
    return Arrays(torch.cat(parts), source.labels, source.classes, source.ids)


def _fitted(input: Tensor, geometry: Geometry) -> Tensor:
    """Arrays of bytes through Pillow, as encoded images go; numbers of another type only where nothing changes."""
    if input.ndim == 4 and tuple(input.shape[-2:]) == geometry.size and geometry.resize in (None, geometry.size):
        return input
    if input.dtype != torch.uint8 or input.ndim != 4 or input.shape[1] not in (1, 3):
        raise DataError(
            f"arrays of {input.dtype}, each {list(input.shape[1:])}, cannot be resized as the model's image processor "
            f"does it ({geometry}). Give bytes [N, C, H, W] of one or three channels, or images of {geometry.size}."
        )
    channels = input.shape[1]
    planes = input.permute(0, 2, 3, 1).contiguous().numpy()
    fitted = (geometry.fit(Image.fromarray(each[..., 0] if channels == 1 else each)) for each in planes)
    whole = np.stack([np.asarray(each).reshape(each.height, each.width, channels) for each in fitted])
    return torch.from_numpy(whole).permute(0, 3, 1, 2).contiguous()


def _interpolated(input: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    pixels = nn.functional.interpolate(input.float(), (size, size), mode=interpolation, antialias=True)
    return pixels.round().clamp(0, 255).to(torch.uint8) if input.dtype == torch.uint8 else pixels.to(input.dtype)


def balanced(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Positions of `count` samples, as equally many of every class as there are; int64, ascending."""
    order = torch.randperm(len(labels), generator=generator)
    rank = torch.empty_like(order)  # of a sample within its class, in the drawn order
    for label in labels.unique():
        of_class = order[labels[order] == label]
        rank[of_class] = torch.arange(len(of_class))
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return (rank * len(labels) + place).argsort()[:count].sort().values


def channel_statistics(source: Source) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over at most 10,000 samples, chosen by a fixed seed.

    Pixels of uint8 are divided by 255 first; floating inputs are taken as they are. A channel that never varies has
    the deviation 1, so that dividing by it does no harm.
    """
    chosen = torch.arange(len(source))
    if len(source) > 10_000:
        chosen = torch.randperm(len(source), generator=generator_of(0, "statistics"))[:10_000].sort().values
    channels = source.shape[0]
    total, squares, count = torch.zeros(channels).double(), torch.zeros(channels).double(), 0
    for indices in chosen.split(500):
        pixels = source.batch(indices)["input"].cpu()
        scaled = pixels.double() / 255 if pixels.dtype == torch.uint8 else pixels.double()
        flat = scaled.transpose(0, 1).reshape(channels, -1)
        total, squares, count = total + flat.sum(1), squares + flat.square().sum(1), count + flat.shape[1]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    deviation[deviation < 1e-6] = 1.0
    return tuple(mean.tolist()), tuple(deviation.tolist())


def check(source: Source) -> None:
    """Decodes every image of a source once.

    Raises:
        DataError: names the images that cannot be used, at most ten of them.
    """
    images = source if isinstance(source, Images) else source.select(torch.arange(len(source)))  # of a view
    if isinstance(images, Images):
        for _ in decode_all(images):
            pass


# ── kinds of sources ────────────────────────────────────────────────────────────────────────────────────────────


def _digits(request: Request) -> Source:
    """The 8×8 digits of scikit-learn, values 0 … 16 scaled to 0 … 255; 1,437 to train, 360 to test."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, test = train_test_split(np.arange(len(data.target)), test_size=360, random_state=0, stratify=data.target)
    chosen = np.sort(train if request.part == "train" else test)
    pixels = np.round(data.images[chosen] * (255 / 16)).astype(np.uint8)
    ids = [f"digits-{i:04d}" for i in chosen]
    return Arrays(pixels[:, None], data.target[chosen].astype(np.int64), [str(digit) for digit in range(10)], ids)


def _fashion(request: Request) -> Source:
    """Fashion-MNIST: the embedded subset, or the full set from the idx files in `path`."""
    if request.path is not None:
        folder = existing(request)
        prefix = "train" if request.part == "train" else "t10k"
        images = read_idx(_idx_file(folder, f"{prefix}-images-idx3-ubyte", request.links), 3)
        labels = read_idx(_idx_file(folder, f"{prefix}-labels-idx1-ubyte", request.links), 1)
        chosen = np.arange(len(images))
    else:
        packed = resources.files("untrain.data").joinpath("embedded/fashion.npy.xz").read_bytes()
        stream = io.BytesIO(lzma.decompress(packed))
        arrays = [np.load(stream, allow_pickle=False) for _ in range(6)]
        images, labels, chosen = arrays[:3] if request.part == "train" else arrays[3:]
    ids = [f"{request.part}-{i:05d}" for i in chosen]
    return Arrays(images[:, None], labels.astype(np.int64), _FASHION_CLASSES, ids)


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An array of uint8 from an idx file, packed by gzip or not; no more is unpacked than its header tells of.

    Raises:
        DataError: if the file is unreadable, not idx, of other dimensions, too short or too long.
    """
    with open_regular(path) as raw:
        size, packed = os.fstat(raw.fileno()).st_size, path.suffix == ".gz"
        file: Any = gzip.GzipFile(fileobj=raw) if packed else raw
        try:
            header = file.read(4 + 4 * dimensions)
            if header[:4] != bytes([0, 0, 8, dimensions]) or len(header) < 4 + 4 * dimensions:
                raise DataError(f"{path} is not an idx file of bytes in {dimensions} dimensions. Get the file again.")
            shape = np.frombuffer(header, ">u4", dimensions, offset=4).tolist()
            count = math.prod(shape)
            if not packed and len(header) + count > size:
                raise DataError(f"{path} is damaged: {size - len(header)} bytes of data for the shape {shape}.")
            check_unpacked(path, count, size)
            data = file.read(count + 1)
        except DAMAGED as error:
            raise DataError(f"{path} cannot be read: {reason_of(error)}. Get the file again.") from error
    if len(data) != count:
        there = f"{len(data)} bytes" if len(data) < count else "more"
        raise DataError(f"{path} is damaged: there are {there} of data for the shape {shape}. Get the file again.")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _idx_file(folder: Path, name: str, links: bool) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if os.path.lexists(path):
            check_inside(path, folder, links)
            return path
    raise DataError(f"{folder} holds neither {name} nor {name}.gz: path must be a folder with the four idx files.")


def _arrays(request: Request) -> Source:
    """Arrays of a numpy file: x_train, y_train, x_test, y_test, or x and y; optionally classes (names)."""
    path = existing(request)
    keys = {part: (f"x_{part}", f"y_{part}") for part in PARTS}
    stored, names = read_npz(path, [*keys["train"], *keys["test"], "x", "y", "classes"])
    classes = _number_labels(stored, path)
    if not any(key in stored for key in keys["train"]):
        keys["train"] = ("x", "y")

    def has(part: Part) -> bool:
        return all(key in stored for key in keys[part])

    def build(part: Part) -> Source:
        x, y = keys[part]
        try:
            return Arrays(_pixels(stored[x]), stored[y], classes)
        except DataError as error:
            raise type(error)(f"{path}, {x} and {y}: {error}") from error

    if not has("train"):
        raise DataError(f"{path} must hold x_train and y_train, or x and y; it holds {', '.join(names) or 'nothing'}.")
    return part_of(request, has, build)


def _number_labels(stored: dict[str, np.ndarray], path: Path) -> tuple[str, ...] | None:
    """The names of the classes; labels that are names become numbers. None: what is wrong is said at their use."""
    texts = {key: decoded_texts(array, f"{path}, {key}") for key, array in stored.items() if array.dtype.kind in "SU"}
    stored.update(texts)
    given = stored.get("classes")
    if given is not None and given.ndim != 1:
        raise DataError(f"{path}: classes must be a list of names, not an array {list(given.shape)}.")
    labels = {key: stored[key] for key in ("y_train", "y", "y_test") if key in stored}
    named = {key: array for key, array in labels.items() if key in texts}
    if given is not None:
        classes = tuple(str(name) for name in given)
    elif named and len(named) == len(labels):
        classes = names_in(next(iter(labels.values())))
    elif all(np.issubdtype(array.dtype, np.integer) and array.size and array.min() >= 0 for array in labels.values()):
        return numbered_classes(max([int(array.max()) + 1 for array in labels.values()], default=1))
    else:
        return None
    stored.update({key: label_numbers(array, classes, f"{path}, {key}") for key, array in named.items()})
    return classes


def _pixels(x: np.ndarray) -> np.ndarray:
    """Images as [N, C, H, W] of uint8 or float; [N, H, W] and [N, H, W, C] with 1, 3 or 4 channels are accepted."""
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim != 4:
        raise DataError(f"images must be [N, H, W], [N, C, H, W] or [N, H, W, C]; they are {list(x.shape)}.")
    if np.issubdtype(x.dtype, np.floating):
        return np.ascontiguousarray(x, dtype=np.float32)
    if not np.issubdtype(x.dtype, np.integer) or (x.size and (x.min() < 0 or x.max() > 255)):
        raise DataError(f"images must be floats or integers from 0 to 255; these are other {x.dtype}.")
    return np.ascontiguousarray(x, dtype=np.uint8)


def _folder(request: Request) -> Source:
    """Images in one folder per class, in PATH/train/CLASS and PATH/test/CLASS, or in PATH/CLASS alone."""
    root = existing_folder(request, "with one folder per class")

    def subfolders(folder: Path) -> list[Path]:
        return find_folders(folder, root, links=request.links) if os.path.isdir(folder) else []

    found = {part: [root / name for name in names_of(request, part) if subfolders(root / name)] for part in PARTS}
    train = found["train"][0] if found["train"] else root
    folders = subfolders(train)
    if not folders:
        raise EmptySet(f"{train} holds no folder: give it one folder of images per class.")
    classes = request.classes or tuple(folder.name for folder in folders)

    def build(part: Part) -> Source:
        return _class_folders(train if part == "train" else found["test"][0], root, classes, request)

    return part_of(request, lambda part: part == "train" or bool(found["test"]), build)


def _class_folders(folder: Path, root: Path, classes: tuple[str, ...], request: Request) -> Source:
    paths: list[Path] = []
    labels: list[int] = []
    numbers = {name: number for number, name in enumerate(classes)}
    left_out = LeftOut(folder)
    for subfolder in find_folders(folder, root, links=request.links, beside=IMAGE_SUFFIXES, left_out=left_out):
        if subfolder.name not in numbers and request.classes is not None:
            warnings.warn(f"{subfolder} is of a class that the model was not trained on: it is left out.", stacklevel=2)
            continue
        if subfolder.name not in numbers:
            raise UnknownName(
                f"{subfolder} has no counterpart to train on: {unknown('class', subfolder.name, classes)}"
            )
        found = find_files(subfolder, root, IMAGE_SUFFIXES, links=request.links, left_out=left_out)
        if not found and request.classes is None:
            raise DataError(
                f"{subfolder} holds no image ({', '.join(IMAGE_SUFFIXES)}; hidden ones are none): fill it or remove it."
            )
        paths += found
        labels += [numbers[subfolder.name]] * len(found)
    left_out.warn()
    ids = [path.relative_to(root).as_posix() for path in paths]
    return Images(FileRows(tuple(paths)), labels, classes, ids, **request.decoding)


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _check_request(name: str, request: Request, kind: SourceKind, limit: int | None) -> None:
    if request.part not in PARTS:
        raise UnknownName(unknown("part", request.part, PARTS))
    if limit is not None and limit < 1:
        raise SettingError(f"limit must be at least 1 sample, not {limit}.")
    if isinstance(request.image_size, int) and request.image_size < 1:
        raise SettingError(f"image_size must be at least 1 pixel, not {request.image_size}.")
    if request.test_fraction is not None and not 0 < request.test_fraction < 1:
        raise SettingError(f"test_fraction must lie between 0 and 1, not at {request.test_fraction}.")
    for option in _OPTIONS:
        if getattr(request, option) not in (None, False) and option not in kind.options:
            known = f"it takes {', '.join(kind.options)}" if kind.options else "it takes no such setting"
            raise SettingError(f"{option} means nothing for the data source {name!r}: {known}.")


_OPTIONS = ("path", "grayscale", "test_fraction", "image_column", "label_column", "caption_column", "config")
_TABLE = ("grayscale", "image_column", "label_column")

SOURCES: dict[str, SourceKind] = {
    "digits": SourceKind("1,797 handwritten digits of 8×8 pixels, part of scikit-learn", _digits, random_test=True),
    "fashion": SourceKind(
        "Fashion-MNIST: 10,000 images of 28×28 pixels in the package, or all 70,000 from idx files in path",
        _fashion,
        ("path",),
    ),
    "arrays": SourceKind(
        "a numpy npz file: x_train, y_train, x_test, y_test, or x and y", _arrays, ("path", "test_fraction")
    ),
    "folder": SourceKind(
        "images in one folder per class: path/train/CLASS, path/test/CLASS, or path/CLASS",
        _folder,
        ("path", "grayscale", "test_fraction"),
    ),
    "captions": SourceKind(
        "captioned images for text-to-image: path/train, path/test, or path alone, each with metadata.jsonl or "
        "metadata.csv (file_name, text); or parquet files",
        captions,
        ("path", "grayscale", "test_fraction", "image_column", "caption_column"),
    ),
    "parquet": SourceKind(
        "parquet files as the Hugging Face hub lays them out: path/train-*.parquet, path/test-*.parquet",
        parquet,
        ("path", "test_fraction", *_TABLE),
    ),
    "hub": SourceKind(
        "hub:OWNER/NAME, an image classification set of the Hugging Face hub",
        hub,
        ("test_fraction", "config", *_TABLE),
    ),
    **{
        name: SourceKind(
            f"the set {known.id} of the Hugging Face hub, or its parquet files in path",
            known_hub_set,
            ("path", "config", *_TABLE),
        )
        for name, known in HUB_SETS.items()
    },
}
"""The known sources, by name."""
