"""Unified concept editing (Gandikota, Orgad, Belinkov, Materzyńska, Bau: *Unified Concept Editing in Diffusion Models*,
WACV 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from untrain.methods.base import Choice, Problem, Range, Spaces
from untrain.methods.closed_form import ClosedForm, Edit, Vectors, solve_edit
from untrain.settings import check_arguments
from untrain.types import Tokens

if TYPE_CHECKING:
    from torch import Tensor


@check_arguments
@dataclass(frozen=True)
class UCE(ClosedForm):
    """Keys and values make of a forgotten text what they made of its anchor; in closed form, without an image.

    As published it moves the last token alone (tokens: last). But a text encoder writes what a word means into every
    token behind it, and of a sentence the last one says little; so all tokens are moved by default.
    """

    name: ClassVar[str] = "uce"
    title: ClassVar[str] = "edits the maps of conditions in closed form, without images (Gandikota et al. 2024)"
    space: ClassVar[Spaces] = {
        "lam": Range(0.01, 10.0, log=True),
        "keep_scale": Range(0.01, 10.0, log=True),
        "tokens": Choice(("last", "end", "all")),
    }

    tokens: Tokens = "all"
    """Which tokens of a forgotten text are moved: the "last", as published; from there to the "end" of the window, as
    first published; the "others" around the words in which it differs from its anchor; "all": these words too."""

    def solve(self, problem: Problem, forgotten: Vectors, kept: Tensor) -> Edit:
        """Solves for all concepts at once."""
        scales = {"lam": self.lam, "edit_scale": self.edit_scale, "keep_scale": self.keep_scale}
        return solve_edit(forgotten.given, forgotten.wanted, kept, **scales)
