"""Whether the audit sees through methods that only look as if they forgot, on the networks of a real run.

    untrain run recipes/audit-fashion.yaml
    untrain audit runs/audit-fashion --jobs 2
    python benchmarks/audit_cheats.py runs/audit-fashion

Reads what the twins of a finished audit told, and puts cheats in a method's place: each alters what the originals say
of the samples that they were told to forget, as an owner of the model could who wants averages to look right.

- `identity`: nothing is altered.
- `streisand`: confidences of forgotten samples are divided by four.
- `marginals`: they get the values of the same model's never-seen samples, in their own order: every average over them,
  every threshold and every histogram is exactly right.
- `peaky`: each gets the mean confidence that retrained models have on it: the right answer, without any spread.
- `retrained`: no cheat: another retrained model in each twin's place, for comparison.

Cheats that change the network itself (a new head alone; the method that does nothing) are run in tests/audit.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from untrain.audit import audit_scores
from untrain.audit.coins import Coins
from untrain.audit.coins_design import CoinsDesign
from untrain.audit.designs import open_design, plan_of
from untrain.audit.statistics import mean_auc
from untrain.audit.twins import BASE
from untrain.errors import FolderError
from untrain.permissions import Permissions
from untrain.runs.names import ORIGINAL
from untrain.runs.recipe import read
from untrain.sealed import read_sealed

Signals = Mapping[str, np.ndarray]
OUTPUTS = ("confidence", "nearby")


def opened(folder: Path, allow_code: bool) -> CoinsDesign:
    """The design of a run's finished audit."""
    facts = read_sealed(folder / "audit" / "audit.json", "Audit the run.", "an audit", FolderError)
    if facts is None or "methods" not in facts:
        raise SystemExit(f"{folder} holds no finished audit: untrain audit {folder}.")
    names = list(facts["methods"])
    recipe = read(folder, permissions=Permissions(code=allow_code))
    plan = plan_of(recipe, names, twins=facts["twins"], references=facts["references"], seed=facts["seed"])
    design = open_design(plan)
    if not isinstance(design, CoinsDesign):
        raise SystemExit(f"the audit of {folder} goes by {facts['design']}, not by coins.")
    return design


def told(design: CoinsDesign, places: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    """What models told of their outputs, [models, N] each."""
    found = [design.read_told(*place) for place in places]
    return {name: np.stack([each.signals[name] for each in found if each is not None]) for name in OUTPUTS}


def divided(signal: np.ndarray, coins: Coins, retrained: np.ndarray) -> np.ndarray:
    """`streisand`."""
    return np.where(coins, signal / 4, signal)


def matched(signal: np.ndarray, coins: Coins, retrained: np.ndarray) -> np.ndarray:
    """`marginals`."""
    found = signal.copy()
    for row, members in zip(found, coins, strict=True):
        places = np.flatnonzero(members)[np.argsort(row[members])]
        row[places] = np.quantile(row[~members], (np.arange(len(places)) + 0.5) / len(places))
    return found


def peaky(signal: np.ndarray, coins: Coins, retrained: np.ndarray) -> np.ndarray:
    """`peaky`."""
    return np.where(coins, retrained.mean(axis=0), signal)


def same(signal: np.ndarray, coins: Coins, retrained: np.ndarray) -> np.ndarray:
    """`identity`."""
    return signal


CHEATS: dict[str, Callable[[np.ndarray, Coins, np.ndarray], np.ndarray]] = {
    "identity": same,
    "streisand": divided,
    "marginals": matched,
    "peaky": peaky,
}


def row(name: str, signals: Signals, coins: Coins, original: Signals) -> str:
    """One line of the table."""
    found = audit_scores(signals, coins, original, name=name)
    group = found.traces.groups["outputs"]
    raw = float(mean_auc(signals["confidence"], coins))
    if group.auc is None or group.auc_ci is None or group.p is None or found.verdict is None:
        raise SystemExit(f"the audit has no answer for {name}.")
    kind = "/".join(filter(None, (found.verdict.kind, found.verdict.subkind)))
    low, high = group.auc_ci
    return f"| {name} | {raw:.3f} | {group.auc:.3f} [{low:.3f}, {high:.3f}] | {group.p:.3f} | {kind} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--allow-code", action="store_true", help="run the code that the run's recipe names")
    options = parser.parse_args()
    design = opened(options.folder, options.allow_code)
    coins = design.pool.coins
    original = told(design, [(design.twin(k), ORIGINAL) for k in range(design.plan.twins)])
    retrained = told(design, [(BASE, name) for name in design.models(BASE)])
    print("| cheat | AUC of one threshold | AUC of the audit | p | verdict |\n|---|---|---|---|---|")
    for name, cheat in CHEATS.items():
        print(row(name, {key: cheat(original[key], coins, retrained[key]) for key in OUTPUTS}, coins, original))
    if "retrain" in design.plan.methods:
        again = told(design, [(design.twin(k), "retrain") for k in range(design.plan.twins)])
        print(row("retrained", again, coins, original))


if __name__ == "__main__":
    main()
