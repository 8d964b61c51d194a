"""What `unlearn` takes beside its steps, as the retain set grows.

    python benchmarks/start_up.py                                  # 5,000, 50,000 and 500,000 images of 3×32×32
    python benchmarks/start_up.py --kinds tensors subsets --out    # with a run folder, whose manifest has hashes
    python benchmarks/start_up.py --kinds folder --samples 100000  # image files in a folder
    python benchmarks/start_up.py --kinds parquet --samples 20000 200000

Each line is a fresh process on one thread with two outer steps on a small network, so that what differs between sizes
is not the steps. Seconds are processor seconds, user and system; memory is what the peak of the resident size lies
above the data's own. `folder` and `parquet` are read from files, by `untrain.data.sources.load`, the files warm.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import ConcatDataset, Subset, TensorDataset

import untrain
from untrain.data.columns import Columns
from untrain.data.sources import load
from untrain.data.splits import Subset as View

FORGET = 500
CLASSES = 10
GROUP = 1_000
"""Rows of a row group of parquet."""


def images(count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return TensorDataset(pixels, torch.arange(count) % CLASSES)


def make_sets(kind: str, count: int, path: str | None) -> tuple[Any, Any]:
    """The forget and the retain set, as users hand them over."""
    if kind in ("folder", "parquet"):
        source = load(kind, "train", path=path, image_size=32)
        return View(source, range(FORGET)), View(source, range(FORGET, len(source)))
    whole = images(FORGET + count)
    x, y = whole.tensors
    if kind == "floats":
        x = x.float().div_(127.5).sub_(1)
    if kind in ("tensors", "floats"):
        return TensorDataset(x[:FORGET], y[:FORGET]), TensorDataset(x[FORGET:], y[FORGET:])
    if kind == "chained":
        parts = [TensorDataset(x[FORGET:-9], y[FORGET:-9]), TensorDataset(x[-9:], y[-9:])]
        return TensorDataset(x[:FORGET], y[:FORGET]), ConcatDataset(parts)
    if kind == "columns":
        source = Columns({"input": x, "label": y})
        return View(source, range(FORGET)), View(source, range(FORGET, FORGET + count))
    order = torch.randperm(FORGET + count, generator=torch.Generator().manual_seed(1)).tolist()
    return Subset(whole, order[:FORGET]), Subset(whole, order[FORGET:])


def network() -> nn.Module:
    class Bytes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.max() < 2 else x / 127.5 - 1

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(392, CLASSES)]
    return nn.Sequential(Bytes(), *layers)


def peak() -> float:
    """The largest resident size so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(kind: str, count: int, path: str | None, out: bool) -> dict[str, float]:
    """Processor seconds and MiB of one call, in this process; a small one before it has loaded all libraries."""
    torch.set_num_threads(1)
    rate = untrain.Optimizer("sgd", lr=0.01)
    settings = {"steps": 2, "retain_steps": 2, "optimizer": rate, "fisher_samples": 256, "calibrate": False}
    unlearn(*make_sets("tensors", 600, None), settings, out)
    start = time.process_time()
    forget, retain = make_sets(kind, count, path)
    made, before = time.process_time() - start, peak()
    start = time.process_time()
    unlearn(forget, retain, settings, out)
    return {"data": made, "seconds": time.process_time() - start, "mib": peak() - before}


def unlearn(forget: Any, retain: Any, settings: dict[str, Any], out: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder) / "run" if out else None
        untrain.unlearn(network(), forget=forget, retain=retain, out=where, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["tensors", "subsets", "columns"])
    parser.add_argument("--samples", nargs="+", type=int, default=[5_000, 50_000, 500_000])
    parser.add_argument("--out", action="store_true", help="with a run folder")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, count, path = options.one
        print(json.dumps(measure(kind, int(count), path or None, options.out)))
        return
    print("| retain set | samples | making it s | unlearn s | MiB above the data |\n|---|---|---|---|---|")
    for kind in options.kinds:
        for count in options.samples:
            with tempfile.TemporaryDirectory() as folder:
                path = write(kind, count, Path(folder))
                own = [sys.executable, __file__, "--one", kind, str(count), path, *(["--out"] if options.out else [])]
                ran = subprocess.run(own, check=True, capture_output=True, text=True)
            found = json.loads(ran.stdout.splitlines()[-1])
            print(
                f"| {kind} | {count:,} | {found['data']:.2f} | {found['seconds']:.2f} | {found['mib']:.0f} |",
                flush=True,
            )


def write(kind: str, count: int, folder: Path) -> str:
    """Writes noise as image files of 32×32, in folders by class or as rows of parquet; returns the place."""
    if kind not in ("folder", "parquet"):
        return ""
    import io

    from PIL import Image

    encoded = []
    for picture in torch.randint(0, 256, (256, 32, 32, 3), dtype=torch.uint8).numpy():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        encoded.append(file.getvalue())
    if kind == "folder":
        for number in range(CLASSES):
            (folder / "train" / f"class-{number}").mkdir(parents=True)
        for i in range(count + FORGET):
            (folder / "train" / f"class-{i % CLASSES}" / f"{i:06d}.png").write_bytes(encoded[i % 256])
        return str(folder)
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(folder / "train-00000.parquet", _SCHEMA()) as file:
        for start in range(0, count + FORGET, GROUP):
            rows = range(start, min(start + GROUP, count + FORGET))
            columns = {
                "image": [{"bytes": encoded[i % 256], "path": f"{i}.png"} for i in rows],
                "label": [i % 10 for i in rows],
            }
            file.write_table(pyarrow.table(columns, schema=_SCHEMA()))
    return str(folder)


def _SCHEMA() -> Any:
    import pyarrow

    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    return pyarrow.schema([("image", image), ("label", pyarrow.int64())])


if __name__ == "__main__":
    main()
