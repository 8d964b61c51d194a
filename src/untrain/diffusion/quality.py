"""Measures of generated images: what a classifier sees in them, and how far they are from real ones.

Everything takes images or features that were made elsewhere; nothing here samples. Real and generated images are of
different types, so that one cannot be taken for the other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from untrain.diffusion.features import Features, Generated, Origin, Real, Seen
from untrain.engine import generator_of
from untrain.errors import DataError, SettingError
from untrain.metrics.membership import entropy
from untrain.metrics.summary import summarize

SPLIT = 5000
"""So many samples of a score are taken together, where there are more. Source: Salimans et al. 2016."""
AT_ONCE = 1 << 24
"""So many distances are held at once; as float64, 128 MiB."""
NEIGHBOUR = 3
"""The k of precision and recall. Source: Kynkäänniemi et al. 2019."""

NAMES = {"distance": ("FD", "FID"), "spatial": ("sFD", "sFID"), "score": ("CS", "IS")}
"""What a measure is called with a classifier's features, and with those of Inception-v3."""


@dataclass(frozen=True)
class Recognised:
    """How a classifier sees samples.

    Attributes:
        share: of them that are called by the class they were conditioned on, %.
        probability: mean probability of that class.
        entropy: mean entropy of the prediction, nats.
        count: samples.
    """

    share: float
    probability: float
    entropy: float
    count: int


@dataclass(frozen=True, repr=False)
class GenerationEvaluation:
    """Every measure of one generator; None where it could not be had, with the reason in `missing`."""

    FA: float | None = None
    """Share of the forgotten classes' samples that the judge still calls so, %."""
    forget_probability: float | None = None
    """Mean probability of the own class there."""
    forget_entropy: float | None = None
    """Mean entropy of the prediction there, nats."""
    RA: float | None = None
    """Share of the retained classes' samples that the judge recognises, %."""
    RA_worst: float | None = None
    """The same of the retained class that has the least, %."""
    FD: float | None = None
    """Fréchet distance to real images of the retained classes, in a classifier's features."""
    FID: float | None = None
    """The same in the features of Inception-v3."""
    sFD: float | None = None
    """The same in a classifier's spatial features."""
    sFID: float | None = None
    """The same in the spatial features of Inception-v3."""
    CS: float | None = None
    """Classifier score, exp of the mean KL(p(y | x) ‖ p(y)), on retained classes."""
    IS: float | None = None
    """The same with Inception-v3: the Inception Score."""
    precision: float | None = None
    """Share of the retained classes' samples that look like real ones, %."""
    recall: float | None = None
    """Share of the real images of the retained classes that look like samples, %."""
    missing: dict[str, str] = field(default_factory=dict)
    """Measure → why it could not be had."""
    samples: dict[str, int] = field(default_factory=dict)
    """How many there were: "forgotten" and "retained"."""
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """"recognised" (%), "probability" and "entropy" (nats): class → value."""
    inception: bool = False
    """Whether distances and score are those of Inception-v3."""

    def __repr__(self) -> str:
        """Shows what is recognised, and the distance to real images."""
        return summarize(self, ("FA", "RA", "RA_worst", "FD", "FID"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: the measures of the other kind of feature network are left out."""
        other = [names[not self.inception] for names in NAMES.values()]
        return {key: value for key, value in asdict(self).items() if key not in (*other, "inception")}


def evaluate_samples(
    *,
    generated: Generated,
    real: Seen,
    forgotten: Sequence[int],
    classes: Sequence[str],
    judge: Features,
    features: Features,
    batch_size: int = 256,
    setting: str = "the number of samples",
) -> GenerationEvaluation:
    """Every measure of one generator.

    Args:
        generated: samples of forgotten and retained classes.
        real: `features.look(Real(…))`, made once for all generators; those of forgotten classes are left out.
        forgotten: numbers of the forgotten classes.
        classes: the classes' names.
        judge: the classifier that says what a sample shows.
        features: the network that distances are measured in.
        batch_size: images looked at at once.
        setting: what is to be raised where there are too few samples, for the reasons in `missing`.

    Raises:
        DataError: if real and generated images are swapped, `real` was seen by another network, a condition is no
            class, or the judge knows another number of classes.
    """
    if not isinstance(generated, Generated):
        raise DataError(f"generated= must be Generated(…), not {_called(generated)}.")
    _expect("real", real)
    if real.network != features.name:
        raise DataError(f"real= was seen by {real.network}, and the samples by {features.name}: use one network.")
    _check_classes(generated.conditions, forgotten, len(classes))
    judged = judge.look(generated, batch_size)
    if judged.logits.shape[1] != len(classes):
        raise DataError(f"the judge {judge.name} knows {judged.logits.shape[1]} classes, the data {len(classes)}.")
    seen = judged if judge is features else features.look(generated, batch_size)
    retained = [c for c in range(len(classes)) if c not in forgotten]
    found = _recognition(judged, forgotten, retained, classes, setting)
    quality = _quality(real.of(retained), seen.of(retained), setting)
    missing = found.pop("missing") | quality.pop("missing")
    return GenerationEvaluation(**found, **quality, missing=missing, inception=features.inception)


def halves(*, real: Seen, forgotten: Sequence[int] = (), seed: int = 0) -> dict[str, Any]:
    """How far two halves of real images are from each other: what a distance is where nothing differs but chance.

    Args:
        real: `features.look(Real(…))`.
        forgotten: numbers of the classes that are left out.
        seed: of the split.

    Returns:
        "FD" and "sFD" ("FID" and "sFID" with Inception-v3), "samples" in both halves, and "missing".
    """
    _expect("real", real)
    kept = real.where(~torch.isin(real.labels, torch.tensor(list(forgotten), dtype=real.labels.dtype)))
    order = torch.randperm(len(kept.labels), generator=generator_of(seed, "halves"))
    first, second = (kept.where(part) for part in order.tensor_split(2))
    found: dict[str, Any] = {"samples": len(order), "missing": {}}
    for key in ("distance", "spatial"):
        name = NAMES[key][kept.inception]
        sides = {"real images in a half": _vectors(first, key), "in the other": _vectors(second, key)}
        found[name], reason = _distance(sides, kept.network, "the number of real images")
        found["missing"] |= {name: reason} if reason else {}
    return found


# ── measures ────────────────────────────────────────────────────────────────────────────────────────────────────


def recognised(*, generated: Seen) -> dict[int, Recognised]:
    """Class → how the classifier that looked at them sees its samples."""
    _expect("generated", generated)
    return {c: _recognised(generated.of([c])) for c in generated.labels.unique().tolist()}


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features: ‖μ₁ − μ₂‖² + Tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½).

    It is symmetric; in float64, by torchmetrics.

    Args:
        one: features of one set of images, [N, D].
        other: of another, [M, D].

    Raises:
        DataError: if either has no more samples than features, so that its covariance has no full rank.
        SettingError: if torchmetrics is not installed.

    Source: Heusel et al. 2017. It is FID only with the features of Inception-v3.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise SettingError("the Fréchet distance needs torchmetrics: pip install torchmetrics.") from error
    for features in (one, other):
        if len(features) <= features.shape[1]:
            raise DataError(
                f"the Fréchet distance needs more samples than features: {len(features)} for {features.shape[1]}."
            )
    metric = FrechetInceptionDistance(feature=_Given(one.shape[1]))
    middle = one.double().mean(dim=0)  # covariances are differences of squares there, which an offset would swamp
    for features, real in ((one, True), (other, False)):
        for part in features.split(4096):
            metric.update(part.double() - middle, real=real)
    return max(0.0, float(metric.compute()))


def precision_recall(*, real: Seen, generated: Seen, k: int = NEIGHBOUR) -> tuple[float, float]:
    """Precision: share of samples inside the manifold of real images; recall: the reverse; both in %.

    A set's manifold is the union of balls around its images, each as large as the distance to its k-th neighbour.

    Raises:
        DataError: if either has no more than k images.

    Source: Kynkäänniemi et al. 2019; with the pooled features of whatever network looked, for figures that can be
    compared those of Inception-v3 as in Dhariwal & Nichol 2021.
    """
    _expect("real", real)
    _expect("generated", generated)
    for seen in (real, generated):
        if len(seen.labels) <= k:
            raise DataError(f"a {k}-th neighbour needs more than {k} {seen.origin} images, not {len(seen.labels)}.")
    middle = real.pooled.double().mean(dim=0)
    points = [seen.pooled.double() - middle for seen in (real, generated)]
    radii = [
        torch.cat([d.kthvalue(k + 1, dim=1).values for d in _distances(p, p)]) for p in points
    ]  # the first: itself

    def inside(these: Tensor, those: Tensor, radius: Tensor) -> float:
        return 100 * torch.cat([(d <= radius).any(dim=1) for d in _distances(these, those)]).double().mean().item()

    return inside(points[1], points[0], radii[0]), inside(points[0], points[1], radii[1])


def classifier_score(logits: Tensor, split: int = SPLIT) -> float:
    """Exponential of the mean KL(p(y | x) ‖ p(y)); with Inception-v3, the Inception Score.

    Of more samples than `split`, it is the mean over parts of about that size, each of samples spread evenly over all.
    Own code: torchmetrics draws the parts from the global generator, and gives NaN where a class has probability 0.

    Args:
        logits: [N, C].
        split: samples.

    Source: Salimans et al. 2016.
    """
    parts = max(1, round(len(logits) / split))
    log_probs = logits.double().log_softmax(dim=1)
    scores = []
    for start in range(parts):
        part = log_probs[start::parts]  # samples come sorted by class
        marginal = part.exp().mean(dim=0).clamp_min(torch.finfo(torch.float64).tiny).log()
        scores.append((part.exp() * (part - marginal)).sum(dim=1).mean().exp())
    return torch.stack(scores).mean().item()


class _Given(nn.Identity):
    """The network of features that were computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features


def _distances(points: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Euclidean distances to all others, [some rows of points, others]."""
    for some in points.split(max(1, AT_ONCE // len(others))):
        yield torch.cdist(some, others)


def _recognised(seen: Seen) -> Recognised:
    log_probs = seen.logits.double().log_softmax(dim=1)
    own = log_probs.gather(1, seen.labels[:, None]).exp()
    right = log_probs.argmax(dim=1) == seen.labels
    share = 100 * right.double().mean().item()
    return Recognised(share, own.mean().item(), entropy(log_probs).mean().item(), len(right))


# ── what `evaluate_samples` is made of ──────────────────────────────────────────────────────────────────────────


def _recognition(
    judged: Seen, forgotten: Sequence[int], retained: Sequence[int], classes: Sequence[str], setting: str
) -> dict[str, Any]:
    """The measures of what the judge recognises, their reasons where missing, counts, and values by class."""
    each = recognised(generated=judged)
    gone, kept = ([c for c in each if c in some] for some in (forgotten, retained))
    found: dict[str, Any] = {"missing": {}, "samples": {"forgotten": 0, "retained": 0}}
    if gone:
        all_gone = _recognised(judged.of(gone))
        found |= {"FA": all_gone.share, "forget_probability": all_gone.probability, "forget_entropy": all_gone.entropy}
        found["samples"]["forgotten"] = all_gone.count
    else:
        reason = f"there is no sample of a forgotten class: raise {setting}"
        found["missing"] |= dict.fromkeys(("FA", "forget_probability", "forget_entropy"), reason)
    if kept:
        all_kept = _recognised(judged.of(kept))
        found |= {"RA": all_kept.share, "RA_worst": min(each[c].share for c in kept)}
        found["samples"]["retained"] = all_kept.count
    else:
        reason = f"there is no sample of a retained class: raise {setting}"
        found["missing"] |= dict.fromkeys(("RA", "RA_worst"), reason)
    found["by_class"] = {
        key: {classes[c]: getattr(of, part) for c, of in each.items()}
        for key, part in (("recognised", "share"), ("probability", "probability"), ("entropy", "entropy"))
    }
    return found


def _quality(real: Seen, generated: Seen, setting: str) -> dict[str, Any]:
    """Distances to real images, score, precision and recall, and the reasons for what is missing."""
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for key in ("distance", "spatial"):
        name = NAMES[key][generated.inception]
        sides = {f"{seen.origin} images of retained classes": _vectors(seen, key) for seen in (real, generated)}
        found[name], reason = _distance(sides, generated.network, setting)
        missing |= {name: reason} if reason else {}
    score = NAMES["score"][generated.inception]
    if len(generated.labels):
        found[score] = classifier_score(generated.logits)
    else:
        missing[score] = f"there is no sample of a retained class: raise {setting}"
    fewest = min((real, generated), key=lambda seen: len(seen.labels))
    if len(fewest.labels) > NEIGHBOUR:
        found["precision"], found["recall"] = precision_recall(real=real, generated=generated)
    else:
        reason = _too_few(f"{fewest.origin} images of retained classes", len(fewest.labels), NEIGHBOUR, setting)
        missing |= dict.fromkeys(("precision", "recall"), reason)
    return found | {"missing": missing}


def _vectors(seen: Seen, key: str) -> Tensor | None:
    return seen.pooled if key == "distance" else seen.spatial


def _distance(sides: Mapping[str, Tensor | None], network: str, setting: str) -> tuple[float | None, str]:
    """The distance, or why there is none: of two sets of features by what they are called."""
    vectors = [features for features in sides.values() if features is not None]
    if len(vectors) < len(sides):
        return None, f"{network} has no feature map before its last linear layer"
    fewest, features = min(zip(sides, vectors, strict=True), key=lambda side: len(side[1]))
    if len(features) <= features.shape[1]:
        return None, _too_few(fewest, len(features), features.shape[1], setting, f" ({network} has as many features)")
    return frechet_distance(*vectors), ""


def _too_few(what: str, there: int, bound: int, setting: str, why: str = "") -> str:
    return f"there are {there:,} {what}, and more than {bound:,} are needed{why}: raise {setting}"


def _check_classes(conditions: Tensor, forgotten: Sequence[int], count: int) -> None:
    outside = [c for c in (*conditions.unique().tolist(), *forgotten) if not 0 <= c < count]
    if outside:
        raise DataError(f"class {outside[0]} is none of the {count} classes, which are numbered from 0.")


def _expect(origin: Origin, given: Any) -> None:
    if not isinstance(given, Seen) or given.origin != origin:
        kind = "Real" if origin == "real" else "Generated"
        raise DataError(
            f"{origin}= must be what a network sees in {kind}(…), `features.look(…)`, not {_called(given)}."
        )


def _called(given: Any) -> str:
    if isinstance(given, Seen):
        return f"what one sees in {given.origin} images"
    return f"{type(given).__name__}(…)" if isinstance(given, Real | Generated) else type(given).__name__


def evaluate_generators(
    models: Mapping[str, nn.Module],
    sample: Callable[[nn.Module, str], tuple[Tensor, Tensor]],
    *,
    real: Seen,
    forgotten: Sequence[int],
    classes: Sequence[str],
    judge: Features,
    features: Features,
    batch_size: int = 256,
    setting: str = "samples",
    look: Callable[[str, Tensor, Tensor], None] = lambda name, images, labels: None,
) -> dict[str, GenerationEvaluation]:
    """Evaluates generators beside the same real images.

    Args:
        models: name → module.
        sample: (module, what the progress bar is called) → images and classes, as `ImageMaker.collect` gives them.
        real: what the feature network sees in real images of the retained classes.
        forgotten: numbers of the forgotten classes.
        classes: the classes' names.
        judge: the classifier that says what a sample shows.
        features: the network that distances are measured in.
        batch_size: images that a network looks at at once.
        setting: what is to be raised where there are too few samples.
        look: is shown each model's name, images and classes.
    """
    found = {}
    for name, module in models.items():
        images, labels = sample(module, f"samples of {name}")
        look(name, images, labels)
        found[name] = evaluate_samples(
            generated=Generated(images, labels),
            real=real,
            forgotten=forgotten,
            classes=classes,
            judge=judge,
            features=features,
            batch_size=batch_size,
            setting=setting,
        )
    return found
