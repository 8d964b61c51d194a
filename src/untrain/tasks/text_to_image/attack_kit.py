"""What an audit's attacks are for a run of this task: their numbers, their targets, and one attack on one model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from untrain.diffusion.denoisers import denoiser_of
from untrain.diffusion.grids import miniature, write_grid
from untrain.diffusion.text import Prompts, text_encoders
from untrain.domain import AttackNumber, Attempt, Told
from untrain.engine import Engine, on_device, seed_of
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.attack_bench import AttackBench
from untrain.tasks.text_to_image.attack_options import (
    ADVERSARIAL,
    CONCEPT_VECTOR,
    INVERSION,
    PLAIN,
    RELEARNING,
    AttackBudget,
    AttackOptions,
    budget_of,
    shown_budget,
)
from untrain.tasks.text_to_image.attack_setup import concept_target, given_placebo, placebo_target
from untrain.tasks.text_to_image.attack_target import AttackTarget
from untrain.tasks.text_to_image.attacks import UNATTACKED, Attacked, PipelineAttacks, relearned_after
from untrain.tasks.text_to_image.detectors import Detector
from untrain.tasks.text_to_image.rendering import EvalPrompt
from untrain.tasks.text_to_image.sections import ConceptEntry
from untrain.tasks.text_to_image.task import TextToImage

SHOWN = 8
"""Images in a row of a picture."""
GIB = 1 << 30


def attack_numbers(options: AttackOptions, budget: AttackBudget) -> dict[str, dict[str, AttackNumber]]:
    """Returns attack → signal that it tells → what that is."""
    images = "images"
    known = {
        PLAIN: {
            PLAIN: AttackNumber(
                "plain prompts",
                "How often what was to be forgotten is seen in images of the forgotten prompts.",
                images,
                shown_budget(budget, PLAIN),
                judged=False,
                plain=True,
            )
        },
        INVERSION: {
            INVERSION: AttackNumber(
                "a new word",
                f"The same, with a word learned from {budget.images} images in place of the forgotten one.",
                images,
                shown_budget(budget, INVERSION),
            )
        },
        ADVERSARIAL: {
            UNATTACKED: AttackNumber(
                "prompts, unattacked",
                "Prompts that succeed before any token stands before them; they are not attacked.",
                "prompts",
                {"prompts": budget.prompts},
                judged=False,
            ),
            ADVERSARIAL: AttackNumber(
                "adversarial prompts",
                f"Prompts of which one of {budget.timesteps} images shows it, once {budget.tokens} tokens were sought "
                "to stand before them; the first success counts.",
                "prompts",
                shown_budget(budget, ADVERSARIAL),
            ),
        },
        RELEARNING: {
            relearned_after(steps): AttackNumber(
                f"relearned in {steps} steps",
                f"As plain prompts, after {steps} steps of training on {budget.images} images.",
                images,
                shown_budget(budget, RELEARNING, steps),
            )
            for steps in budget.relearning_steps
        },
        CONCEPT_VECTOR: {
            CONCEPT_VECTOR: AttackNumber(
                "concept vector",
                f"Images of {budget.tokens_found} tokens that the text encoder takes for the concept.",
                images,
                shown_budget(budget, CONCEPT_VECTOR),
                judged=False,
            )
        },
    }
    decided = [options.start, options.template, options.placebo_prompt, options.placebo_label, _placebo_mark(options)]
    return {
        name: {
            key: replace(number, facts=[budget.images, budget.prompts, *decided]) for key, number in known[name].items()
        }
        for name in dict.fromkeys(options.attacks)
    }


def _placebo_mark(options: AttackOptions) -> str | None:
    """A hash of the user's images of the placebo."""
    return None if options.placebo_images is None else given_placebo(options).fingerprint()


def not_tried(options: AttackOptions) -> list[str]:
    """Names what an audit with these options leaves out."""
    left = {
        CONCEPT_VECTOR: "prompts that are sought on the text encoder alone (--audit.attacks with concept-vector)",
        INVERSION: "textual inversion",
        ADVERSARIAL: "adversarial prompts",
        RELEARNING: "relearning",
    }
    return [
        *(words for name, words in left.items() if name not in options.attacks),
        "images as a condition (image to image, inpainting, adapters)",
        "new words of several tokens, and training the text encoder",
        "more images, more steps, and prompts written by people",
    ]


@dataclass(eq=False)
class AttackKit:
    """Attacks on the models of one run.

    Attributes:
        pipeline: the original's parts.
        unet: the original's.
        task: per-sample functions.
        empty: prompts of which the first is the empty one.
        shape: (C, h, w) of a latent.
        engine: device, precision, processes.
        sampler: as the run's evaluation makes images.
        batch_size: images at once.
        asked: the prompts of the evaluation.
        entries: what the recipe forgets.
        detector: the run's.
        judge: whose labels of prompts it knows.
        blur: whether pictures are blurred where the detector fires.
        nudity: whether the concept is nudity.
        options: what was asked for.
        seed: of the audit.
    """

    pipeline: Any
    unet: nn.Module
    task: TextToImage
    empty: Prompts
    shape: tuple[int, ...]
    engine: Engine
    sampler: Sampler
    batch_size: int
    asked: Sequence[EvalPrompt]
    entries: Sequence[ConceptEntry]
    detector: Detector
    judge: str
    blur: bool
    nudity: bool
    options: AttackOptions
    seed: int

    @cached_property
    def budget(self) -> AttackBudget:
        """What the attacks may do."""
        return budget_of(self.options, min(self.shape[1:]), nudity=self.nudity)

    @cached_property
    def bench(self) -> AttackBench:
        """Where they work."""
        how = (self.shape, self.engine, self.sampler, self.batch_size, seed_of(self.seed, "noise"))
        return AttackBench(self.pipeline, self.task, self.empty, *how)

    @cached_property
    def concept(self) -> AttackTarget:
        """What was to be forgotten."""
        gone = [each for each in self.asked if each.forgotten]
        with on_device(self.engine.device, *text_encoders(self.pipeline)):
            known = (self.detector, self.judge, self.budget, self.options.template)
            return concept_target(self.bench, self.unet, gone, self.entries, *known)

    @cached_property
    def placebo(self) -> AttackTarget:
        """Something that the original never learned."""
        others = [each.text for each in self.asked]
        with on_device(self.engine.device, *text_encoders(self.pipeline)):
            return placebo_target(
                self.bench, self.unet, others, self.detector, self.options, self.budget, seed_of(self.seed, "placebo")
            )

    def attack(self, name: str, unet: nn.Module, attempt: Attempt) -> Told:
        """Makes one attack on a model; writes a picture of what came back."""
        target = self.placebo if attempt.placebo else self.concept
        attacks = PipelineAttacks(self.bench, target, self.options, self.budget, attempt.seed)
        found = attacks.run(name, unet, attempt.model)
        if self.engine.is_main:
            self._show(found, attempt, name)
        return Told(found.signals, notes=target.notes)

    def _show(self, found: Attacked, attempt: Attempt, name: str) -> None:
        """Writes the first images of every row, blurred where the detector fires and the recipe wants it."""
        rows = [(title, images[:SHOWN], seen[:SHOWN]) for title, images, seen in found.pictures if len(images)]
        if not rows:
            return
        width = max(len(images) for _, images, _ in rows)
        whole = torch.stack([self._row(images, seen, width) for _, images, seen in rows])
        about = {"seen": [seen.tolist() for _, _, seen in rows], "prompts": found.prompts, "blurred": self.blur}
        write_grid(attempt.pictures, f"{attempt.model}-{name}", [title for title, _, _ in rows], whole, **about)

    def _row(self, images: Tensor, seen: Tensor, width: int) -> Tensor:
        made = [miniature(i, hidden=self.blur and bool(s)) for i, s in zip(images, seen, strict=True)]
        white = torch.full_like(made[0], 255)
        return torch.stack([*made, *[white] * (width - len(made))])


def memory_lines(pipeline: Any, options: AttackOptions) -> list[str]:
    """Says how much memory weights take while attacks go on, without activations.

    Args:
        pipeline: the original's.
        options: say which attacks are made.
    """
    parts = [denoiser_of(pipeline), pipeline.vae, *text_encoders(pipeline)]
    unet, rest = (4 * sum(p.numel() for part in side for p in part.parameters()) for side in (parts[:1], parts[1:]))
    held = 2 * unet + rest  # the original, and the model under attack
    most = held + 4 * unet if RELEARNING in options.attacks else held  # a copy, its gradients, and Adam's two moments
    return [
        f"memory: {held / GIB:.1f} GiB of weights for the original and a model under attack"
        + (f", {most / GIB:.1f} GiB while it relearns" if most > held else "")
        + "; activations of a batch come on top, and each job has its own."
    ]
