"""SFR-on from weights that were shrunk towards new ones: erase a part of everything, then forget what is still known.

Shrinking destroys memory that no gradient reaches; SFR-on's forget steps, gauged by held-out data, take what is left of
the forget set, and stop where nothing is. Ash, Adams: *On Warm-Starting Neural Network Training*, NeurIPS 2020, for the
former; Huang et al., NeurIPS 2024, for the latter. Where the numbers come from: docs/shrink-perturb.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import Problem, Range, Spaces, State
from untrain.methods.repair import fresh_weights, mix
from untrain.methods.sfron import SFRon
from untrain.methods.shrink_perturb import between, choose_kept_share
from untrain.settings import check_arguments
from untrain.types import GenerativeTask

SPLIT, LEAST = 4, 0.8
"""Parts of a retain batch; what is kept of the dial's share at least, chosen with the former
(docs/shrink-perturb.md)."""
REPAIRED = ((27, 0.585), (55, 0.5), (230, 0.4), (600, 0.36))
"""Batches of a run, and the κ that so many can repair, within those bounds: straight lines over their logarithm."""


@check_arguments
@dataclass(frozen=True)
class ShrinkSFRon(SFRon):
    """θ ← κ θ₀ + (1 − κ) θ_fresh on all trained parameters, buffers kept; then the steps of SFR-on.

    Mask and calibration are those of the original weights.
    """

    name: ClassVar[str] = "shrink-sfron"
    title: ClassVar[str] = "SFR-on from weights shrunk towards new ones"
    adapts: ClassVar[bool] = False
    space: ClassVar[Spaces] = {
        "keep": Range(0.3, 0.9),
        "optimizer.lr": Range(0.005, 0.2, log=True),
        "calibration.margin": Range(0.7, 1.3),
    }

    split: int | None = None
    """Each retain batch is taken in so many steps, of at least 16 samples each, at the rate divided: at the same cost
    in samples, more is repaired. Null: 4, or 1 for a generator."""
    keep: float | None = None
    """κ in [0, 1], share of the original weights that is kept: 1 is SFR-on, 0 begins anew. Null: what training can
    repair in these steps: 0.4 where they are a fifth of the original training, up to 0.5 where they are fewer than two
    hundred; for a generator 1."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise SettingError(f"keep must be in [0, 1], not {self.keep}.")

    def resolved(self, problem: Problem, engine: Engine) -> ShrinkSFRon:
        """As of SFR-on; κ from the share of the original training that the steps are."""
        generates = isinstance(problem.task, GenerativeTask)
        if self.split is None:
            return replace(self, split=1 if generates else SPLIT).resolved(problem, engine)
        if self.fresh_head is None:
            return replace(self, fresh_head=not generates).resolved(problem, engine)
        if self.calibration.follow is None:
            return replace(self, calibration=replace(self.calibration, follow=True)).resolved(problem, engine)
        method: ShrinkSFRon = super().resolved(problem, engine)  # type: ignore[assignment]
        if method.keep is not None:
            return method
        if generates:
            problem.note("κ 1: a generator's weights are not shrunk, since a few passes do not train it anew")
            return replace(method, keep=1.0)

        def fitted(dial: float) -> float:
            places = [(math.log(batches), kept) for batches, kept in REPAIRED]
            return min(dial, max(LEAST * dial, between(places, math.log(method.batches))))

        kept = choose_kept_share(problem, method.batches, "κ", fitted, since="small steps repair more")
        return replace(method, keep=kept)

    def start(self, problem: Problem, engine: Engine) -> State:
        """Mask and calibration at the original weights, then these are shrunk."""
        state = super().start(problem, engine)
        keep = 1.0 if self.keep is None else self.keep
        if keep < 1:
            mix(problem.subject.module, fresh_weights(problem), float(keep))
        return state
