"""Files that do harm or make no sense, each with the reader that users hand such files to.

    from helpers.hostile_files import hostile_files
    for name, read in hostile_files(folder, seed=0):
        read()  # returns, or raises an UntrainError: never anything else, and never after more than seconds

Everything is written below `folder`, which must be empty; what is damaged is damaged at places that the seed decides.
Other seeds give other damage. Readers are functions without arguments, of the public interface: `data.sources.load`
decodes what it loads, `make_split` and `Split.load` read lists and splits, `load_state` weights, `read_prompts` tables
of prompts, `runs.recipe.read` recipes. Reading takes some 10 s for all, and less than a gibibyte of memory.
"""

import bz2
import gzip
import io
import json
import os
import pickle
import random
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import save

from untrain.data.samples import Arrays, Source
from untrain.data.sources import load
from untrain.data.splits import Split, make_split
from untrain.models.checkpoints import load_state
from untrain.runs.recipe import read
from untrain.tasks.text_to_image.concepts import Concept, images_of
from untrain.tasks.text_to_image.prompts import read_prompts

MEGABYTE = 1 << 20


class HostileFile(NamedTuple):
    """A file, and how it is read."""

    name: str
    read: Callable[[], object]


def hostile_files(folder: Path, seed: int = 0) -> list[HostileFile]:
    """Writes all files, and returns them with their readers; see the module."""
    rng, found = random.Random(seed), []
    for kind in (_images, _image_folders, _arrays, _lists, _idx, _captions, _tables, _splits, _prompts, _weights):
        place = folder / kind.__name__.strip("_")
        place.mkdir()
        found += [HostileFile(f"{place.name}: {name}", reader) for name, reader in kind(place, rng)]
    found += [HostileFile(f"recipes: {name}", reader) for name, reader in _recipes(folder, rng)]
    return found


Files = Iterator[tuple[str, Callable[[], object]]]


def _damaged(data: bytes, rng: random.Random, *, cuts: int, flips: int) -> Iterator[tuple[str, bytes]]:
    """The content cut at some places, and with some bits flipped at others."""
    yield "empty", b""
    yield "one byte", data[:1]
    for i in range(cuts):
        yield f"cut {i}", data[: rng.randrange(2, len(data))]
    for i in range(flips):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 3, 30))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        yield f"flipped {i}", bytes(changed)
    yield "noise", rng.randbytes(2000)
    yield "begins right", data[:16] + rng.randbytes(2000)


SPECIAL = {
    "pipe": os.mkfifo,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "memory": lambda path: path.symlink_to("/proc/self/mem"),
    "broken": lambda path: path.symlink_to("nowhere"),
    "circle": lambda path: path.symlink_to(path.name),
    "folder": Path.mkdir,
}
"""What is no regular file: how it is made at a path."""


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the path of a socket is at most 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


def _sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


SPECIAL |= {"socket": _socket, "a tebibyte": _sparse}


def _special(place: Path, suffix: str) -> Iterator[tuple[str, Path]]:
    """Paths with an ending that lead to no regular file, or to nothing at all."""
    for name, make in SPECIAL.items():
        make(place / f"{name}{suffix}")
        yield name, place / f"{name}{suffix}"
    (place / "file").write_bytes(b"")
    yield "missing", place / f"missing{suffix}"
    yield "long name", place / f"{'x' * 5000}{suffix}"
    yield "NUL", place / f"a\0b{suffix}"
    yield "half a character", place / f"a\ud800b{suffix}"
    yield "below a file", place / "file" / f"x{suffix}"
    yield "no home", Path(f"~nobody-of-this-name/x{suffix}")


# ── images ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _encoded(kind: str = "PNG", size: tuple[int, int] = (12, 12), value: int = 7) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(value).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def _png(width: int, height: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG in gray with this header and compressed data, whatever they say."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    whole = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def _zeros(count: int) -> bytes:
    """So many zero bytes as deflate packs them."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(MEGABYTE)) for _ in range(count // MEGABYTE)) + packer.flush()


def _class_folder(place: Path) -> Path:
    """A folder of two classes with some right images."""
    for name in "ab":
        (place / name).mkdir(parents=True)
        for i in range(4):
            (place / name / f"{i}.png").write_bytes(_encoded(value=i))
    return place


def _from_folder(place: Path, **more: object) -> Callable[[], list[Source]]:
    both, more = ("train", "test"), {"test_fraction": 0.5, "image_size": 8, **more}
    return lambda: [load("folder", part, path=place, **more) for part in both]


def _images(place: Path, rng: random.Random) -> Files:
    contents = {f"png {name}": data for name, data in _damaged(_encoded(), rng, cuts=4, flips=6)}
    for kind in ("JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        damaged = _damaged(_encoded(kind), rng, cuts=2, flips=3)
        contents |= {f"{kind.lower()} {name}": data for name, data in damaged}
    bomb = _zeros(70 * MEGABYTE)
    contents |= {
        "png bomb": _png(8500, 8500, bomb),
        "png lying": _png(60_000, 60_000, zlib.compress(bytes(100))),
        "png without pixels": _png(0, 12, zlib.compress(bytes(100))),
        "png text bomb": _png(12, 12, zlib.compress(bytes(156)), (b"zTXt", b"Comment\0\0" + bomb)),
        "ppm lying": b"P6 99999 99999 255\n" + bytes(100),
        "ppm of letters": b"P6 " + b"9" * 5000 + b" 1 255\n",
        "gif lying": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x02\0;",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "text": b"no image",
    }
    for number, (name, data) in enumerate(contents.items()):
        at = _class_folder(place / str(number))
        (at / "a" / "z.png").write_bytes(data)
        yield name, _from_folder(at)


def _image_folders(place: Path, rng: random.Random) -> Files:
    for name, make in SPECIAL.items():
        at = _class_folder(place / name)
        make(at / "a" / "z.png")
        yield name, _from_folder(at)
        yield f"{name}, links allowed", _from_folder(at, links=True)
    for name, path in _special(place, ".png"):
        yield f"{name} as the folder", partial(load, "folder", "train", path=path)
        yield f"{name} in a list", partial(images_of, Concept("x", images=[path]), 0, ("x",))

    def changed(name: str, change: Callable[[Path], object]) -> Path:
        at = _class_folder(place / name)
        change(at)
        return at

    outside = _class_folder(place / "outside")
    links = {
        "a link out to a file": lambda at: (at / "a" / "z.png").symlink_to(outside / "a" / "0.png"),
        "a link out to a class": lambda at: (at / "c").symlink_to(outside / "a"),
        "a link out to a folder": lambda at: (at / "a" / "more").symlink_to(outside / "a"),
        "a link out to the test part": lambda at: (at / "test").symlink_to(outside),
        "a link to itself": lambda at: (at / "a" / "more").symlink_to("."),
        "a link to what is above": lambda at: (at / "a" / "more").symlink_to(".."),
        "a class that is a link to itself": lambda at: (at / "c").symlink_to("."),
        "a class that is a circle": lambda at: (at / "c").symlink_to("c"),
        "a broken class": lambda at: (at / "c").symlink_to("nowhere"),
        "a class of nothing": lambda at: (at / "c").mkdir(),
        "a class that is no text": lambda at: os.mkdir(os.fsencode(at) + b"/\xff"),
        "an image that is no text": lambda at: os.rename(at / "a" / "0.png", os.fsencode(at) + b"/a/\xff.png"),
        "an image of control characters": lambda at: os.rename(at / "a" / "0.png", at / "a" / "\x1b[2J\n.png"),
        "all links of all": lambda at: [(at / n / m).symlink_to(at / m) for n in "ab" for m in "ab"],
    }
    for name, change in links.items():
        at = changed(name, change)
        yield name, _from_folder(at)
        yield f"{name}, allowed", _from_folder(at, links=True)
        yield f"{name}, of a concept", partial(images_of, Concept("x", images=at / "a"), 0, ("x",))
    doubling = _class_folder(place / "doubling")
    for level in range(31):  # 2³⁰ paths for who follows every link
        (doubling / "a" / f"d{level}").mkdir()
        for name in "xy" if level < 30 else "":
            (doubling / "a" / f"d{level}" / name).symlink_to(f"../d{level + 1}")
    yield "doubling links", _from_folder(doubling, links=True)


# ── arrays and lists ────────────────────────────────────────────────────────────────────────────────────────────


def _npy(shape: str = "(8, 4, 4)", descr: str = "'|u1'", data: bytes = bytes(128), *, version: int = 1) -> bytes:
    """An npy file with this header, whatever it says."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(header)) + header + data


_LABELS = _npy("(8,)", "'<i8'", np.arange(8).astype("<i8").tobytes())
_HEADERS = {
    "a lying shape": _npy("(99999999, 4, 4)"),
    "a shape of 10 ** 18": _npy("(10000000000, 100000000)"),
    "a shape beyond integers": _npy(f"({'9' * 60},)"),
    "a shape of zeros": _npy("(0, 99999999999999)"),
    "a negative shape": _npy("(-8, -4, 4)"),
    "a shape of texts": _npy("('a',)"),
    "no dimensions": _npy("()", data=b"\0"),
    "two thousand dimensions": _npy("(" + "1," * 2000 + ")", data=b"\0"),
    "objects": _npy("(8,)", "'|O'", pickle.dumps(np.array([print] * 8, object))),
    "items of no size": _npy("(99999999999,)", "'|V0'"),
    "items of a gigabyte": _npy("(8,)", "'<U268435456'"),
    "records": _npy("(8,)", "[('a', '<i4'), ('b', '<f4')]"),
    "nested records": _npy("(8,)", "[('a', " * 50 + "'<i4'" + ")]" * 50),
    "complex numbers": _npy("(1, 4, 4)", "'<c8'"),
    "dates": _npy("(8,)", "'<M8[s]'"),
    "a type that is none": _npy("(8,)", "'<q99'"),
    "a deep header": _npy("(" * 4000 + ")" * 4000),
    "a long header": _npy("(8," + " " * 20_000 + ")", version=2),
    "a header of 4 GB": b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100),
    "an unknown version": _npy(version=3),
    "code for a header": _npy("__import__('os').system('false')"),
    "NaN": _npy("(8, 4, 4)", "'<f4'", np.full(128, np.nan, "<f4").tobytes()),
}


def _zipped(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def _arrays(place: Path, rng: random.Random) -> Files:
    right = _zipped({"x.npy": _npy(), "y.npy": _LABELS}, zipfile.ZIP_DEFLATED)
    contents = dict(_damaged(right, rng, cuts=4, flips=12))
    contents |= {f"x of {name}": _zipped({"x.npy": data, "y.npy": _LABELS}) for name, data in _HEADERS.items()}
    contents |= {f"y of {name}": _zipped({"x.npy": _npy(), "y.npy": data}) for name, data in _HEADERS.items()}
    bomb = _npy("(73400320,)", "'|u1'", bytes(70 * MEGABYTE))
    encrypted = bytearray(right)
    encrypted[6] |= 1
    encrypted[right.index(b"PK\1\2") + 8] |= 1
    huge = np.full(8, 2**62, "<i8").tobytes()
    contents |= {
        "a bomb": _zipped({"x.npy": bomb, "y.npy": _LABELS}, zipfile.ZIP_DEFLATED),
        "a bomb beside": _zipped({"x.npy": _npy(), "y.npy": _LABELS, "z.npy": bomb}, zipfile.ZIP_DEFLATED),
        "a bomb of another packer": _zipped({"x.npy": bomb, "y.npy": _LABELS}, zipfile.ZIP_BZIP2),
        "encrypted": bytes(encrypted),
        "one array": _npy(),
        "no arrays": _zipped({"x": b"text", "y": b"text"}),
        "nothing": _zipped({}),
        "names that are none": _zipped({"../../x.npy": _npy(), "/": b""}),
        "labels of 2 ** 62": _zipped({"x.npy": _npy(), "y.npy": _npy("(8,)", "'<i8'", huge)}),
        "labels below zero": _zipped({"x.npy": _npy(), "y.npy": _npy("(8,)", "'<i8'", b"\xff" * 64)}),
        "classes of numbers": _zipped({"x.npy": _npy(), "y.npy": _LABELS, "classes.npy": _npy("()", data=b"\0")}),
        "a million members": _zipped({f"{i}.npy": b"" for i in range(3000)}),
    }
    for number, (name, data) in enumerate(contents.items()):
        (place / f"{number}.npz").write_bytes(data)
        yield name, partial(load, "arrays", "train", path=place / f"{number}.npz", test_fraction=0.5)
    for name, path in _special(place, ".npz"):
        yield name, partial(load, "arrays", "train", path=path, test_fraction=0.5)


def _source() -> Arrays:
    return Arrays(np.zeros((8, 1, 4, 4), np.uint8), np.arange(8), ids=[f"s{i}" for i in range(8)])


def _lists(place: Path, rng: random.Random) -> Files:
    texts = {
        "NUL.csv": b"index\n1\0\n",
        "latin.csv": "index,café\n1,ü\n".encode("latin-1"),
        "utf16.csv": "index\n1\n".encode("utf-16"),
        "columns.csv": b"," * 10**6 + b"\n" + b"1,\n" * 1000,
        "field.csv": b"index\n" + b"1" * 10**6 + b"\n",
        "quote.csv": b'index\n"1\n2\n' + b"3\n" * 100_000,
        "short.csv": b"a,index\n1\n",
        "signs.txt": b"+-1\n",
        "digits.txt": b"9" * 5000 + b"\n",
        "other digits.txt": "²\n٣\n".encode(),
        "far.txt": b"99999999\n-1\n",
        "many.txt": b"1\n" * 200_000,
        "spaces.txt": b" \n" * 100_000,
        "noise.txt": rng.randbytes(2000),
        "empty.csv": b"",
    }
    texts |= {f"{name}.npy": data for name, data in _HEADERS.items()}
    texts |= {f"{name}.npy": data for name, data in _damaged(_LABELS, rng, cuts=2, flips=4)}
    for name, data in texts.items():
        (place / name).write_bytes(data)
        yield name, partial(make_split, _source(), indices=place / name)
        yield f"{name} as ids", partial(make_split, _source(), ids=place / name)
    for suffix in (".txt", ".npy"):
        at = place / suffix
        at.mkdir()
        for name, path in _special(at, suffix):
            yield f"{name}{suffix}", partial(make_split, _source(), indices=path)


def _idx(place: Path, rng: random.Random) -> Files:
    def header(*shape: int) -> bytes:
        return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)

    images, labels = header(8, 4, 4) + bytes(128), header(8) + bytes(range(8))
    packed, most = gzip.compress(images), 2**32 - 1
    contents = {f"packed {name}": (data, True) for name, data in _damaged(packed, rng, cuts=3, flips=8)}
    contents |= {name: (data, False) for name, data in _damaged(images, rng, cuts=2, flips=3)}
    contents |= {
        "a lying shape": (header(most, most, most) + bytes(128), False),
        "a lying shape, packed": (gzip.compress(header(most, most, most) + bytes(128)), True),
        "a bomb": (gzip.compress(header(70, 1024, 1024) + bytes(70 * MEGABYTE), 1), True),
        "a bomb behind the data": (gzip.compress(images + bytes(70 * MEGABYTE), 1), True),
        "many members": (gzip.compress(b"") * 20_000 + packed, True),
        "no samples": (header(0, 4, 4), False),
        "a name without end": (b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 10**6, True),
        "bzip2": (bz2.compress(images), True),
    }
    for number, (name, (data, is_packed)) in enumerate(contents.items()):
        at = place / str(number)
        at.mkdir()
        (at / f"train-images-idx3-ubyte{'.gz' if is_packed else ''}").write_bytes(data)
        (at / "train-labels-idx1-ubyte").write_bytes(labels)
        yield name, partial(load, "fashion", "train", path=at)
    for name, make in SPECIAL.items():
        (place / name).mkdir()
        make(place / name / "train-images-idx3-ubyte.gz")
        yield name, partial(load, "fashion", "train", path=place / name)
        yield f"{name}, links allowed", partial(load, "fashion", "train", path=place / name, links=True)


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _captions(place: Path, rng: random.Random) -> Files:
    row, ten = '{"file_name": "0.png", "text": "a"}\n', 10**5
    texts = {
        "deep.jsonl": '{"file_name": "0.png", "text": ' + "[" * ten + "]" * ten + "}",
        "deep objects.jsonl": '{"a": ' * 900 + "1" + "}" * 900,
        "NaN.jsonl": '{"file_name": "0.png", "text": NaN}',
        "infinite.jsonl": '{"file_name": "0.png", "text": 1e999}',
        "digits.jsonl": '{"file_name": "0.png", "text": ' + "9" * 5000 + "}",
        "half a character.jsonl": '{"file_name": "0.png", "text": "\\ud800"}',
        "half a character in a name.jsonl": '{"file_name": "\\udcff.png", "text": "a"}',
        "NUL in a name.jsonl": '{"file_name": "0\\u0000.png", "text": "a"}',
        "a list.jsonl": "[1]",
        "a number for a name.jsonl": '{"file_name": 1, "text": "a"}',
        "outside.jsonl": '{"file_name": "../x.png", "text": "a"}',
        "absolute.jsonl": '{"file_name": "/etc/passwd", "text": "a"}',
        "a folder.jsonl": '{"file_name": "folder.png", "text": "a"}',
        "a pipe.jsonl": '{"file_name": "pipe.png", "text": "a"}',
        "a device.jsonl": '{"file_name": "zero.png", "text": "a"}',
        "a link out.jsonl": '{"file_name": "out.png", "text": "a"}',
        "behind a link.jsonl": '{"file_name": "outside/0.png", "text": "a"}',
        "a long name.jsonl": '{"file_name": "' + "x" * 5000 + '.png", "text": "a"}',
        "twice.jsonl": row + row,
        "blank.jsonl": "\n" * ten,
        "keys.jsonl": row.replace("}", "".join(f', "k{i}": 1' for i in range(ten)) + "}"),
        "columns.csv": "file_name,text" + "," * 10**6 + "\n" + "0.png,a\n" * 1000,
        "names.csv": ",".join(f"k{i}" for i in range(ten)) + "\n" + "0.png,a\n",
        "same names.csv": ",".join("k" for _ in range(ten)) + "\n",
        "NUL.csv": "file_name,text\n0.png,a\0\n",
        "field.csv": "file_name,text\n0.png," + "a" * 10**6 + "\n",
        "quote.csv": 'file_name,text\n0.png,"a\n' + "x\n" * ten,
        "header.csv": "file_name,text\n",
    }
    contents = {name: text.encode(errors="surrogatepass") for name, text in texts.items()}
    contents |= {"latin.csv": "file_name,text\n0.png,ü\n".encode("latin-1"), "utf16.jsonl": row.encode("utf-16")}
    contents |= {f"{name}.jsonl": data for name, data in _damaged(row.encode() * 3, rng, cuts=1, flips=6)}
    outside = _class_folder(place / "outside")
    for number, (name, data) in enumerate(contents.items()):
        at = place / str(number)
        (at / "folder.png").mkdir(parents=True)
        (at / "0.png").write_bytes(_encoded())
        os.mkfifo(at / "pipe.png")
        (at / "zero.png").symlink_to("/dev/zero")
        (at / "out.png").symlink_to(outside / "a" / "0.png")
        (at / "outside").symlink_to(outside / "a")
        (at / f"metadata.{name.rpartition('.')[2]}").write_bytes(data)
        yield name, partial(load, "captions", "train", path=at)
        yield f"{name}, links allowed", partial(load, "captions", "train", path=at, links=True)
    for name, make in SPECIAL.items():
        (place / name).mkdir()
        make(place / name / "metadata.jsonl")
        yield name, partial(load, "captions", "train", path=place / name)
        yield f"{name}, links allowed", partial(load, "captions", "train", path=place / name, links=True)


def _parquet(columns: dict[str, object], metadata: object = None, **more: object) -> bytes:
    table, buffer = pyarrow.table(columns), io.BytesIO()
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": metadata})
    pyarrow.parquet.write_table(table, buffer, **more)
    return buffer.getvalue()


def _tables(place: Path, rng: random.Random) -> Files:
    images = [{"bytes": _encoded(value=i), "path": f"{i}.png"} for i in range(6)]
    right = _parquet({"image": images, "label": [0, 1] * 3})

    def pointing(path: str) -> bytes:
        return _parquet({"image": [{"bytes": None, "path": path}], "label": [0]})

    def labelled(labels: object, metadata: object = None) -> bytes:
        return _parquet({"image": images, "label": labels}, metadata)

    def told(names: object) -> str:
        return json.dumps({"info": {"features": {"label": {"names": names}}}})

    contents = dict(_damaged(right, rng, cuts=4, flips=40))
    contents |= {
        "a path out": pointing("../" * 30 + "etc/passwd"),
        "an absolute path": pointing("/etc/passwd"),
        "a path to a device": pointing("/dev/zero"),
        "a path with NUL": pointing("a\0b"),
        "numbers for images": _parquet({"image": [1, 2], "label": [0, 1]}),
        "nulls for images": _parquet({"image": pyarrow.nulls(2), "label": [0, 1]}),
        "lists for labels": labelled([[0], [1, 2]] * 3),
        "fractions for labels": labelled([0.5, float("nan")] * 3),
        "dates for labels": labelled(pyarrow.array([2**62, -(2**62)] * 3, pyarrow.timestamp("ns"))),
        "far dates for labels": labelled(pyarrow.array([2**62, -(2**62)] * 3, pyarrow.timestamp("us"))),
        "booleans for labels": labelled([True, False] * 3),
        "negative labels": labelled([-1, 0] * 3),
        "huge labels": labelled([0, 2**62] * 3),
        "decimals for labels": labelled(pyarrow.array([1, 2] * 3, pyarrow.decimal256(60))),
        "bytes for labels": labelled([b"\xff", b"a"] * 3),
        "no rows": _parquet(
            {"image": pyarrow.array([], pyarrow.binary()), "label": pyarrow.array([], pyarrow.int64())}
        ),
        "no columns": _parquet({}),
        "columns of one name": _parquet({f"image{'.path' * i}": images for i in range(3)}),
        "rows of nothing": _parquet({"image": pyarrow.nulls(3 * 10**6), "label": pyarrow.nulls(3 * 10**6)}),
        "rows of one label": _parquet({"image": [b""] * 2 * 10**6, "label": np.zeros(2 * 10**6, np.int8)}),
        "metadata of another kind": labelled([0, 1] * 3, "[1]"),
        "metadata that is deep": labelled([0, 1] * 3, "[" * 10**5),
        "metadata with names of numbers": labelled([0, 1] * 3, told([1, 2])),
        "metadata with few names": labelled([0, 1] * 3, told(["a"])),
        "metadata with no names": labelled([0, 1] * 3, told("ab")),
    }
    for number, (name, data) in enumerate(contents.items()):
        at = place / str(number)
        at.mkdir()
        (at / "train.parquet").write_bytes(data)
        yield name, partial(load, "parquet", "train", path=at, test_fraction=0.5, image_size=8)
        if name.startswith(("a path", "an absolute")):
            allowed = {"links": True, "test_fraction": 0.5, "image_size": 8}
            yield f"{name}, links allowed", partial(load, "parquet", "train", path=at, **allowed)
    for name, text in (("one text for many rows", "x" * MEGABYTE), ("no text", "")):
        at = place / name
        at.mkdir()
        many = {"image": [_encoded()] * 150, "text": pyarrow.array([text] * 150).dictionary_encode()}
        (at / "train.parquet").write_bytes(_parquet(many))
        yield name, partial(load, "captions", "train", path=at, test_fraction=0.5)
    for name, make in SPECIAL.items():
        (place / name).mkdir()
        make(place / name / "train.parquet")
        yield name, partial(load, "parquet", "train", path=place / name, test_fraction=0.5)
        yield f"{name}, links allowed", partial(load, "parquet", "train", path=place / name, links=True)


def _splits(place: Path, rng: random.Random) -> Files:
    split = make_split(_source(), count=2, holdout=0.25)
    content = split.to_json()

    def signed(**changes: object) -> str:
        """A split with a hash that fits what it says."""
        parts = {name: torch.tensor(changes.get(name, content[name])) for name in ("forget", "retain", "holdout")}
        made = Split(**parts, kind="indices", spec=changes.get("spec", {}), data_hash=content["data_hash"])
        return json.dumps(made.to_json())

    texts = {
        "deep": "[" * 10**5,
        "deep objects": '{"forget": ' * 900 + "1" + "}" * 900,
        "NaN": json.dumps({**content, "forget": [float("nan")]}),
        "digits": json.dumps(content).replace('"forget": [', '"forget": [' + "9" * 4000 + ", "),
        "more digits": json.dumps(content).replace('"forget": [', '"forget": [' + "9" * 5000 + ", "),
        "a list": "[1]",
        "a text": '"forget"',
        "null": "null",
        "texts": json.dumps({**content, "forget": ["a"]}),
        "ragged lists": json.dumps({**content, "forget": [[1], [1, 2]]}),
        "objects": json.dumps({**content, "forget": {"a": 1}}),
        "another hash": json.dumps({**content, "hash": [1]}),
        "sets": json.dumps({"kind": "sets", "keys": {"forget": 3}, "spec": 1}),
        "sets of nothing": json.dumps({"kind": "sets", "keys": [], "spec": {}}),
        "no spec": signed(spec=[1]),
        "far positions": signed(forget=[10**9]),
        "negative positions": signed(forget=[-1]),
        "positions in two parts": signed(retain=[1, 1, 1]),
        "nested positions": signed(forget=[[1, 2]], retain=[[3, 4]], holdout=[[5, 6]]),
    }
    contents = {name: text.encode() for name, text in texts.items()}
    contents |= dict(_damaged(json.dumps(content).encode(), rng, cuts=2, flips=6))
    for number, (name, data) in enumerate(contents.items()):
        (place / f"{number}.json").write_bytes(data)
        yield name, partial(Split.load, place / f"{number}.json", _source())
    for name, path in _special(place, ".split"):
        yield name, partial(Split.load, path, _source())


def _prompts(place: Path, rng: random.Random) -> Files:
    row = "prompt,case_number,evaluation_seed\na cat,0,1\n"
    texts = {
        "columns": "prompt" + "," * 10**6 + "\n" + "a\n" * 1000,
        "names": "prompt," * 10**5 + "\na\n",
        "digits": row + "a," + "9" * 5000 + ",1\n",
        "an infinite seed": row + "a,1,1e999\n",
        "NaN": row + "a,nan,1\n",
        "NUL": row + "a\0,1,1\n",
        "quote": row + '"a' + "\n" * 10**5,
        "field": row + "a" * 10**6 + ",1,1\n",
        "no prompt": "x\n1\n",
        "header": "prompt\n",
    }
    contents = {name: text.encode() for name, text in texts.items()}
    contents |= {"latin": (row + "ü,1,1\n").encode("latin-1"), "utf16": row.encode("utf-16")}
    contents |= dict(_damaged(row.encode(), rng, cuts=2, flips=6))
    for number, (name, data) in enumerate(contents.items()):
        (place / f"{number}.csv").write_bytes(data)
        yield name, partial(read_prompts, place / f"{number}.csv")
    for name, path in _special(place, ".table"):
        yield name, partial(read_prompts, path)


# ── weights and recipes ─────────────────────────────────────────────────────────────────────────────────────────


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("false",)


def _weights(place: Path, rng: random.Random) -> Files:
    state = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(2, dtype=torch.int64)}
    right, buffer = save(state), io.BytesIO()
    torch.save(state, buffer)
    packed, legacy = buffer.getvalue(), io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)

    def header(content: object, length: int | None = None) -> bytes:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        return struct.pack("<Q", len(text) if length is None else length) + text + bytes(16)

    def tensor(shape: object, offsets: object, dtype: object = "F32") -> bytes:
        return header({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})

    contents = {f"{name}.safetensors": data for name, data in _damaged(right, rng, cuts=3, flips=12)}
    contents |= {f"{name}.pt": data for name, data in _damaged(packed, rng, cuts=3, flips=25)}
    contents |= {f"old {name}.pt": data for name, data in _damaged(legacy.getvalue(), rng, cuts=3, flips=25)}
    contents |= {
        "a header of 2 ** 63.safetensors": header({}, 2**63),
        "a header of a gigabyte.safetensors": header({}, 2**30),
        "a header of nothing.safetensors": header(b"", 0),
        "a deep header.safetensors": header(b"[" * 10**5),
        "a header of a list.safetensors": header([1]),
        "a lying shape.safetensors": tensor([10**9, 10**9], [0, 16]),
        "a shape beyond integers.safetensors": tensor([10**30], [0, 16]),
        "a negative shape.safetensors": tensor([-4], [0, 16]),
        "offsets beyond.safetensors": tensor([4], [2**60, 2**60 + 16]),
        "offsets backwards.safetensors": tensor([4], [16, 0]),
        "an unknown type.safetensors": tensor([4], [0, 16], "X9"),
        "code.pt": pickle.dumps({"a": _Runs()}),
        "a number.pt": pickle.dumps(3),
        "a deep pickle.pt": b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".",
        "a bomb.pt": _zipped({"archive/data.pkl": bytes(70 * MEGABYTE)}, zipfile.ZIP_DEFLATED),
        "another archive.pt": _zipped({"x": b"y"}),
        "text.pt": b"no weights",
    }
    for thing in (_Runs(), [1], {"a": 1}, {}, {1: torch.ones(1)}, {"state_dict": {"state_dict": {}}}):
        buffer = io.BytesIO()
        torch.save(thing, buffer)
        contents[f"{type(thing).__name__} {len(contents)}.pt"] = buffer.getvalue()
    for name, data in contents.items():
        (place / name).write_bytes(data)
        yield name, partial(load_state, place / name)
    for suffix in (".safetensors", ".pth"):
        at = place / suffix
        at.mkdir()
        for name, path in _special(at, suffix):
            yield f"{name}{suffix}", partial(load_state, path)


def _recipes(folder: Path, rng: random.Random) -> Files:
    place = folder / "recipes"
    place.mkdir()
    begin, many = "data: {name: digits}\nforget: {count: 9}\n", 10**5
    laughs = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10 if i else 'x')}]\n" for i in range(9))
    texts = {
        "a list of classes": f"forget: {{classes: [{'1, ' * many}]}}\n",
        "a list of seeds": f"compare: {{seeds: [{'1, ' * 9000}]}}\n",
        "a list of methods": f"methods: [{'finetune, ' * 9000}]\n",
        "many methods": "methods:\n" + "".join(f"  a{i}: {{method: finetune}}\n" for i in range(3000)),
        "many unknown methods": "methods:\n" + "".join(f"  a{i}: {{}}\n" for i in range(9000)),
        "many unknown fields": "".join(f"k{i}: 1\n" for i in range(9000)),
        "many unknown fields of data": "data:\n" + "".join(f"  k{i}: 1\n" for i in range(9000)),
        "laughs": laughs,
        "a recursive alias": "data: &a {name: digits, path: *a}\n",
        "a recursive name": "? &a [*a]\n: 1\n",
        "deep": "a: " + "[" * 400_000,
        "deep objects": "model: {options: " + "{a: " * 900 + "1" + "}" * 900 + "}\n",
        "digits": f"seed: {'9' * 5000}\n",
        "digits in 60s": f"seed: {'1:' * many}1\n",
        "hexadecimal digits": f"seed: 0x{'f' * many}\n",
        "an infinite number": "train: {epochs: .inf}\n",
        "a large number": "model: {options: {width: 1e999}}\n",
        "NaN": "model: {options: {width: .nan}}\n",
        "a date": "model: {options: {width: 2001-13-45}}\n",
        "bytes": "data: {path: !!binary aGk=}\n",
        "a set": "model: {options: !!set {a}}\n",
        "an object of Python": "a: !!python/object/apply:os.system [x]\n",
        "half a character": 'name: "\\ud800"\n',
        "a character beyond all": 'name: "\\UFFFFFFFF"\n',
        "NUL": 'name: "a\\0b"\n',
        "a path with NUL": 'data: {name: folder, path: "a\\0b"}\n',
        "blank lines": "\n" * 500_000,
        "words": "name: " + "x " * 250_000,
        "two documents": "a: 1\n---\nb: 2\n",
        "too large": "# " + "x" * (1 << 21),
    }
    names = ("../../escape", "/etc", "..", ".", "a/b", "a\\b", "-rf", ".hidden", "", "x" * 300, "ü" * 101, "a\tb")
    texts["right"] = begin
    texts |= {f"called {name[:9]!a}": f"name: {json.dumps(name)}\n" for name in names}
    contents = {name: text.encode() for name, text in texts.items()} | {"utf16": begin.encode("utf-16")}
    contents |= dict(_damaged(begin.encode() * 3, rng, cuts=2, flips=6))
    for number, (name, data) in enumerate(contents.items()):
        (place / f"{number}.yaml").write_bytes(data)
        yield name, partial(read, place / f"{number}.yaml")
    for name, path in _special(place, ".yml"):
        yield name, partial(read, path)
    flags = {"not text": "\udcff", "half a character": "\ud800", "NUL": "a\0b", "laughs": laughs, "deep": "[" * many}
    for name, text in flags.items():
        for flag in ("name", "data.path", "out", "seed", "model.options"):
            yield f"--{flag} {name}", partial(read, None, [f"--{flag}", text])
