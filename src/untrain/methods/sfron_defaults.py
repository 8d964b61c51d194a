"""What SFR-on's open settings become, by task. Where the numbers come from: docs/sfron.md and docs/generators.md."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import LARGE, Optimizer, Problem
from untrain.methods.calibration import forgets_a_class
from untrain.methods.repair import find_head
from untrain.types import GenerativeTask, Objective, Task

if TYPE_CHECKING:
    from untrain.methods.sfron import SFRon

FEWEST = 20  # on a set of few batches, a few passes are no more than a few steps
FEWEST_STEPS = 40  # on a small set, a few passes are too few steps to forget a class, of which 4 nats are asked
GENERATOR_STEPS = 50  # as in the paper's claim for class-conditional diffusion
TEXT_STEPS = 100  # a concept of a small text-to-image pipeline: 2 % of its images are left after 50, none after 100
LARGE_TEXT_STEPS = 1000  # as published for Stable Diffusion, at the rate that its size has
FISHER_SAMPLES, GENERATOR_FISHER_SAMPLES = 512, 1024
GAUGED_RATE, UNGAUGED_RATE = 1e-3, 1e-4


def fitting(method: "SFRon", problem: Problem) -> dict[str, Any]:
    """The method's settings by name, all that were open filled in.

    Args:
        method: its retain optimiser has a learning rate.
        problem: task and sets.
    """
    generates = isinstance(problem.task, GenerativeTask)
    own: dict[str, Any] = {"optimizer": method.optimizer, "objective": objective_of(method, problem.task)}
    if method.fisher == "sample" and method.fisher_samples is None:
        own["fisher_samples"] = GENERATOR_FISHER_SAMPLES if generates else FISHER_SAMPLES
    if generates:
        return own | for_generator(method, _generator_steps(problem))
    return own | for_classifier(method, problem)


def fewest_steps(method: "SFRon", problem: Problem, engine: Engine) -> int:
    """The outer steps without which a calibrated run cannot reach its target, however few batches a pass has.

    As many as forget a class, and in proportion fewer where the held-out loss is below what is asked of a class at the
    end: a language model that knows facts by heart is 4 or 5 nats from not knowing them, a classifier a part of one.
    """
    measured = method.calibration.measured(problem, engine)
    target = float(measured["target"] * measured.get("level", 1.0))
    whole = forgets_a_class(problem) or not math.isfinite(target)
    return FEWEST_STEPS if whole else math.ceil(FEWEST_STEPS * min(1.0, target / method.calibration.ceilings[1]))


def objective_of(method: "SFRon", task: Task) -> Objective:
    """What the forget step descends on: what is set, else what the task says, else adaptive ascent."""
    return method.objective or _own(task)


def _own(task: Task) -> Objective:
    own: Objective = getattr(task, "objective", "adaptive")
    return own


def _generator_steps(problem: Problem) -> int:
    if _own(problem.task) != "redirect":
        return GENERATOR_STEPS
    weights = sum(parameter.numel() for parameter in problem.subject.module.parameters())
    return LARGE_TEXT_STEPS if weights >= LARGE else TEXT_STEPS


def for_generator(method: "SFRon", steps: int) -> dict[str, Any]:
    """As in the published run on a DDPM, which takes all K forget steps: its loss says nothing of how far."""
    forget, retain = method.forget_optimizer, method.optimizer or Optimizer()
    if forget is not None and forget.lr is None:
        forget = replace(forget, lr=retain.lr)
    if method.fresh_head:
        raise SettingError("a generator has no last layer for classes that could begin anew: leave fresh_head out.")
    return {
        "steps": method.steps or steps,
        "retain_steps": method.retain_steps or 1,
        "floor": 1e-3 if method.floor is None else method.floor,
        "retain_max_norm": method.retain_max_norm or (None if method.published else 1.0),
        "retain_decay": method.retain_decay or "constant",
        "forget_optimizer": forget,
        "calibrate": False,
        "fresh_head": False,
    }


def for_classifier(method: "SFRon", problem: Problem) -> dict[str, Any]:
    """Outer steps from epochs, the forget rate and the clipping of retain steps from whether it is calibrated."""
    forget, calibration, retain_steps = method.forget_optimizer, method.calibration, method.retain_steps or 3
    forgets_class = method.calibrate and forgets_a_class(problem)
    bounded = forgets_class and forget is not None and forget.lr is None
    calibrate = method.calibrate and (problem.holdout is not None or bounded)
    fresh_head = bool(method.fresh_head) and forgets_a_class(problem) and bool(find_head(problem))
    if forgets_class and fresh_head:
        calibration = calibration.for_fresh_head()
    steps = method.steps or max(FEWEST, math.ceil(method.epochs * problem.retain.epoch / retain_steps))
    if forget is not None and forget.lr is None:
        forget = replace(forget, lr=GAUGED_RATE if calibrate else UNGAUGED_RATE)
    elif calibrate:
        calibration = replace(calibration, growth=1.0)  # a rate that was given is kept
    return {
        "steps": steps,
        "retain_steps": retain_steps,
        "floor": 0.1 if method.floor is None else method.floor,
        "retain_max_norm": method.retain_max_norm or (calibration.retain_max_norm if calibrate else None),
        "retain_decay": method.retain_decay or "cosine",
        "forget_optimizer": forget,
        "calibrate": calibrate,
        "calibration": calibration,
        "fresh_head": fresh_head,
    }
