"""What a classifier tells an audit by references: five numbers of one model, and of many for a test.

What a model is asked of: new images of the classes that were forgotten whole. Where samples were forgotten of classes
that stay, it is these samples themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from untrain.audit.permutation import permutation_p
from untrain.data.streams import Stream
from untrain.domain import AuditNumber, Told
from untrain.engine import Engine
from untrain.metrics.similarity import klom, linear_cka
from untrain.tasks.classification.signals import Seen, inside_signals, look, relearning
from untrain.types import Batch, Task

STEPS = (1, 2, 5, 10, 20, 50)
"""Of relearning, after which the recall is measured."""
GIVEN, BESIDE = 5, 123
"""Images of each forgotten class that an attacker has, and retained ones, in every batch of relearning."""
FEW = 20
"""Images of every class that a new head is fitted to."""
MOST_FEATURES, FEWEST_FEATURES = 2000, 200
"""Samples whose features are compared."""
FEWEST_FOR_KLOM = 20
"""Models of each kind that a histogram of margins takes."""
AT_ONCE = 2_000_000
"""Probabilities that are held at once for a p."""


def ask_class(
    model: nn.Module,
    task: Task,
    sets: Mapping[str, Stream],
    engine: Engine,
    *,
    forgotten: Sequence[int],
    num_classes: int,
    rate: float | None,
) -> Told:
    """Asks a classifier what the numbers of an audit by references are made from.

    Args:
        model: on the engine's device.
        task: gives its logits and loss.
        sets: "asked", of which recall and answers are told; "given" and "beside", for relearning; "few" of every
            class, for a new head; "alike", whose features are compared; "forgotten", whose margins are told; "base"
            and, where there are test data of what is kept, "test".
        engine: where it runs.
        forgotten: numbers of the classes that were forgotten whole.
        num_classes: C.
        rate: of relearning; None: it is left out.
    """
    asked, few = look(model, task, sets["asked"], engine, logits=True), look(model, task, sets["few"], engine)
    signals = {
        "answers": other_answers(asked.logits, asked.labels, forgotten),
        "margin": look(model, task, sets["forgotten"], engine, steady=True).confidence.numpy(),
    }
    scores, notes = {"recall": asked.accuracy}, []
    inside = inside_signals(asked, few, num_classes)
    if inside:
        scores["refit"] = 100 * float(np.mean(inside["refit"] > 0))
        signals["features"] = _features(look(model, task, sets["alike"], engine))
    else:
        notes.append("the model has no last linear layer, so nothing is known of its inside")
    if rate is None:
        notes.append("the original's learning rate is not known, so nothing is relearned")
    else:
        scores |= _relearned_recalls(model, task, sets, engine, rate)
    scores |= {name: look(model, task, sets[name], engine).accuracy for name in ("base", "test") if name in sets}
    return Told(signals, None, scores, notes)


def _features(seen: Seen) -> np.ndarray:
    features = seen.features if seen.features is not None else torch.empty(0)
    return features.float().numpy()


def _relearned_recalls(
    model: nn.Module, task: Task, sets: Mapping[str, Stream], engine: Engine, rate: float
) -> dict[str, float]:
    batches = _joined(sets["given"], sets["beside"], task)
    found = {
        f"relearned-{step}": look(trained, task, sets["asked"], engine).accuracy
        for step, trained in enumerate(relearning(model, task, batches, engine, rate), 1)
        if step in STEPS
    }
    return {**found, "relearned": float(np.mean([*found.values()]))}


def _joined(given: Stream, beside: Stream, task: Task) -> Iterator[Batch]:
    """Batches of the few images that an attacker has, the same in each, and of retained ones."""
    for k in range(max(STEPS)):
        one, other = given.batch(k, task, "train"), beside.batch(k, task, "train")
        yield {key: torch.cat([one[key], other[key]]) for key in one if key in other}


def other_answers(logits: Tensor, labels: Tensor, forgotten: Sequence[int]) -> np.ndarray:
    """Computes what is answered in place of the right class: mean probabilities of the classes that could be.

    These are conditional: neither the label nor a forgotten class counts, so a model that only lowers its confidence
    in a class changes nothing here.

    Args:
        logits: [N, C].
        labels: [N].
        forgotten: numbers of the classes that were forgotten whole.

    Returns:
        [L, C], a row of each label that there is, in ascending order, times its share of the samples; all sum to 1.
    """
    left_out = torch.zeros(logits.shape, dtype=torch.bool)
    left_out[:, list(forgotten)] = True
    left_out[torch.arange(len(labels)), labels] = True
    known = logits.double().masked_fill(left_out, -torch.inf)
    probabilities = known.softmax(1).nan_to_num(0.0)  # of two classes, of which one is forgotten, none is left
    return torch.stack([probabilities[labels == c].sum(0) / len(labels) for c in labels.unique()]).numpy()


def distances_of_answers(answers: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Computes each model's total variation, ½ Σ |p − mean over retrained|, from all retrained models but itself.

    Args:
        answers: of every model, [M, A].
        retrained: which of them are, bool [..., M].

    Returns:
        [..., M], in [0, 1].
    """
    among = retrained[..., None].astype(np.float64)
    total, count = retrained.astype(np.float64) @ answers, retrained.sum(-1)[..., None, None]
    target = (total[..., None, :] - among * answers) / (count - among)
    return 0.5 * np.abs(answers - target).sum(-1)


def class_numbers(
    original: Sequence[Told], unlearned: Sequence[Told], retrained: Sequence[Told], seed: int
) -> dict[str, AuditNumber]:
    """Makes the numbers of an audit by references; see `Domain.audit_numbers`."""
    sides = (original, unlearned, retrained)
    return {
        "recall": _scored(
            sides,
            "recall",
            "Recall",
            "Share of new images of the forgotten class that are recognised; of forgotten samples, where no class is "
            "forgotten whole.",
        ),
        "answers": _answers(sides, seed),
        "relearning": _relearning(sides),
        "refit": _scored(
            sides,
            "refit",
            "New head",
            f"Recall of a new last layer, fitted to {FEW} images of every class.",
        ),
        "features": _features_alike(sides),
        "own_features": _features_of_own(sides),
        **_margins(sides),
    }


Sides = tuple[Sequence[Told], Sequence[Told], Sequence[Told]]
"""What originals, unlearned and retrained models told."""


def _scored(sides: Sides, name: str, label: str, meaning: str, facts: Mapping[str, Any] | None = None) -> AuditNumber:
    if not all(name in told.scores for side in sides for told in side):
        return AuditNumber(label, " %", meaning, missing=_why_missing(sides))
    return _number(label, " %", meaning, [[told.scores[name] for told in side] for side in sides], facts=facts or {})


def _number(label: str, unit: str, meaning: str, values: Sequence[Sequence[float]], **more: Any) -> AuditNumber:
    """A number of originals', unlearned and retrained models' values."""
    original, unlearned, retrained = values
    return AuditNumber(label, unit, meaning, original, unlearned, retrained, **more)


def _why_missing(sides: Sides) -> str:
    return "; ".join(sorted({note for side in sides for told in side for note in told.notes}))


def _relearning(sides: Sides) -> AuditNumber:
    meaning = (
        f"Recall after a little training on {GIVEN} images of each forgotten class; mean of {len(STEPS)} looks, after "
        f"{STEPS[0]} to {STEPS[-1]} steps."
    )
    names = [f"relearned-{step}" for step in STEPS]
    curves = {
        kind: [float(np.mean([told.scores[name] for told in side])) for name in names]
        for kind, side in zip(("original", "unlearned", "retrained"), sides, strict=True)
        if all(name in told.scores for told in side for name in names)
    }
    facts = {"steps": list(STEPS), "images": GIVEN, "beside": BESIDE, "recalls": curves}
    return _scored(sides, "relearned", "Relearning", meaning, facts)


def _answers(sides: Sides, seed: int) -> AuditNumber:
    """Distances are from the models called retrained, so these are made anew for every way to share labels out."""
    original, unlearned, retrained = (np.stack([told.signals["answers"].ravel() for told in side]) for side in sides)
    both, count = np.concatenate([unlearned, retrained]), len(unlearned)

    def difference(splits: np.ndarray) -> np.ndarray:
        rows = max(1, AT_ONCE // both.size)
        parts = [splits[first : first + rows] for first in range(0, len(splits), rows)]
        return np.concatenate([_apart(distances_of_answers(both, ~part), part) for part in parts])

    known = 100 * distances_of_answers(both, np.arange(len(both)) >= count)
    with_originals = np.concatenate([original, retrained])
    before = 100 * distances_of_answers(with_originals, np.arange(len(with_originals)) >= len(original))
    return AuditNumber(
        "Other answers",
        " %",
        "How far what is answered instead lies from the answers of retrained models: total variation of the mean "
        "prediction.",
        before[: len(original)].tolist(),
        known[:count].tolist(),
        known[count:].tolist(),
        p=permutation_p(difference, count, len(retrained), seed),
    )


def _apart(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """|difference of means| of values [S, M] that are of the first kind, bool [S, M], and of the others."""
    one, other = (np.where(kind, values, 0.0).sum(-1) / kind.sum(-1) for kind in (first, ~first))
    return np.abs(one - other)


def _features_alike(sides: Sides) -> AuditNumber:
    """Alike to the first original: no other model was made of it, so all that are compared are exchangeable.

    A model is nearer to the original that it was made from than a retrained one, whatever it forgot; so what was made
    of the first is left out.
    """
    label = "Features"
    meaning = "How alike the last features of the forgotten class are to an original's of another seed: linear CKA."
    if not _have_features(sides):
        return AuditNumber(label, "", meaning, digits=3, missing=_why_missing(sides))
    first = sides[0][0].signals["features"]
    values = [[linear_cka(told.signals["features"], first) for told in side] for side in sides]
    facts = {"samples": len(first)}
    compared = [values[0][1:], values[1][1:], values[2]]
    return _number(label, "", meaning, compared, digits=3, facts=facts)


def _features_of_own(sides: Sides) -> AuditNumber:
    label = "Own features"
    meaning = "The same to a model's own original. What starts there stays near it, whatever it forgot: not tested."
    if not _have_features(sides):
        return AuditNumber(label, "", meaning, digits=3, tested=False, missing=_why_missing(sides))
    firsts = [told.signals["features"] for told in sides[0]]
    values = [
        [linear_cka(told.signals["features"], firsts[i % len(firsts)]) for i, told in enumerate(side)] for side in sides
    ]
    return _number(label, "", meaning, values, digits=3, tested=False)


def _have_features(sides: Sides) -> bool:
    return all("features" in told.signals for side in sides for told in side)


def _margins(sides: Sides) -> dict[str, AuditNumber]:
    """KLoM, where there are models enough: of halves, so that all is held against as many retrained models."""
    half = min(map(len, sides)) // 2
    if 2 * half < FEWEST_FOR_KLOM:
        return {}
    margins = [np.stack([told.signals["margin"] for told in side]) for side in sides]
    values = [[klom(each[:half], margins[2][half : 2 * half])] for each in margins]
    meaning = "How far margins of single samples differ over models, nats; for comparison with published values."
    return {"klom": _number("KLoM", "", meaning, values, digits=3, tested=False, facts={"models": half})}
