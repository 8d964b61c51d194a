"""The audit in Python: of a run, of a model, and of signals alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt

from untrain import registry
from untrain.audit.designs import plan_of
from untrain.audit.finding import Audit
from untrain.audit.model import audit_model
from untrain.audit.run import audit_run
from untrain.audit.score import Audited, Signals
from untrain.audit.traces import Traces
from untrain.audit.verdict import AuditVerdict, judge_traces
from untrain.engine import Precision
from untrain.errors import SettingError
from untrain.runs.recipe import read
from untrain.settings import Seed, Workers, check_arguments, describe


@check_arguments
def audit(
    run: Any,
    *,
    forget: Any = None,
    unseen: Any = None,
    retain: Any = None,
    original: Any = None,
    references: Any = None,
    exchangeable: bool = False,
    task: Any = None,
    peak_lr: Annotated[float, Gt(0)] | None = None,
    device: Any = None,
    precision: Precision | None = None,
    workers: Workers | None = None,
    twins: Annotated[int, Ge(0)] | None = None,
    methods: Sequence[str] | None = None,
    design: str | None = None,
    jobs: Annotated[int, Ge(1)] | None = None,
    seed: Seed = 0,
    resume: bool = False,
    keep: bool = False,
    per_sample: bool = False,
    planted: Annotated[int, Ge(0)] = 0,
    no_relearning: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Audit:
    """Audits a run, or one model: whether forgotten samples can still be told from samples that were never seen.

    Of a run (a folder), twins are trained that show what each method leaves. Of a model (anything that
    `untrain.unlearn` takes), its answers on forgotten and on unseen samples are compared, within classes; that finds
    less, and never says that a model passed.

    Args:
        run: folder of a finished run whose recipe trains its original; or a model.
        forget: of a model: what was to be forgotten; a data set, a DataLoader or a list of ready batches.
        unseen: of a model: samples that were given to no training and no method, likewise.
        retain: of a model: what was kept, likewise: features are read by it, and the model relearns on it.
        original: of a model: the model before; without it, nothing tells whether this attack sees anything here.
        references: of a run, how many models are retrained on what all twins keep: nothing may be found in them; None:
            4 where samples are forgotten, as many as twins where classes are. Of a model: one to four models trained
            without forgotten and unseen samples.
        exchangeable: of a model, or of a run with `twins=0`: forgotten and unseen samples were drawn from one source at
            random. Where that was not said, samples are described, and nothing is judged.
        task: of a model: what it was trained on, a name or a task object; None: as in `unlearn`.
        peak_lr: of a model: the highest learning rate of the original training, a tenth of which relearning takes;
            None: nothing is relearned.
        device: of a model, as in `unlearn`.
        precision: of a model, as in `unlearn`; None: "no".
        workers: of a model, as in `unlearn`; None: 0.
        twins: of a run: originals that are trained for it, K; None: 16 where samples are forgotten, 6 where classes
            are, 5 of generators; 0: none, the run's own models are asked.
        methods: of a run: entries of its recipe; None: all.
        design: of a run: how traces are looked for, "coins" for requests of samples, "refs" for classes, and for any
            request if asked for, "attacks" for text-to-image pipelines; None: the one that fits the request.
        jobs: of a run: models that are made side by side; None: 1; more need `if __name__ == "__main__":` around a
            script.
        seed: of whatever is random.
        resume: of a run: go on with the audit that the folder holds.
        keep: of a run: keep the twins' weights.
        per_sample: of a run: write what is known of each single sample into RUN/audit/per-sample.csv, which tells
            whoever reads it which samples were trained on.
        planted: of a run: images with noise of their own that are planted in each twin, to see whether it is
            remembered; 64 are usual.
        no_relearning: of a run whose samples are forgotten: relearn nothing, which takes less time and does not look
            for what lies dormant.
        options: of a run: how much the attacks may do, where the task has options; `untrain audit RUN --help` lists
            them.

    Returns:
        What was found of each method, and verdicts; audit.json in RUN/audit holds the same. Of a model, `.verdict`.

    Raises:
        UntrainError: what cannot be audited, an argument that has no meaning here, or which models could not be made.
    """
    of_run = {"twins": twins, "methods": methods, "design": design, "jobs": jobs, "options": options}
    of_run |= {
        "resume": resume or None,
        "keep": keep or None,
        "per_sample": per_sample or None,
        "planted": planted or None,
        "no_relearning": no_relearning or None,
    }
    sets = {"forget": forget, "unseen": unseen, "retain": retain}
    of_model = {**sets, "original": original, "task": task, "peak_lr": peak_lr, "device": device}
    of_model |= {"precision": precision, "workers": workers}
    if isinstance(run, str | PurePath):
        _refuse(of_model, "of a model, and a run folder knows it itself")
        if references is not None and (not isinstance(references, int) or isinstance(references, bool)):
            raise SettingError(f"references of a run is how many are trained, not {describe(references)}.")
        how: dict[str, Any] = {"design": design, "twins": twins, "references": references, "seed": seed, "keep": keep}
        how |= {"exchangeable": exchangeable, "per_sample": per_sample, "planted": planted, "options": options}
        how |= {"no_relearning": no_relearning}
        return audit_run(plan_of(read(Path(run)), methods, **how), jobs=jobs or 1, resume=resume)
    _refuse(of_run, "of a run folder: a model alone has no twins")
    if isinstance(references, int):
        raise SettingError("references of a model are models trained without forgotten and unseen samples: a list.")
    others = references if isinstance(references, list | tuple) else [] if references is None else [references]
    return audit_model(
        run,
        sets,
        original=original,
        references=others,
        exchangeable=exchangeable,
        task=registry.DEFAULT_TASK if task is None else task,
        peak_lr=peak_lr,
        seed=seed,
        device=device,
        precision=precision or "no",
        workers=workers or 0,
    )


def _refuse(given: Mapping[str, Any], why: str) -> None:
    """Refuses arguments that have no meaning for what is audited."""
    strange = [name for name, value in given.items() if value is not None]
    if strange:
        raise SettingError(f"the argument {strange[0]} of untrain.audit is {why}. Leave it out.")


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
