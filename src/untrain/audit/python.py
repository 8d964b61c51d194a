"""The audit in Python: of a run, and of signals alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from untrain.audit.designs import plan_of
from untrain.audit.finding import Audit
from untrain.audit.run import audit_run
from untrain.audit.score import Audited, Signals
from untrain.audit.traces import Traces
from untrain.audit.verdict import AuditVerdict, judge_traces
from untrain.runs.recipe import read
from untrain.settings import Seed, check_arguments


@check_arguments
def audit(
    run: str | Path,
    *,
    twins: Annotated[int, Ge(1)] | None = None,
    references: Annotated[int, Ge(0)] | None = None,
    methods: Sequence[str] | None = None,
    design: str | None = None,
    jobs: Annotated[int, Ge(1)] = 1,
    seed: Seed = 0,
    resume: bool = False,
    keep: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Audit:
    """Audits a run: whether forgotten samples can still be told from samples that were never seen.

    Args:
        run: folder of a finished run whose recipe trains its original.
        twins: originals that are trained for it, K; None: 16 where samples are forgotten.
        references: models retrained on what all twins keep, R: nothing may be found in them; None: 4 where samples are
            forgotten.
        methods: entries of the run's recipe; None: all.
        design: how traces are looked for, "coins" for requests of samples, "attacks" for text-to-image pipelines;
            None: the one that fits the request.
        jobs: models that are made side by side; more than 1 needs `if __name__ == "__main__":` around a script.
        seed: of samples, coins and twins.
        resume: go on with the audit that the folder holds.
        keep: keep the twins' weights.
        options: how much the attacks may do, where the task has options; `untrain audit RUN --help` lists them.

    Returns:
        What was found of each method, and verdicts; audit.json in RUN/audit holds the same.

    Raises:
        UntrainError: what keeps the run from being audited, or which models could not be made.
    """
    how: dict[str, Any] = {"design": design, "twins": twins, "references": references, "seed": seed, "keep": keep}
    return audit_run(plan_of(read(run), methods, options=options, **how), jobs=jobs, resume=resume)


@dataclass(frozen=True)
class ScoreAudit:
    """What signals alone show.

    Attributes:
        traces: of the models.
        original: of the originals; None where they were not given.
        verdict: None where there are no originals, without which nothing can be judged.
    """

    traces: Traces
    original: Traces | None
    verdict: AuditVerdict | None


@check_arguments
def audit_scores(
    signals: Mapping[str, np.ndarray],
    coins: np.ndarray,
    originals: Mapping[str, np.ndarray] | None = None,
    *,
    retrained: Mapping[str, np.ndarray] | None = None,
    name: str = "the method",
    seed: Seed = 0,
) -> ScoreAudit:
    """The audit's statistics alone, for signals that were had elsewhere.

    Args:
        signals: name → one number for each twin and sample, [K, N]; names are those of
            `untrain.audit.traces.SIGNALS`: confidence, nearby, refit, centre, spread, relearned.
        coins: whether twin k was trained on sample x and told to forget it, bool [K, N]: independent fair coins.
        originals: the same signals of the twins before forgetting.
        retrained: signals of models that never saw any of the samples, [R, N] each.
        name: of the method, in the verdict.
        seed: of redrawn coins and of resamples.

    Raises:
        UntrainError: if shapes differ, a signal is unknown or not finite, or twins or samples are too few.
    """
    first: Signals | None = originals
    before = None if first is None else Audited(first, coins, seed=seed)
    original = None if before is None else before.find(retrained)
    traces = Audited(signals, coins, before, seed=seed).find(retrained)
    verdict = None if original is None else judge_traces(name, traces, original, len(coins))
    return ScoreAudit(traces, original, verdict)
