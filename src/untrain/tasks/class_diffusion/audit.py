"""What an audit asks of a generator that forgot classes, and the numbers that it makes of the answers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt
from torch import Tensor, nn

from untrain.data.streams import Stream
from untrain.diffusion.features import Features, Generated
from untrain.diffusion.quality import recognised
from untrain.domain import AuditNumber, Told
from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.tasks.class_diffusion.attacks import even_timesteps, invert_class, relearn_class, timestep_losses
from untrain.tasks.class_diffusion.embeddings import replace_class, shared_embeddings
from untrain.tasks.class_diffusion.members import MEMBERS, UNSEEN, member_aucs, member_p
from untrain.tasks.class_diffusion.task import ClassDiffusion

PLAIN, INVERSION, RELEARNING, KEPT = "plain", "inversion", "relearning", "retained"
"""What is asked, by the name that it has in audit.json."""
SHOWN = 8
"""Images of each class that are kept for a picture."""
SEEN = 0.01
"""Members of which the originals' own p is larger than this tell nothing of other models."""


Count = Annotated[int, Ge(1)]


@dataclass(frozen=True)
class ClassAuditOptions:
    """How much the attacks on generators of classes may do."""

    images: Count = 20
    """Real images of each forgotten class that inversion and relearning are given; relearning gets as many retained
    ones."""
    batch_size: Count = 20
    """Of these in each step."""
    drawn: Count = 100
    """Images of each forgotten class that are drawn after an attack."""
    kept: Count = 20
    """Images of each retained class that are drawn of the model as it is."""
    inversion_steps: Count = 300
    """Steps of Adam by which a vector for the class is learned."""
    inversion_lr: Annotated[float, Gt(0)] = 0.01
    """Its learning rate."""
    relearning_steps: list[Count] = field(default_factory=lambda: [5, 10, 20, 50])
    """Steps of Adam after which a relearned model is looked at."""
    relearning_lr: Annotated[float, Gt(0)] = 1 / 3
    """Its learning rate, as a share of the original's."""
    members: Count = 500
    """Training images and, of each kind, held-out images that are compared, at most."""
    timesteps: Count = 10
    """Evenly spaced timesteps at which losses of images are compared."""
    noises: Count = 4
    """Noises for each image and timestep."""

    def __post_init__(self) -> None:
        """Checks the order of the steps."""
        if not self.relearning_steps or self.relearning_steps != sorted(set(self.relearning_steps)):
            raise SettingError(f"relearning_steps must ascend, not {self.relearning_steps}.")


_LACKING = {
    INVERSION: "no embedding of classes was found in the model, so none is learned in its place",
    RELEARNING: "the original's learning rate is not known, so nothing is relearned",
    MEMBERS: "no image of a forgotten class was held out at random, so members have nothing beside them",
}
"""Why an attack has no values."""


@dataclass(frozen=True, eq=False)
class AttackSets:
    """What the attacks are given; the same for every model.

    Attributes:
        given: forgotten class → real images of it.
        forgotten: the images of all forgotten classes together.
        retained: as many of retained classes.
        members: training images of forgotten classes; None: they cannot be compared.
        unseen: held-out images of these classes.
        classes: numbers of the retained classes.
        rate: learning rate of relearning; None: not known.
    """

    given: Mapping[int, Stream]
    forgotten: Stream
    retained: Stream
    members: Stream | None
    unseen: Stream | None
    classes: Sequence[int]
    rate: float | None


Draw = Callable[[nn.Module, Sequence[int], int, str], tuple[Tensor, Tensor]]
"""Images of a model: (model, classes, how many of each, a name for the bar) → uint8 [N, C, H, W] and classes [N]."""


@dataclass(frozen=True, eq=False)
class Attacker:
    """Asks generators, one after another.

    Attributes:
        task: prepared.
        sets: what the attacks are given.
        engine: where they run.
        options: how much they may do.
        draw: makes images, of the same noise in every model.
        judge: says what they show.
        seed: of noises.
    """

    task: ClassDiffusion
    sets: AttackSets
    engine: Engine
    options: ClassAuditOptions
    draw: Draw
    judge: Features
    seed: int

    def ask(self, model: nn.Module, plain: int) -> Told:
        """Asks a model by every attack; it is left as it was.

        Args:
            model: on the engine's device.
            plain: images of each forgotten class that are drawn of the model as it is.
        """
        parts = [self._as_it_is(model, plain), self._inverted(model), self._relearned(model), self._members(model)]
        signals = {name: values for part in parts for name, values in part.signals.items()}
        scores = {name: value for part in parts for name, value in part.scores.items()}
        return Told(signals, scores=scores, notes=[note for part in parts for note in part.notes])

    def _as_it_is(self, model: nn.Module, plain: int) -> Told:
        told = self._look(model, PLAIN, plain)
        images, labels = self.draw(model, self.sets.classes, self.options.kept, "retained classes")
        return replace(told, scores={**told.scores, KEPT: self._share(images, labels)})

    def _look(self, model: nn.Module, name: str, count: int) -> Told:
        """FA in %, and the first images of each class."""
        images, labels = self.draw(model, list(self.sets.given), count, name)
        first = np.stack([images[labels == c][:SHOWN].numpy() for c in self.sets.given])
        return Told({name: first}, scores={name: self._share(images, labels)})

    def _share(self, images: Tensor, labels: Tensor) -> float:
        seen = recognised(generated=self.judge.look(Generated(images, labels)))
        return float(np.mean([each.share for each in seen.values()]))

    def _inverted(self, model: nn.Module) -> Told:
        groups, options = shared_embeddings(model), self.options
        if not groups:
            return Told({}, notes=[_LACKING[INVERSION]])
        total = options.inversion_steps * len(self.sets.given)
        with ExitStack() as replaced:
            learned = {}
            with self.engine.progress(INVERSION, total) as bar:
                for label, images in self.sets.given.items():
                    learned[label] = invert_class(
                        model,
                        self.task,
                        images,
                        self.engine,
                        groups=groups,
                        label=label,
                        retained=self.sets.classes,
                        steps=options.inversion_steps,
                        rate=options.inversion_lr,
                        advance=partial(bar.advance, f"class {label}"),
                    )
            for label, vectors in learned.items():
                replaced.enter_context(replace_class(groups, label, vectors))
            return self._look(model, INVERSION, options.drawn)

    def _relearned(self, model: nn.Module) -> Told:
        sets, options = self.sets, self.options
        if sets.rate is None:
            return Told({}, notes=[_LACKING[RELEARNING]])
        after, shares, told = options.relearning_steps, [], Told({})
        with self.engine.progress(RELEARNING, after[-1]) as bar:
            how: dict[str, Any] = {"after": after, "rate": sets.rate, "advance": bar.advance}
            for _, copied in relearn_class(model, self.task, sets.forgotten, sets.retained, self.engine, **how):
                told = self._look(copied, RELEARNING, options.drawn)
                shares.append(told.scores[RELEARNING])
        each = {f"{RELEARNING}-{steps}": share for steps, share in zip(after, shares, strict=True)}
        return replace(told, scores={RELEARNING: float(np.mean(shares)), **each})

    def _members(self, model: nn.Module) -> Told:
        sets, options = self.sets, self.options
        if sets.members is None or sets.unseen is None:
            return Told({}, notes=[_LACKING[MEMBERS]])
        steps = even_timesteps(min(options.timesteps, self.task.timesteps), self.task.timesteps)
        found: dict[str, np.ndarray] = {}
        with self.engine.progress(MEMBERS, sets.members.passes() + sets.unseen.passes()) as bar:
            how: dict[str, Any] = {"noises": options.noises, "seed": self.seed, "advance": bar.advance}
            for name, images in ((MEMBERS, sets.members), (UNSEEN, sets.unseen)):
                losses = timestep_losses(model, self.task, images, self.engine, timesteps=steps, **how)
                found[name] = -losses.clamp_min(np.finfo(np.float64).tiny).log().numpy()
                found[f"{name}_classes"] = images.data.labels.cpu().numpy()
        return Told(found)


def attack_needs(options: ClassAuditOptions, plain: int, weights: int) -> list[str]:
    """Says what the attacks on one model take, for each forgotten class and altogether.

    Args:
        options: how much they may do.
        plain: images of a class that are drawn of the model as it is.
        weights: bytes of the model's parameters.
    """
    looks = len(options.relearning_steps) + 1
    images = plain + looks * options.drawn
    size, gigabyte = 2 * options.batch_size, 1e9
    return [
        f"attacks on each model: {options.inversion_steps} steps of inversion on {options.batch_size} images, "
        f"{options.relearning_steps[-1]} of relearning on {size}, and about {images:,} images to draw, for each class",
        f"memory: {weights / gigabyte:.3g} GB of weights; in relearning four times as much again, for a copy, its "
        f"gradients and Adam's two means, and what a step on {size} images takes (--audit.batch_size N for less)",
    ]


def generator_numbers(
    original: Sequence[Told],
    unlearned: Sequence[Told],
    retrained: Sequence[Told],
    options: ClassAuditOptions,
    seed: int,
) -> dict[str, AuditNumber]:
    """Makes the card's numbers of what generators told; see `Domain.audit_numbers`."""
    kinds = {"original": original, "unlearned": unlearned, "retrained": retrained}
    budgets = _budgets(options)
    found = {
        name: _share_number(name, label, meaning, kinds, budgets[name]) for name, (label, meaning) in _SHARES.items()
    }
    return {
        **found,
        MEMBERS: _member_number(original, unlearned, retrained, budgets[MEMBERS], seed),
        KEPT: _kept(kinds),
    }


_SHARES = {
    PLAIN: (
        "class drawn as it is",
        "Share of images drawn for the forgotten class in which the judge sees it.",
    ),
    INVERSION: (
        "class drawn by a learned vector",
        "The same where a vector in place of the class's embedding was fitted to real images of it, in frozen weights.",
    ),
    RELEARNING: (
        "class drawn after relearning",
        "The same, mean over looks, while all weights are trained on a few images of the class and as many retained "
        "ones.",
    ),
}


def _budgets(options: ClassAuditOptions) -> dict[str, dict[str, Any]]:
    """What each attack may do; part of its number."""
    inversion = {"images": options.images, "steps": options.inversion_steps, "lr": options.inversion_lr}
    relearning = {"images": options.images, "steps": options.relearning_steps, "lr": options.relearning_lr}
    return {
        PLAIN: {},
        INVERSION: {**inversion, "drawn": options.drawn},
        RELEARNING: {**relearning, "drawn": options.drawn},
        MEMBERS: {"images": options.members, "timesteps": options.timesteps, "noises": options.noises},
    }


def _share_number(
    name: str, label: str, meaning: str, kinds: Mapping[str, Sequence[Told]], budget: Mapping[str, Any]
) -> AuditNumber:
    number = AuditNumber(label, " %", meaning, one_sided=True, facts={"budget": dict(budget)})
    if any(name not in each.scores for told in kinds.values() for each in told):
        return replace(number, missing=_LACKING[name])
    values: dict[str, Any] = {kind: [each.scores[name] for each in told] for kind, told in kinds.items()}
    steps = {key for told in kinds.values() for each in told for key in each.scores if key.startswith(f"{name}-")}
    after = {
        key.rpartition("-")[2]: {
            kind: float(np.mean([each.scores[key] for each in told])) for kind, told in kinds.items()
        }
        for key in sorted(steps, key=lambda key: int(key.rpartition("-")[2]))
    }
    return replace(number, **values, facts={**number.facts, **({"after": after} if after else {})})


def _member_number(
    original: Sequence[Told],
    unlearned: Sequence[Told],
    retrained: Sequence[Told],
    budget: Mapping[str, Any],
    seed: int,
) -> AuditNumber:
    """AUC of training images against held-out ones, by losses less those of retrained models."""
    number = AuditNumber(
        "members told apart",
        "",
        "AUC by which training images of the class are told from held-out ones, by losses at fixed timesteps less "
        "those of retrained models; 0.5 is chance.",
        digits=3,
        facts={"budget": dict(budget)},
    )
    if any(MEMBERS not in each.signals for each in (*original, *unlearned, *retrained)):
        return replace(number, missing=_LACKING[MEMBERS])
    first = member_p(original, retrained, seed)
    facts = {**number.facts, "original_p": first, "images": [len(original[0].signals[n]) for n in (MEMBERS, UNSEEN)]}
    kinds = {"original": original, "unlearned": unlearned, "retrained": retrained}
    values: dict[str, Any] = {kind: member_aucs(told, retrained) for kind, told in kinds.items()}
    return replace(number, **values, facts=facts, tested=first <= SEEN, p=member_p(unlearned, retrained, seed))


def _kept(kinds: Mapping[str, Sequence[Told]]) -> AuditNumber:
    values: dict[str, Any] = {kind: [each.scores[KEPT] for each in told] for kind, told in kinds.items()}
    meaning = "Share of images drawn for retained classes in which the judge sees these."
    return AuditNumber("retained classes drawn", " %", meaning, tested=False, **values)
