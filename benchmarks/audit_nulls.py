"""How often the audit finds something where nothing is: simulated models without a trace.

    python benchmarks/audit_nulls.py                 # 200 audits of each kind, a few minutes on one core
    python benchmarks/audit_nulls.py --audits 1000

Signals know nothing of the coins: heavy tails (Student's t with 3 degrees of freedom) whose scale differs from sample
to sample, a level of each model's own, all six signals, correlated as those of one network are. Each audit is scored
in full, as that of a run is. Right are: at most 5 % verdicts of a trace (two standard errors of the count are printed
beside it), p values that are uniform, intervals of the AUC that hold 0.5 in 95 % at least, and no ε above 0 in 95 %.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy import stats

from untrain.audit.coins import Coins, draw_coins
from untrain.audit.score import Audited
from untrain.audit.traces import EXPOSED, SIGNALS, TESTED, Traces
from untrain.audit.verdict import judge_traces


@dataclass(frozen=True)
class Size:
    """K twins, N samples."""

    twins: int
    samples: int


UNIFORM = tuple(name for name in TESTED if name != EXPOSED)
"""Groups whose p is uniform; that of the most exposed tenth, twice the smaller of two, is conservative by intent."""
SIZES = (Size(4, 300), Size(8, 300), Size(16, 300), Size(16, 1200))


def signals_of(rng: np.random.Generator, size: Size) -> dict[str, np.ndarray]:
    """Signals of K models, [K, N] each: half of every signal is common to all of a model."""
    shape = (size.twins, size.samples)
    scale = np.exp(rng.normal(size=size.samples))
    common = rng.standard_t(3, size=shape)
    names = [name for group in SIGNALS.values() for name in group]
    return {name: (common + rng.standard_t(3, size=shape)) * scale + rng.normal(size=(size.twins, 1)) for name in names}


def audit_of(seed: int, size: Size, redraws: int) -> tuple[Traces, str]:
    """What an audit finds of models without a trace, and its verdict."""
    rng = np.random.default_rng([seed, 7])
    coins = draw_coins(seed, size.twins, size.samples)
    original = Audited(_shown(signals_of(rng, size), coins), coins, seed=seed, redraws=redraws, draws=400)
    first = original.find()
    found = Audited(signals_of(rng, size), coins, original, seed=seed, redraws=redraws, draws=400).find()
    return found, judge_traces("the method", found, first, size.twins).kind


def _shown(signals: dict[str, np.ndarray], coins: Coins) -> dict[str, np.ndarray]:
    return {name: values + 2.0 * coins for name, values in signals.items()}


def row(size: Size, audits: int, redraws: int) -> str:
    """One line of the table."""
    found = [audit_of(seed, size, redraws) for seed in range(audits)]
    alarms = sum(kind == "trace" for _, kind in found)
    groups = [traces.groups["outputs"] for traces, _ in found]
    aucs = np.array([group.auc for group in groups], dtype=float)
    held = np.mean([group.auc_ci is not None and group.auc_ci[0] <= 0.5 <= group.auc_ci[1] for group in groups])
    bounds = np.mean([traces.epsilon is not None and traces.epsilon.lower > 0 for traces, _ in found])
    uniform = []
    for name in UNIFORM:
        p = [value for traces, _ in found if (value := traces.groups[name].p) is not None]
        rng = np.random.default_rng(0)  # p has steps of 1 / (redraws + 1); spread within them
        spread = np.array(p) - rng.random(len(p)) / (redraws + 1)
        uniform.append(f"{stats.kstest(spread, 'uniform').pvalue:.2f}" if p else "–")
    error = np.sqrt(0.05 * 0.95 / audits)
    return (
        f"| {size.twins} × {size.samples} | {100 * alarms / audits:.1f} % (5 ± {200 * error:.1f}) "
        f"| {aucs.mean():.4f} | "
        f"{100 * held:.1f} % | {100 * bounds:.1f} % | {' / '.join(uniform)} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=200)
    parser.add_argument("--redraws", type=int, default=99)
    options = parser.parse_args()
    print("| twins × samples | verdict `trace` | mean AUC | its interval holds 0.5 | ε above 0 | uniform p, by group |")
    print("|---|---|---|---|---|---|")
    for size in SIZES:
        print(row(size, options.audits, options.redraws), flush=True)
    print(f"\nuniform p: that of a Kolmogorov–Smirnov test, for {', '.join(UNIFORM)}")


if __name__ == "__main__":
    main()
