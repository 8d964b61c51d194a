"""The audit's own test: models whose traces are known, made by numbers alone, and what the audit says of them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from untrain.audit.attack import membership_scores, other_twins
from untrain.audit.coins import Coins, draw_coins
from untrain.audit.score import Audited, Signals
from untrain.audit.statistics import auc_of_models, bound_of_guesses, mean_auc
from untrain.audit.traces import OUTPUTS
from untrain.audit.verdict import judge_traces

TWINS, SAMPLES, NULLS = 8, 300, 60


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what is simulated.
        found: what came out.
        wanted: what must.
        passed: whether it did.
    """

    name: str
    found: str
    wanted: str
    passed: bool


def self_test(seed: int = 0) -> Iterator[Check]:
    """Yields checks, half a minute in all."""
    yield _gaussians(seed)
    yield _nulls(seed)
    yield from _verdicts(seed)
    yield _matched(seed)
    yield _epsilon(seed)


def _gaussians(seed: int) -> Check:
    coins, rng = draw_coins(seed, 64, 1000), np.random.default_rng(seed)
    signal = rng.normal(size=coins.shape) + coins
    auc, best = float(mean_auc(membership_scores(signal, coins, other_twins(64)), coins)), 0.5 + math.erf(0.5) / 2
    return Check("one deviation apart: AUC", f"{auc:.3f}", f"{best:.3f} ± 0.01", abs(auc - best) <= 0.01)


def _nulls(seed: int) -> Check:
    """Share of false alarms, at 99 redraws: up to 5 % and two standard errors."""
    alarms = 0
    for i in range(NULLS):
        coins = draw_coins(seed + i, TWINS, SAMPLES)
        p = Audited({"confidence": _noise(seed + i)}, coins, seed=i, redraws=99, draws=10).group(OUTPUTS).p
        alarms += p is not None and p <= 0.05
    most = math.ceil(NULLS * 0.05 + 2 * math.sqrt(NULLS * 0.05 * 0.95))
    return Check("no trace: alarms at 5 %", f"{alarms} of {NULLS}", f"at most {most}", alarms <= most)


def _noise(seed: int) -> np.ndarray:
    """Heavy tails, of another scale for each sample, and a level for each model."""
    rng = np.random.default_rng([seed, 1])
    scale = np.exp(rng.normal(size=SAMPLES))
    return rng.standard_t(3, size=(TWINS, SAMPLES)) * scale + rng.normal(size=(TWINS, 1))


def _verdicts(seed: int) -> Iterator[Check]:
    """A method of each kind, and its verdict."""
    coins = draw_coins(seed, TWINS, SAMPLES)
    noise = _noise(seed)
    original = Audited({"confidence": noise + 2 * coins}, coins, seed=seed, redraws=199, draws=200)
    first = original.find()
    cases: dict[str, tuple[np.ndarray, set[str]]] = {
        "nothing was forgotten": (noise + 2 * coins, {"trace/still-known"}),
        "confidence is lowered": (noise - 2 * coins, {"trace/pushed-away"}),
        "trained anew": (_noise(seed + 1), {"passed", "weak"}),
    }
    for name, (signal, wanted) in cases.items():
        found = Audited({"confidence": signal}, coins, original, seed=seed, redraws=199, draws=200).find()
        verdict = judge_traces("the method", found, first, TWINS)
        said = f"{verdict.kind}/{verdict.subkind}" if verdict.subkind else verdict.kind
        yield Check(f"{name}: verdict", said, " or ".join(sorted(wanted)), said in wanted)
    blind = Audited({"confidence": noise}, coins, seed=seed, redraws=199, draws=200)
    kind = judge_traces("the method", blind.find(), blind.find(), TWINS).kind
    yield Check("originals show nothing: verdict", kind, "blind", kind == "blind")
    broken = original.find(_leaking(coins))
    kind = judge_traces("the method", broken, first, TWINS).kind
    yield Check("retrained models know the coins: verdict", kind, "broken", kind == "broken")


def _leaking(coins: Coins) -> Signals:
    return {"confidence": 3.0 * coins[: TWINS // 2]}


def _matched(seed: int) -> Check:
    """Forgotten samples have the values of others, but not the right ones each: averages see nothing."""
    coins, rng = draw_coins(seed, TWINS, 800), np.random.default_rng(seed)
    signal = 3 * rng.normal(size=800) + rng.normal(size=coins.shape) + 3 * coins * (rng.random(800) < 1 / 3)
    for row, members in zip(signal, coins, strict=True):
        places = np.flatnonzero(members)[np.argsort(row[members])]
        row[places] = np.quantile(row[~members], (np.arange(len(places)) + 0.5) / len(places))
    average = float(auc_of_models(signal, coins).mean())
    auc = float(mean_auc(membership_scores(signal, coins, other_twins(TWINS)), coins))
    found = f"{auc:.2f} where averages say {average:.2f}"
    return Check("marginals are matched: AUC", found, "above 0.70 where averages say 0.50", auc > 0.70)


def _epsilon(seed: int) -> Check:
    right = np.random.default_rng(seed).binomial(5000, 1 / (1 + math.exp(-1.0)), size=200)
    bounds = np.array([bound_of_guesses(5000, int(count), 0.05) for count in right])
    held, middle = float((bounds <= 1).mean()), float(np.median(bounds))
    return Check(
        "ε is 1: bound",
        f"{middle:.2f}, held by {100 * held:.0f} %",
        "0.90 to 1.00, by 93 %",
        held >= 0.93 and middle > 0.9,
    )
