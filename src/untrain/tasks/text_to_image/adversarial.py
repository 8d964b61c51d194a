"""Adversarial prompts: tokens before a prompt under which a pipeline draws again what it was told to forget.

The pipeline's own loss is the classifier: tokens are sought under which it predicts the noise on the original's image
of the same prompt. They are sought as a relaxed one-hot matrix, of which every forward pass draws whole tokens.

Zhang et al.: *To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images …
For Now*, ECCV 2024 (UnlearnDiffAtk); Bengio, Léonard, Courville 2013 (straight-through gradients); Duchi,
Shalev-Shwartz, Singer, Chandra: *Efficient Projections onto the ℓ₁-Ball*, ICML 2008 (the simplex).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

RATE, DECAY, LARGEST = 0.01, 0.1, 1.0
"""Adam's rate and weight decay, and what each element of a gradient is cut to, as published."""


def project_on_simplex(rows: Tensor) -> Tensor:
    """Projects rows [..., V] on the simplex {p ≥ 0, Σp = 1}: the nearest point by Euclidean distance.

    Source: Duchi et al. 2008, figure 1.
    """
    falling = rows.sort(-1, descending=True).values
    excess = falling.cumsum(-1) - 1
    places = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=rows.dtype)
    support = (falling * places > excess).sum(-1, keepdim=True)
    threshold = excess.gather(-1, support - 1) / support
    return (rows - threshold).clamp_min(0)


def draw_tokens(rows: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draws a token of every row of a simplex, [B, n, V] → int64 [B, n]; each B from a generator of its own."""
    count = rows.shape[1]
    chance = torch.stack([torch.rand(count, 1, generator=generator, dtype=torch.float64) for generator in generators])
    reached = rows.detach().double().cumsum(-1)
    return (reached < chance.to(rows.device) * reached[..., -1:]).sum(-1).clamp_max(rows.shape[-1] - 1)


def straight_through(rows: Tensor, drawn: Tensor, table: Tensor) -> Tensor:
    """Returns the embeddings of drawn tokens, whose gradient flows to the rows as if these had been multiplied.

    Args:
        rows: relaxed one-hot rows, [B, n, V].
        drawn: tokens, int64 [B, n].
        table: an embedding layer's rows of these V tokens, [V, D].
    """
    relaxed = rows @ table
    return table[drawn] + (relaxed - relaxed.detach())


class RelaxedTokens:
    """Tokens before each of several prompts, in search.

    Attributes:
        rows: relaxed one-hot matrices, [B, n, V], a leaf that requires a gradient; every row on the simplex.
        known: numbers in the vocabulary of the V tokens that may be used, int64 [V].
        tables: their embeddings in each text encoder, [V, D].
    """

    def __init__(self, tables: Sequence[Tensor], known: Tensor, prompts: int, count: int) -> None:
        """Starts at 1/V everywhere.

        Args:
            tables: all embeddings of each text encoder.
            known: which of them may be used.
            prompts: B.
            count: n.
        """
        self.known, self.tables = known, [table.detach()[known] for table in tables]
        start = torch.full((prompts, count, len(known)), 1 / len(known), device=self.tables[0].device)
        self.rows = start.requires_grad_()
        self.optimizer = torch.optim.Adam([self.rows], lr=RATE, weight_decay=DECAY)

    def drawn(self, generators: Sequence[torch.Generator]) -> list[Tensor]:
        """Returns embeddings of drawn tokens, of each text encoder [B, n, D]."""
        tokens = draw_tokens(self.rows, generators)
        return [straight_through(self.rows, tokens, table) for table in self.tables]

    def step(self, wanted: Tensor) -> None:
        """Takes a step of the prompts that are still attacked, bool [B], by `rows.grad`, back on the simplex."""
        held = self.rows.detach().clone()
        if self.rows.grad is not None:
            self.rows.grad.clamp_(-LARGEST, LARGEST)
        self.optimizer.step()
        with torch.no_grad():
            self.rows.copy_(torch.where(wanted[:, None, None], project_on_simplex(self.rows), held))

    def best(self) -> tuple[Tensor, list[Tensor]]:
        """Returns the largest token of every row: its number in the vocabulary [B, n], and its embeddings [B, n, D]."""
        tokens = self.rows.detach().argmax(-1)
        return self.known[tokens], [table[tokens] for table in self.tables]


def attack_prompts(
    tokens: RelaxedTokens,
    descend: Callable[[Sequence[Tensor], int], None],
    look: Callable[[Sequence[Tensor], Tensor], Tensor],
    generators: Sequence[torch.Generator],
    timesteps: Sequence[int],
    steps: int,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor]:
    """Attacks prompts side by side, each until an image of it succeeds.

    Args:
        tokens: changed in place.
        descend: (embeddings [B, n, D] of each text encoder, t) → makes `rows.grad` the gradient of the sum of the
            pipeline's losses.
        look: (embeddings, which prompts, bool [B]) → which of these prompts' images succeed, bool [B].
        generators: one a prompt, of the tokens that are drawn.
        timesteps: by which losses are taken, in order.
        steps: at each of them; then an image is looked at.
        advance: called after each step.

    Returns:
        Which prompts succeeded, bool [B], and the tokens that did it, else the last ones, int64 [B, n].
    """
    over = torch.zeros(len(tokens.rows), dtype=torch.bool)
    found = tokens.best()[0]
    for t in timesteps:
        for _ in range(steps):
            if not over.all():
                descend(tokens.drawn(generators), t)
                tokens.step(~over.to(tokens.rows.device))
            advance()
        if not over.all():
            numbers, vectors = tokens.best()
            found = torch.where(over[:, None].to(numbers.device), found, numbers)
            over = over | look(vectors, ~over)
    return over, found


def usable_tokens(tokenizer: Any) -> Tensor:
    """Returns the numbers of all tokens but special ones, which nobody can write, int64 [V]."""
    special = set(tokenizer.all_special_ids)
    return torch.tensor([number for number in range(len(tokenizer)) if number not in special])
