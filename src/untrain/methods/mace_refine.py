"""MACE's closed forms (Lu, Wang, Li, Liu, Kong: *MACE: Mass Concept Erasure in Diffusion Models*, CVPR 2024).

The paper trains a LoRA for each concept between the two; here both stand alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from untrain.methods.base import Problem, Range, Spaces, check_above_zero
from untrain.methods.closed_form import ClosedForm, Edit, Vectors, fuse_edits, solve_edit, vectors_of
from untrain.settings import check_arguments
from untrain.types import Tokens

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class MACERefine(ClosedForm):
    """For each concept an edit of the words around it, which hold what it means too; then one edit of all of these.

    The concept's own words stay as they are, for which MACE trains a LoRA besides. Say sentences by `templates`.
    """

    name: ClassVar[str] = "mace-refine"
    title: ClassVar[str] = "edits what the words around a concept tell, concept by concept, fused (Lu et al. 2024)"
    space: ClassVar[Spaces] = {"lam": Range(0.1, 1000.0, log=True), "fuse_lam": Range(0.1, 1000.0, log=True)}

    tokens: Tokens = "others"
    """Which tokens of a forgotten text are moved: the "last"; from there to the "end" of the window; the "others"
    around the words in which it differs from its anchor, as published; "all": these words too."""
    lam: float = 10.0
    """λ of each concept's edit, pull of the maps to what they were (published, for objects: 10)."""
    fuse_lam: float = 10.0
    """The same of the fusion."""
    keep_scale: float = 1.0
    """Weight of each token of retained texts, which stay (published: 0, or captions of COCO)."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        check_above_zero(fuse_lam=self.fuse_lam)

    def solve(self, problem: Problem, forgotten: Vectors, kept: Tensor) -> Edit:
        """Solves for each concept, then for the fusion, which holds on every token of the forgotten texts."""
        scales = {"edit_scale": self.edit_scale, "keep_scale": self.keep_scale}
        whole = vectors_of(problem, problem.forget, "all", keep=True)

        def edits() -> Iterator[tuple[Edit, Tensor]]:
            for condition in forgotten.owner.unique().tolist():
                own = forgotten.of(condition)
                edit = solve_edit(own.given, own.wanted, kept, lam=self.lam, **scales)
                yield edit, whole.of(condition).given

        return fuse_edits(edits(), kept, lam=self.fuse_lam, **scales)
