"""A recipe over several seeds: mean ± standard deviation of every measure, as Markdown.

    python benchmarks/over_seeds.py recipes/fashion-random.yaml --seeds 0 1 2 [--data.path … any flag of the recipe]

Each seed chooses another forget set, trains another original and other retrained models. Run folders are kept under
runs/NAME-seed-N and gone on with when the script is started again.
"""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev

from untrain.config import read
from untrain.pipeline import run_recipe

MEASURES = ("FA", "RA", "TA", "forgotten_TA", "MIA", "AvgD", "KL", "JS", "ToW", "seconds")


def evaluations(recipe: str, seeds: list[int], flags: list[str]) -> list[dict]:
    found = []
    for seed in seeds:
        name = f"runs/{Path(recipe).stem}-seed-{seed}"
        chosen = read(recipe, [*flags, "--seed", str(seed), "--out", name])
        run_recipe(chosen, resume=True)
        found.append(json.loads((Path(name) / "evaluation.json").read_text()))
    return found


def cell(values: list[float | None]) -> str:
    numbers = [v for v in values if v is not None]
    if len(numbers) < len(values) or not numbers:
        return "–"
    spread = f" ± {stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{mean(numbers):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args, flags = parser.parse_known_args()
    found = evaluations(args.recipe, args.seeds, flags)
    columns = [m for m in MEASURES if any(e.get(m) is not None for f in found for e in f["models"].values())]
    share = "seconds / retraining (%)"
    print("| model | " + " | ".join([*columns, share]) + " |")
    print("|" + "---|" * (len(columns) + 2))
    for model in found[0]["models"]:
        rows = [f["models"][model] for f in found]
        shares = [100 * f["models"][model]["seconds"] / f["models"]["retrained"]["seconds"] for f in found]
        print(f"| {model} | " + " | ".join([cell([r.get(m) for r in rows]) for m in columns] + [cell(shares)]) + " |")
    print(f"\nSeeds {args.seeds}; sizes {found[0]['sizes']}.")


if __name__ == "__main__":
    main()
