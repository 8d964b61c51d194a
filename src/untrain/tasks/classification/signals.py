"""What a classifier tells of a sample: the audit's signals, one number for each sample from each model."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.domain import Told
from untrain.engine import Engine, generator_of, preserve_modes
from untrain.types import Batch, Task

CLIP = 50.0
"""Confidences are cut at ±50 nats."""
MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""By which an image is moved for `nearby`: pixels down and right."""
NOISE = 0.02
"""Deviations of an input that are added to it for `nearby` where it is no image."""
RIDGE = 0.01
"""Penalty of the refitted head for each sample that it is fitted to."""
RELEARNING_STEPS, RELEARNING_BATCH, RELEARNING_MOMENTUM = 100, 128, 0.9
ASKED_AT_ONCE = 500
"""Samples of a forward pass."""
RANDOM_PASSES, RANDOM = 8, 1e-6
"""A model whose confidences differ by more than this answers at random: then the mean of so many passes is taken."""


def confidence_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Computes φ = z_y − log Σ_{c≠y} exp z_c: the logit of a label's probability, nats, cut at ±50.

    Args:
        logits: z, [B, C].
        labels: y, [B].

    Returns:
        [B], float64.
    """
    logits = logits.double()
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return (own - others).clamp(-CLIP, CLIP)


def nearby_inputs(inputs: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
    """Yields four copies of inputs: images moved by one pixel, their edges repeated; others with a little noise.

    Args:
        inputs: [B, C, H, W], or [B, …] of another kind.
        generator: of the noise, on the CPU.
    """
    if inputs.ndim == 4:
        for down, right in MOVES:
            rows = (torch.arange(inputs.shape[2]) - down).clamp(0, inputs.shape[2] - 1).to(inputs.device)
            columns = (torch.arange(inputs.shape[3]) - right).clamp(0, inputs.shape[3] - 1).to(inputs.device)
            yield inputs[:, :, rows][:, :, :, columns]
        return
    if not inputs.is_floating_point():  # words have no neighbours
        yield inputs
        return
    deviation = inputs.std()
    for _ in MOVES:
        noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
        yield inputs + NOISE * deviation * noise


@dataclass(frozen=True, eq=False)
class Seen:
    """What a model gives for a set of samples.

    Attributes:
        confidence: φ, [N], float64.
        nearby: mean φ of four copies, [N].
        features: input of the last linear layer, [N, D], float64; None where there is no such layer.
        labels: [N].
        correct: whether the label is the likeliest class, bool [N].
        logits: [N, C], float64; empty where they were not asked for.
    """

    confidence: Tensor
    nearby: Tensor
    features: Tensor | None
    labels: Tensor
    correct: Tensor
    logits: Tensor

    @property
    def accuracy(self) -> float:
        """Samples whose label is the likeliest class, %."""
        return 100 * float(self.correct.double().mean())


def look(
    model: nn.Module,
    task: Task,
    stream: Stream,
    engine: Engine,
    *,
    nearby: bool = False,
    steady: bool = False,
    logits: bool = False,
) -> Seen:
    """Runs a model over a set, in evaluation mode and in the set's order.

    Args:
        model: a classifier.
        task: gives its logits.
        stream: the set.
        engine: where it runs.
        nearby: whether copies of the inputs are looked at, too.
        steady: whether each confidence is asked for twice, and of a model that answers at random more often.
        logits: whether these are kept.
    """
    names = ("confidence", "nearby", "features", "labels", "correct", "logits")
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    generator = generator_of(0, "nearby")
    with preserve_modes(model), torch.no_grad(), _last_input(model) as last:
        model.eval()
        for batch in stream.once(task, "evaluate"):
            labels = batch["label"]
            outputs = task.outputs(model, batch)
            found["features"] += [last[0].double().cpu()] if last else []
            confidence = confidence_of(outputs, labels)
            found["confidence"].append((_steady(task, model, batch, confidence) if steady else confidence).cpu())
            found["labels"].append(labels.cpu())
            found["correct"].append((outputs.argmax(1) == labels).cpu())
            found["logits"] += [outputs.double().cpu()] if logits else []
            if nearby:
                around = [
                    confidence_of(task.outputs(model, {**batch, "input": moved}), labels)
                    for moved in nearby_inputs(batch["input"], generator)
                ]
                found["nearby"].append(torch.stack(around).mean(0).cpu())
    joined = {name: torch.cat(parts) if parts else torch.empty(0) for name, parts in found.items()}
    features = joined["features"] if found["features"] else None
    return Seen(features=features, **{name: joined[name] for name in names if name != "features"})


def _steady(task: Task, model: nn.Module, batch: Batch, first: Tensor) -> Tensor:
    """Confidences of a model that answers at random: the mean of several passes."""
    second = confidence_of(task.outputs(model, batch), batch["label"])
    if (second - first).abs().max() <= RANDOM:
        return first
    more = [confidence_of(task.outputs(model, batch), batch["label"]) for _ in range(RANDOM_PASSES - 2)]
    return torch.stack([first, second, *more]).mean(0)


@contextmanager
def _last_input(model: nn.Module) -> Iterator[list[Tensor]]:
    """Holds the input of the last linear layer that ran, [B, D]; empty where there is none for each row."""
    held: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> None:
        held[:] = [arguments[0].detach()] if arguments and arguments[0].ndim == 2 else []

    handles = [layer.register_forward_hook(keep) for layer in model.modules() if isinstance(layer, nn.Linear)]
    try:
        yield held
    finally:
        for handle in handles:
            handle.remove()


def inside_signals(pool: Seen, base: Seen, num_classes: int) -> dict[str, np.ndarray]:
    """Computes what features tell of the pool: `refit`, `centre` and `spread`, [N] each; nothing where there are none.

    `refit` is the score of the label less the best other one, by a ridge regression of one-hot labels on the base's
    standardised features; `centre` the cosine to the base's mean features of the class; `spread` the logarithm of the
    distance to it.

    Args:
        pool: what is judged.
        base: what all twins keep.
        num_classes: C.
    """
    if pool.features is None or base.features is None:
        return {}
    mean, deviation = base.features.mean(0), base.features.std(0).clamp_min(1e-9)
    known, asked = (_with_one((features - mean) / deviation) for features in (base.features, pool.features))
    targets = nn.functional.one_hot(base.labels, num_classes).double()
    gram = known.T @ known + RIDGE * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    scores = asked @ torch.linalg.solve(gram, known.T @ targets)
    own = scores.gather(1, pool.labels[:, None])[:, 0]
    refit = own - scores.scatter(1, pool.labels[:, None], -torch.inf).amax(1)
    means = torch.stack([_mean_of_class(base.features, base.labels == c) for c in range(num_classes)])[pool.labels]
    centre = nn.functional.cosine_similarity(pool.features, means, dim=1)
    spread = torch.log((pool.features - means).norm(dim=1) + 1e-6)
    return {name: found.numpy() for name, found in (("refit", refit), ("centre", centre), ("spread", spread))}


def _with_one(features: Tensor) -> Tensor:
    return torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)


def _mean_of_class(features: Tensor, chosen: Tensor) -> Tensor:
    """Mean features of a class; of one that the base has not, of all."""
    return features[chosen if chosen.any() else slice(None)].mean(0)


def relearning(
    model: nn.Module, task: Task, batches: Iterable[Batch], engine: Engine, rate: float
) -> Iterator[nn.Module]:
    """Trains a copy of a model on batches, by SGD with momentum; yields it after each of them.

    Args:
        model: it is left as it is.
        task: its loss.
        batches: as the task drew them.
        engine: where it runs.
        rate: learning rate.
    """
    copied = copy.deepcopy(model).train()
    weights = [parameter for parameter in copied.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=rate, momentum=RELEARNING_MOMENTUM)
    for batch in batches:
        optimizer.zero_grad()
        with engine.autocast():
            loss = engine.mean(task.loss(copied, batch))
        engine.backward(loss, weights)
        engine.step(optimizer)
        yield copied


def relearned(model: nn.Module, task: Task, base: Stream, engine: Engine, rate: float) -> nn.Module:
    """Trains a copy of a model a little on the base alone: what lay dormant comes back, if it was there.

    100 steps on batches that are the same for all models.

    Args:
        model: it is left as it is.
        task: its loss.
        base: samples that are in no pool, in batches of 128.
        engine: where it runs.
        rate: a tenth of the original's peak learning rate.
    """
    batches = (base.batch(k, task, "train") for k in range(RELEARNING_STEPS))
    *_, trained = relearning(model, task, batches, engine, rate)
    return trained


def ask_classifier(
    model: nn.Module,
    task: Task,
    sets: Mapping[str, Stream],
    engine: Engine,
    *,
    num_classes: int,
    rate: float | None,
) -> Told:
    """Asks a classifier for all signals of the pool, and for its accuracies.

    Args:
        model: on the engine's device.
        task: gives its logits and loss.
        sets: "pool", in an order that mixes members and others; "base", what all twins keep, in batches of 128; and
            "test" where there are test data.
        engine: where it runs.
        num_classes: C.
        rate: of relearning; None: it is left out.
    """
    pool = look(model, task, sets["pool"], engine, nearby=True, steady=True)
    base = look(model, task, sets["base"], engine)
    signals, notes = {"confidence": pool.confidence.numpy(), "nearby": pool.nearby.numpy()}, []
    inside = inside_signals(pool, base, num_classes)
    signals |= inside
    notes += [] if inside else ["the model has no last linear layer, so nothing is known of its inside"]
    if rate is None:
        notes.append("no learning rate is given at which to relearn, so nothing is relearned")
    else:
        again = relearned(model, task, sets["base"], engine, rate)
        signals["relearned"] = look(again, task, sets["pool"], engine, steady=True).confidence.numpy()
    scores = {"base": base.accuracy}
    if "test" in sets:
        scores["test"] = look(model, task, sets["test"], engine).accuracy
    return Told(signals, pool.correct.numpy(), scores, notes)
