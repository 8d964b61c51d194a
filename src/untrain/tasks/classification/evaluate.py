"""One forward pass over each set, and every measure from it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.engine import Engine, preserve_modes
from untrain.errors import DataError, ModelError, convert_errors, lacks_reference, spell
from untrain.metrics.accuracy import accuracy, accuracy_by_class, tug_of_war
from untrain.metrics.divergence import js_divergence, kl_divergence
from untrain.metrics.membership import entropy, entropy_attack, modified_entropy, svc_attack
from untrain.metrics.summary import summarize
from untrain.types import Batch, Task

DISTANCES = ("FA", "RA", "TA", "MIA")
"""The measures whose distances to the retrained model Avg.D averages."""

EDGES = [0.0, *torch.logspace(-6, 1.5, 46, dtype=torch.float64).tolist()]
"""Edges in nats of the loss histograms' bins; larger losses count in the last."""

SVC_ATTACKS = {
    "SVC_confidence": "confidences",
    "SVC_entropy": "entropies",
    "SVC_modified_entropy": "modified_entropies",
}
"""Support vector attacks: measure → the statistic of `Predictions` that it looks at."""

NO_STRANGERS = "the test set holds only forgotten classes"


@dataclass(frozen=True)
class Predictions:
    """What a model says about one set.

    Attributes:
        labels: [N].
        correct: whether the largest logit is the label's, bool [N].
        losses: cross-entropy in nats, [N], float64.
        entropies: of the prediction, in nats, [N], float64.
        modified_entropies: likewise, with regard to the own label.
        log_probs: [N, C] in float64, where asked for.
    """

    labels: Tensor
    correct: Tensor
    losses: Tensor
    entropies: Tensor
    modified_entropies: Tensor
    log_probs: Tensor | None = None

    @property
    def confidences(self) -> Tensor:
        """Probability of the own label, [N]."""
        return (-self.losses).exp()

    def where(self, chosen: Tensor) -> "Predictions":
        """The samples where `chosen`, bool [N], holds."""
        return replace(self, **{name: value[chosen] for name, value in vars(self).items() if value is not None})


@dataclass(frozen=True)
class Measured:
    """What a model says about the forget, retain and test set, [N] each."""

    forget: Predictions
    retain: Predictions
    test: Predictions


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Every measure of one model; None where it could not be had, with the reason in `missing`.

    No value is good by itself: the retrained model's is the target, and how far several retrained models are
    apart is the noise floor.
    """

    FA: float | None = None
    """Accuracy on the forget set, %."""
    RA: float | None = None
    """Accuracy on the retain set, %."""
    TA: float | None = None
    """Accuracy on the test set, without the classes that were forgotten whole, %."""
    MIA: float | None = None
    """Share of the forget set that an attack on the prediction's entropy calls member, %."""
    SVC_confidence: float | None = None
    """Share of the forget set that a support vector attack on the own label's probability calls non-member, %."""
    SVC_entropy: float | None = None
    """Likewise, on the prediction's entropy, %."""
    SVC_modified_entropy: float | None = None
    """Likewise, on the modified entropy, which knows the label, %."""
    KL: float | None = None
    """Mean over the forget set of KL(p_retrained ‖ p), nats."""
    JS: float | None = None
    """Mean over the forget set of the Jensen–Shannon divergence to the retrained model, nats."""
    AvgD: float | None = None
    """Mean distance of FA, RA, TA and MIA to the retrained model's, points."""
    ToW: float | None = None
    """Π (1 − |acc − acc_retrained| / 100) over forget, retain and test set."""
    forgotten_TA: float | None = None
    """Test accuracy on the classes that were forgotten whole, %; None where none was."""
    seconds: float | None = None
    """RTE: seconds the unlearning took, Fisher included, evaluation left out."""
    missing: dict[str, str] = field(default_factory=dict)
    """Measure → why it could not be had."""
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """FA, RA and TA of each class, %."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Histograms of the loss: "edges" in nats, and counts for "forget", "retain" and "test"."""
    noise_floor: dict[str, float] | None = None
    """The same distances between the target and further retrained models (their mean), where there are any."""

    def __repr__(self) -> str:
        """Shows accuracies, the attack and the distance to the retrained model."""
        return summarize(self, ("FA", "RA", "TA", "MIA", "AvgD"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def evaluate_models(
    models: Mapping[str, nn.Module],
    task: Task,
    streams: Mapping[str, Stream],
    engine: Engine,
    *,
    references: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    svc: bool = False,
    seed: int = 0,
) -> dict[str, Evaluation]:
    """Evaluates models on the same sets.

    Args:
        models: name → module.
        task: draws the batches; prepared.
        streams: the "forget", "retain" and "test" sets.
        engine: where to run.
        references: names of the retrained models among them; the first is the target, the others the noise floor.
        classes: the classes' names; None: their numbers.
        svc: whether to run the support vector attacks, which take about a second a model.
        seed: of the samples that those are fitted on.
    """
    passes = len(models) * sum(stream.passes() for stream in streams.values())
    with engine.progress("evaluate", passes) as bar:
        measured = {
            name: Measured(**{s: predictions(model, task, streams[s], engine, bar.advance) for s in streams})
            for name, model in models.items()
        }
    target = measured[references[0]] if references else None
    evaluations = {name: compare(each, target, classes) for name, each in measured.items()}
    if svc:
        evaluations = {name: attacked(e, measured[name], seed) for name, e in evaluations.items()}
    others = [evaluations[name] for name in references[1:]]
    if not others:
        return evaluations
    names = ("KL", "JS", "AvgD", "ToW")
    floor = {name: sum(getattr(e, name) for e in others) / len(others) for name in names}
    return {name: Evaluation(**{**vars(e), "noise_floor": floor}) for name, e in evaluations.items()}


def predictions(model: nn.Module, task: Task, stream: Stream, engine: Engine, advance: Any = None) -> Predictions:
    """One forward pass over a set, in evaluation mode and on unaugmented data; modes are put back.

    Args:
        model: gives logits or log-probabilities [B, C].
        task: draws for the role "evaluate".
        stream: the set; log-probabilities are kept of the forget set alone.
        engine: each process takes its share of every batch.
        advance: called after each batch.
    """
    parts: list[tuple[Tensor, ...]] = []
    with preserve_modes(model), torch.no_grad():
        model.eval()
        for batch in stream.once(task, "evaluate"):
            with convert_errors(ModelError, "the model's outputs cannot be compared with labels"):
                parts.append(_statistics(model, task, engine, batch, keep=stream.name == "forget"))
            if advance:
                advance()
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    result = Predictions(*columns)
    if not bool(torch.isfinite(result.losses).all()):
        bad = int((~torch.isfinite(result.losses)).sum())
        raise DataError(f"the model's loss is not finite on {bad} samples of the {stream.name} set.")
    return result


def _statistics(model: nn.Module, task: Task, engine: Engine, batch: Batch, keep: bool) -> tuple[Tensor, ...]:
    share = engine.shard(batch)
    with engine.forward_pass():
        logits = task.outputs(model, share)
    log_probs = logits.double().log_softmax(dim=1)
    labels = task.condition(share)
    if labels is None:
        raise DataError("the samples have no labels, so accuracies cannot be had.")
    columns = [
        labels,
        logits.argmax(dim=1) == labels,
        -log_probs.gather(1, labels[:, None]).squeeze(1),
        entropy(log_probs),
        modified_entropy(log_probs, labels),
        *([log_probs] if keep else []),
    ]
    return tuple(engine.gather(column).cpu() for column in columns)


def compare(measured: Measured, target: Measured | None, classes: Sequence[str] | None = None) -> Evaluation:
    """Every measure of one model from its predictions, those beside the target's included."""
    classes = classes or [str(c) for c in range(int(max(p.labels.max() for p in vars(measured).values())) + 1)]
    forgotten = forgotten_classes(measured)
    outside = ~torch.isin(measured.test.labels, forgotten)
    values: dict[str, Any] = _own(measured, outside)
    missing = dict.fromkeys(SVC_ATTACKS, f"not asked for: {spell('--svc_attacks true', 'svc_attacks=True')}")
    if not outside.any():
        missing |= dict.fromkeys(("TA", "MIA"), NO_STRANGERS)
    if target is None:
        missing |= dict.fromkeys(("KL", "JS", "AvgD", "ToW"), lacks_reference())
    else:
        values |= _beside(measured, values, target, _own(target, outside))
    if len(forgotten):
        inside = measured.test.correct[~outside]
        values["forgotten_TA"] = accuracy(inside) if len(inside) else None
    parts = {"FA": measured.forget, "RA": measured.retain, "TA": measured.test}
    values["by_class"] = {name: accuracy_by_class(p.correct, p.labels, classes) for name, p in parts.items()}
    values["losses"] = {"edges": EDGES, **{name: _histogram(p.losses) for name, p in vars(measured).items()}}
    return Evaluation(**values, missing=missing)


def attacked(evaluation: Evaluation, measured: Measured, seed: int = 0) -> Evaluation:
    """The evaluation with the support vector attacks' values, or with the reason why they cannot be had.

    Args:
        evaluation: of the same model.
        measured: its predictions; the non-members are the test samples of the classes that are retained.
        seed: of the samples that the attacks are fitted on.
    """
    outside = ~torch.isin(measured.test.labels, forgotten_classes(measured))
    missing = {name: why for name, why in evaluation.missing.items() if name not in SVC_ATTACKS}
    if not outside.any():
        return replace(evaluation, missing=missing | dict.fromkeys(SVC_ATTACKS, NO_STRANGERS))
    sides = (measured.retain, measured.test.where(outside), measured.forget)
    values: dict[str, Any] = {
        name: svc_attack(*(getattr(side, statistic) for side in sides), seed=seed)
        for name, statistic in SVC_ATTACKS.items()
    }
    return replace(evaluation, missing=missing, **values)


def forgotten_classes(measured: Measured) -> Tensor:
    """The classes of the forget set that the retain set does not hold, [K]."""
    labels = measured.forget.labels.unique()
    return labels[~torch.isin(labels, measured.retain.labels)]


def _own(measured: Measured, outside: Tensor) -> dict[str, float | None]:
    test = measured.test.where(outside)
    attack = [p.entropies for p in (measured.retain, test, measured.forget)]
    return {
        "FA": accuracy(measured.forget.correct),
        "RA": accuracy(measured.retain.correct),
        "TA": accuracy(test.correct) if len(test.correct) else None,
        "MIA": entropy_attack(*attack) if len(test.correct) else None,
    }


def _beside(
    measured: Measured, own: Mapping[str, float | None], target: Measured, goal: Mapping[str, float | None]
) -> dict[str, float | None]:
    reference, log_probs = target.forget.log_probs, measured.forget.log_probs
    if reference is None or log_probs is None or reference.shape != log_probs.shape:
        raise DataError("the reference model does not have the same classes as the model.")
    values: dict[str, float | None] = {
        "KL": kl_divergence(reference, log_probs),
        "JS": js_divergence(reference, log_probs),
    }
    pairs = {name: (a, b) for name in DISTANCES if (a := own[name]) is not None and (b := goal[name]) is not None}
    if len(pairs) == len(DISTANCES):
        gaps = [abs(a - b) for a, b in pairs.values()]
        values["AvgD"] = sum(gaps) / len(gaps)
        values["ToW"] = tug_of_war(*zip(*(pairs[name] for name in ("FA", "RA", "TA")), strict=True))
    return values


def _histogram(losses: Tensor) -> list[float]:
    edges = torch.tensor(EDGES, dtype=torch.float64)
    return torch.histogram(losses.clamp(max=EDGES[-1]), edges).hist.tolist()
