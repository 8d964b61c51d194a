"""What a budget buys: trace left, retain and test accuracy, from a twentieth of the training's cost to all of it.

    untrain run recipes/dial.yaml
    untrain audit runs/dial --twins 8 --no-relearning --jobs 2
    python benchmarks/dial.py runs/dial [MORE-FOLDERS …] [--figure docs/images/dial.png]

Methods of the audited run that are called NAME-PERCENT are drawn over that percentage, a row of panels for each folder,
and printed as tables. Zero is a retrained model: an attacker who finds nothing, and its own accuracies.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import style

from untrain.report.audit_file import AUDIT, AUDIT_FILE
from untrain.report.drawing import INK, STYLE, Key, legend, make_panels
from untrain.report.trade_offs import look_at
from untrain.runs.names import CONFIG
from untrain.runs.recipe import read
from untrain.sealed import read_sealed

QUANTITIES = {
    "outputs": "trace left on outputs",
    "exposed": "… of the most exposed",
    "base": "retain accuracy, points",
    "test": "test accuracy, points",
}
"""What is drawn, a panel each; accuracies are less those of retrained models."""
LEAST = -20.0
"""Points below which an accuracy is drawn at the edge: a short training from scratch would flatten all else."""


@dataclass(frozen=True)
class Point:
    """One method at one budget.

    Attributes:
        share: of the original training's cost, in %.
        values: quantity → value, and the ends of its 95 % interval.
    """

    share: int
    values: Mapping[str, tuple[float, float, float]]


def read_points(folder: Path) -> dict[str, list[Point]]:
    """Method → its points by rising budget, of an audited run."""
    content = read_sealed(folder / AUDIT / AUDIT_FILE, f"Make it again: untrain audit {folder}.")
    if content is None:
        raise SystemExit(f"{folder} was not audited yet: untrain audit {folder} --twins 8 --jobs 2.")
    if "methods" not in content:
        raise SystemExit(f"The audit of {folder} has not ended: untrain audit {folder} --resume.")
    found: dict[str, list[Point]] = {}
    for entry, values in content["methods"].items():
        name, _, share = entry.rpartition("-")
        if name and share.isdigit():
            found.setdefault(name, []).append(Point(int(share), _values(values)))
    if not found:
        raise SystemExit(f"{folder} has no audited method that is called NAME-PERCENT, as those of recipes/dial.yaml.")
    return {name: sorted(points, key=lambda point: point.share) for name, points in found.items()}


def _values(values: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    left = {name: (values[name]["left"], *values[name]["left_ci"]) for name in ("outputs", "exposed")}
    kept = {name: values["kept"][name] for name in ("base", "test")}
    return left | {name: (mean["value"], *(mean["ci"] or [mean["value"]] * 2)) for name, mean in kept.items()}


def shares_of(methods: Mapping[str, Sequence[Point]]) -> list[int]:
    """All budgets, rising."""
    return sorted({point.share for points in methods.values() for point in points})


def print_table(folder: Path, methods: Mapping[str, Sequence[Point]]) -> None:
    """Prints a folder's table: one row for each method, its budgets side by side."""
    shares = shares_of(methods)
    print(
        f"\n{folder.name}: left on outputs / of the most exposed tenth; retain / test accuracy less retrained, points\n"
    )
    print("| method | " + " | ".join(f"{share} %" for share in shares) + " |\n|" + "---|" * (1 + len(shares)))
    for name, points in methods.items():
        cells = {point.share: _cell(point.values) for point in points}
        print(f"| {name} | " + " | ".join(cells.get(share, "") for share in shares) + " |")


def _cell(values: Mapping[str, tuple[float, float, float]]) -> str:
    outputs, exposed, base, test = (values[name][0] for name in QUANTITIES)
    return f"{outputs:.2f} / {exposed:.2f}; {base:+.1f} / {test:+.1f}".replace("-", "−")


def draw(folders: Mapping[Path, Mapping[str, Sequence[Point]]], target: Path) -> None:
    """Writes the picture: a row of panels for each folder, the name of its data beside it where there are several."""
    names = list(dict.fromkeys(name for methods in folders.values() for name in methods))
    with style.context({**STYLE, "figure.facecolor": "white"}, after_reset=True):
        drawing, panels = make_panels(len(folders) * len(QUANTITIES), height=2.3, columns=len(QUANTITIES))
        rows = [(folder, methods, key) for folder, methods in folders.items() for key in QUANTITIES]
        first, last = next(iter(folders)), next(reversed(folders))
        for axes, (folder, methods, key) in zip(panels, rows, strict=True):
            axes.axhline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            for name, points in methods.items():
                look = look_at(names.index(name))
                middle, low, high = zip(*(point.values[key] for point in points), strict=True)
                x = [point.share for point in points]
                axes.plot(x, middle, color=look.colour, marker=look.marker, markersize=4, linewidth=1.3)
                axes.fill_between(x, low, high, color=look.colour, alpha=0.12, linewidth=0)
            axes.set_xscale("log")
            shares = shares_of(methods)
            axes.set_xticks(shares, [str(share) for share in shares])
            axes.minorticks_off()
            if folder is first:
                axes.set_title(QUANTITIES[key])
            if folder is last:
                axes.set_xlabel("budget, % of the training")
            if key == "outputs" and len(folders) > 1:
                axes.set_ylabel(read(folder / CONFIG).sections.data.name, color=INK)
            if key in ("base", "test"):
                axes.set_ylim(bottom=max(axes.get_ylim()[0], LEAST))
        keys = [Key("retrained", INK, (0, (4, 3)))]
        keys += [Key(name, look_at(place).colour, "-", look_at(place).marker) for place, name in enumerate(names)]
        legend(drawing, keys, len(keys))
        drawing.savefig(target, dpi=130)


def main() -> None:
    """Prints the tables, and draws the picture where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of audited runs of recipes/dial.yaml")
    parser.add_argument("--figure", type=Path, help="a file such as docs/images/dial.png")
    given = parser.parse_args()
    found = {folder: read_points(folder) for folder in given.folders}
    for folder, methods in found.items():
        print_table(folder, methods)
    if given.figure:
        draw(found, given.figure)


if __name__ == "__main__":
    main()
