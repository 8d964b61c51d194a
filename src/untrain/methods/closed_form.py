"""Edits in closed form: linear maps W are changed so that they make of some vectors what they made of others.

min over W′ of Σ_i s_i ‖W′ c_i − W t_i‖² + Σ_p s_p ‖(W′ − W) c_p‖² + λ ‖W′ − W‖² (Orgad, Kawar, Belinkov: *Editing
Implicit Assumptions in Text-to-Image Diffusion Models*, ICCV 2023, whose formula UCE and MACE share) is solved by

    W′ = (λW + Σ_i s_i W t_i c_iᵀ + Σ_p s_p W c_p c_pᵀ) A⁻¹,  A = λI + Σ_i s_i c_i c_iᵀ + Σ_p s_p c_p c_pᵀ.

The change is exactly of low rank, and nothing in it but W depends on the map: W′ − W = W L R with the columns
s_i (t_i − c_i) in L and the rows (A⁻¹ c_i)ᵀ in R, one for each moved vector. A⁻¹ c_i takes the solution of a system as
large as there are vectors (Woodbury's identity), or as each vector is long, whichever is smaller.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, cast

from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.lazy import torch
from untrain.methods.base import Method, Problem, State, check_above_zero, check_choice
from untrain.methods.imagined import check_forgets_a_class
from untrain.types import EditableTask, Task, Tokens, Variant

if TYPE_CHECKING:
    from torch import Tensor

SAME = 1e-5
"""A vector that is no further than this part of its length from what is to be taken for it, is the same to the maps."""
TOKENS: tuple[Tokens, ...] = ("last", "end", "others", "all")


class Edit(NamedTuple):
    """W′ = W + W · left · right for every map W of the same inputs.

    Attributes:
        left: [D, r].
        right: [r, D]; None: `left` is the product already, [D, D].
    """

    left: Tensor
    right: Tensor | None = None

    @property
    def rank(self) -> int:
        """r, that of the change at most."""
        return self.left.shape[1]

    @property
    def product(self) -> Tensor:
        """The product left · right, [D, D]."""
        return self.left if self.right is None else self.left @ self.right

    def of(self, columns: slice | None) -> Edit:
        """The same for maps that see these entries of the vectors alone, which no vector has beside others."""
        if columns is None:
            return self
        if self.right is None:
            return Edit(self.left[columns, columns])
        return Edit(self.left[columns], self.right[:, columns])

    def change(self, weight: Tensor) -> Tensor:
        """W′ − W of a map's weight [out, D], in the edit's own type."""
        found = weight.to(self.left.dtype) @ self.left
        return found if self.right is None else found @ self.right


def solve_edit(
    given: Tensor, wanted: Tensor, kept: Tensor, *, lam: float, edit_scale: float = 1.0, keep_scale: float = 1.0
) -> Edit:
    """The edit that solves the formula above, exactly; in the type that is given, which should be float64.

    Args:
        given: the vectors c_i, [N, D].
        wanted: the vectors t_i, [N, D].
        kept: the vectors c_p, [P, D].
        lam: λ > 0.
        edit_scale: s_i of them all.
        keep_scale: s_p of them all.
    """
    moved = (wanted != given).any(1)  # the others are in A alone
    still = torch.cat([edit_scale**0.5 * given[~moved], keep_scale**0.5 * kept])
    edited = edit_scale**0.5 * given[moved]
    left = edit_scale**0.5 * (wanted - given)[moved].T
    vectors, count = torch.cat([edited, still]), len(edited)
    if len(vectors) <= given.shape[1]:
        gram = vectors @ vectors.T
        gram.diagonal().add_(lam)
        return Edit(left, torch.linalg.solve(gram, vectors)[:count])  # A⁻¹ Vᵀ = Vᵀ (λI + V Vᵀ)⁻¹
    return _within(left, edited, vectors.T @ vectors, lam)


def fuse_edits(
    edits: Iterable[tuple[Edit, Tensor]],
    kept: Tensor,
    *,
    lam: float,
    edit_scale: float = 1.0,
    keep_scale: float = 1.0,
) -> Edit:
    """One edit that does on each edit's vectors what that one does: min Σ_i Σ_c ‖W′ c − W_i c‖² + what stays, as above.

    Args:
        edits: each with the vectors on which it is to hold, [N, D].
        kept: the vectors c_p, [P, D].
        lam: λ > 0.
        edit_scale: of all edits' vectors.
        keep_scale: of those that stay.

    Source: Lu, Wang, Li, Liu, Kong: *MACE*, CVPR 2024, eq. 5 and its solution.
    """
    whole = keep_scale * kept.T @ kept
    left, right = kept.new_zeros(kept.shape[1], 0), kept.new_zeros(0, kept.shape[1])
    total: Tensor | None = None  # the product, once the factors are no smaller
    for edit, vectors in edits:
        gram = edit_scale * vectors.T @ vectors
        whole += gram
        if total is None and len(right) + edit.rank <= len(whole):
            own = edit.right if edit.right is not None else torch.eye(len(whole), dtype=whole.dtype)
            left, right = torch.cat([left, edit.left], 1), torch.cat([right, own @ gram])
            continue
        total = (left @ right if total is None else total) + edit.product @ gram
    return _within(left, right, whole, lam) if total is None else _within(total, None, whole, lam)


def condense(vectors: Tensor) -> Tensor:
    """At most as many vectors as these have entries, [≤ D, D], of the same Σ v vᵀ: to the formula they are the same."""
    return torch.linalg.qr(vectors, mode="r").R if len(vectors) > vectors.shape[1] else vectors


def _within(left: Tensor, right: Tensor | None, gram: Tensor, lam: float) -> Edit:
    """The edit left · right · (λI + gram)⁻¹, of the smaller of both ranks; the matrix is solved for, not inverted."""
    whole = gram.clone()
    whole.diagonal().add_(lam)
    if right is not None and len(right) <= len(whole):
        return Edit(left, torch.linalg.solve(whole, right.T).T)
    product = left if right is None else left @ right
    return Edit(torch.linalg.solve(whole, product.T).T)


class Vectors(NamedTuple):
    """What conditions are to the maps.

    Attributes:
        given: float64 [N, D], of every condition's texts.
        wanted: float64 [N, D], those to be taken for them.
        owner: the condition that each is of, int64 [N].
    """

    given: Tensor
    wanted: Tensor
    owner: Tensor

    def of(self, condition: int) -> Vectors:
        """Those of one condition."""
        rows = self.owner == condition
        return Vectors(self.given[rows], self.wanted[rows], self.owner[rows])


@dataclass(frozen=True)
class ClosedForm(Method):
    """One edit of the linear maps that conditions go through, solved at once: what `uce` and `mace-refine` share."""

    needs_samples: ClassVar[bool] = False
    edits: ClassVar[bool] = True
    adapts: ClassVar[bool] = False
    needs: ClassVar[tuple[Variant, ...]] = ("redirect",)

    tokens: Tokens = "last"
    """Which tokens of a forgotten text are moved: the "last"; from there to the "end" of the window; the "others"
    around the words in which it differs from its anchor; "all": these words too."""
    lam: float = 0.5
    """λ, pull of the maps to what they were."""
    edit_scale: float = 1.0
    """Weight of each token that is moved."""
    keep_scale: float = 1.0
    """Weight of each token of retained texts, which stay."""

    def __post_init__(self) -> None:
        """Checks the ranges."""
        check_choice("tokens", self.tokens, TOKENS)
        check_above_zero(lam=self.lam, edit_scale=self.edit_scale)
        if not 0 <= self.keep_scale < math.inf:
            raise SettingError(f"keep_scale must not be negative, and is {self.keep_scale}.")

    def check_task(self, task: Task) -> None:
        """Which tokens are moved must mean something there."""
        known = getattr(task, "token_kinds", TOKENS)
        if self.tokens not in known:
            raise SettingError(
                f"tokens={self.tokens!r} has no meaning on task {type(task).__name__}: a class is one vector, with no "
                f"others around it. Take method uce, or tokens: {known[-1]}."
            )

    @property
    def total(self) -> int:
        """One step."""
        return 1

    @abstractmethod
    def solve(self, problem: Problem, forgotten: Vectors, kept: Tensor) -> Edit:
        """Solves the edit.

        Args:
            problem: task and sets.
            forgotten: what is moved of the forget set's texts.
            kept: what stays of the retain set's, float64 [P, D].
        """

    def resolved(self, problem: Problem, engine: Engine) -> ClosedForm:
        """As it is: nothing is left open."""
        return self

    def start(self, problem: Problem, engine: Engine) -> State:
        """The edit, from conditions alone."""
        check_forgets_a_class(problem, self.name)
        editable_maps(problem)
        with engine.clock("edit"):
            found = problem.remember("edit", lambda: self._solved(problem, engine))
        engine.broadcast_(found.values())
        return State(problem, engine, problem.subject.module)

    def _solved(self, problem: Problem, engine: Engine) -> dict[str, Tensor]:
        forgotten = vectors_of(problem, problem.forget, self.tokens)
        kept = vectors_of(problem, problem.retain, self.tokens, keep=True)
        _warn_of_same(problem, forgotten)
        edit = self.solve(problem, forgotten, condense(kept.given))
        return {name: part.to(engine.device) for name, part in edit._asdict().items() if part is not None}

    def step(self, state: State, k: int) -> dict[str, float]:
        """Every map W becomes W′; logs the rank of the change and its share of the maps' norm."""
        edit, moved, whole = Edit(**state.problem.memo["edit"]), 0.0, 0.0
        with torch.no_grad():
            columns = columns_of(state.problem)
            for name, weight in editable_maps(state.problem).items():
                change = edit.of(columns.get(name)).change(weight)
                moved, whole = moved + float(change.square().sum()), whole + float(weight.square().sum())
                weight.add_(change.to(weight.dtype))
        return {"rank": float(edit.rank), "relative_change": (moved / whole) ** 0.5}


def editable_maps(problem: Problem) -> dict[str, Tensor]:
    """The maps that conditions go through and that are trained, by name.

    Raises:
        SettingError: if there is none of these.
    """
    maps = editable(problem).condition_maps(problem.subject.module)
    trained = {name: weight for name, weight in maps.items() if weight.requires_grad}
    if not trained:
        raise SettingError(
            f"a closed-form edit changes {len(maps)} weights, such as {next(iter(maps))}, and none of them is trained: "
            "leave parts out, or choose these (of Stable Diffusion xattn)."
        )
    return trained


def columns_of(problem: Problem) -> Mapping[str, slice]:
    """Name of a map → the entries of the vectors that it sees, of those that do not see all."""
    told = getattr(problem.task, "condition_columns", None)
    return {} if told is None else cast(Mapping[str, slice], told(problem.subject.module))


def editable(problem: Problem) -> EditableTask:
    """The problem's task, which `check_runs` has found to be one of editable models."""
    return cast(EditableTask, problem.task)


def vectors_of(problem: Problem, stream: Stream, tokens: Tokens, *, keep: bool = False) -> Vectors:
    """What the maps are given of a set's conditions, on the CPU in float64; one that comes again counts once.

    Args:
        problem: has the task.
        stream: the set.
        tokens: which of them.
        keep: take what is given for what is wanted.
    """
    task, seen = editable(problem), set()
    found: list[Vectors] = []
    for batch in stream.once(task, "evaluate"):
        conditions = task.condition(batch)
        for row in range(len(batch["index"])):
            one = {name: values[row : row + 1] for name, values in batch.items()}
            given, wanted = (each.to("cpu", torch.float64) for each in task.condition_pairs(one, tokens, keep=keep))
            key = given.numpy().tobytes(), wanted.numpy().tobytes()
            if key not in seen:
                seen.add(key)
                owner = torch.tensor(0 if conditions is None else int(conditions[row]))
                found.append(Vectors(given, wanted, owner.expand(len(given))))
    return Vectors(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _warn_of_same(problem: Problem, forgotten: Vectors) -> None:
    """Warns of conditions that the maps cannot tell from what is to be taken for them."""
    same = (forgotten.wanted - forgotten.given).norm(dim=1) <= SAME * forgotten.given.norm(dim=1)
    every = forgotten.owner.unique().tolist()
    idle = [owner for owner in every if bool(same[forgotten.owner == owner].all())]
    if idle:
        problem.warn(
            f"{len(idle)} of {len(every)} conditions stay as they are: the tokens that are moved are the same to the "
            "model as those to be taken for them. Name another anchor, or move more tokens (tokens: all)"
        )
