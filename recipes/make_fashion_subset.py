"""Makes the embedded subset of Fashion-MNIST from the four idx files of the full set.

    python recipes/make_fashion_subset.py FOLDER [--out src/untrain/data/embedded/fashion.npy.xz]

The result depends on the idx files alone, and byte for byte on the version of liblzma only.
"""

import argparse
import hashlib
import io
import lzma
from pathlib import Path

import numpy as np

from untrain.data.sources import read_idx
from untrain.io import write_bytes

PER_CLASS = {"train": 700, "t10k": 300}
EMBEDDED = Path(__file__).parents[1] / "src/untrain/data/embedded/fashion.npy.xz"


def subset(folder: Path, part: str, per_class: int) -> list[np.ndarray]:
    """Images, labels and original positions of the chosen samples, in their original order.

    Of every class, those samples whose names `PART-POSITION` have the smallest SHA-256: a choice by lot that
    depends on no random number generator.
    """
    images = read_idx(_file(folder, f"{part}-images-idx3-ubyte"), 3)
    labels = read_idx(_file(folder, f"{part}-labels-idx1-ubyte"), 1)
    lots = np.array([hashlib.sha256(f"{part}-{i}".encode()).hexdigest() for i in range(len(labels))])
    order = np.argsort(lots)
    chosen = np.sort(np.concatenate([order[labels[order] == label][:per_class] for label in np.unique(labels)]))
    return [images[chosen], labels[chosen], chosen.astype(np.uint16)]


def packed(folder: Path, per_class: dict[str, int]) -> bytes:
    """Six arrays one after the other in numpy's npy format, packed by xz."""
    stream = io.BytesIO()
    for part, count in per_class.items():
        for array in subset(folder, part, count):
            np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return lzma.compress(stream.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def _file(folder: Path, name: str) -> Path:
    packed_file = folder / f"{name}.gz"
    return packed_file if packed_file.exists() else folder / name


def main() -> None:
    """Writes the file and says how large it is."""
    parser = argparse.ArgumentParser(description="Make the embedded subset of Fashion-MNIST.")
    parser.add_argument("folder", type=Path, help="the folder of the four idx files, packed by gzip or not")
    parser.add_argument("--out", type=Path, default=EMBEDDED, help="the file to write")
    arguments = parser.parse_args()
    data = packed(arguments.folder, PER_CLASS)
    write_bytes(arguments.out, data)
    print(f"{arguments.out}: {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
