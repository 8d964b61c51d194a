"""Prediction of the next token: cross-entropy on the tokens that a mask says."""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from untrain import Task
from untrain.types import Batch, Role, Variant


@dataclass(frozen=True)
class NextToken(Task):
    """A sample is a fact in several sentences: "tokens" [B, S, T], and "answer", true on those that count."""

    name: ClassVar[str] = "next-token"
    variants: ClassVar[tuple[Variant, ...]] = ("redirect",)

    def draw(self, batch: Batch, generator: torch.Generator, role: Role) -> Batch:
        """Draws one sentence of each fact in training; to look at a model, all are there."""
        if role in ("fisher", "evaluate"):
            return batch
        rows, sentences = batch["tokens"].shape[:2]
        chosen = torch.randint(sentences, (rows,), generator=generator).to(batch["tokens"].device)
        every = torch.arange(rows, device=chosen.device)
        return {name: each[every, chosen][:, None] if each.ndim == 3 else each for name, each in batch.items()}

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the logits of tokens 1 … T − 1, [B, S, T − 1, V], these tokens, and which of them count."""
        tokens = batch["tokens"]
        logits = model(tokens[..., :-1].flatten(0, 1)).logits.unflatten(0, tokens.shape[:2])
        return logits, tokens[..., 1:], batch["answer"][..., 1:]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean of −log p over the tokens that count, in nats, [B]."""
        logits, tokens, counts = self.predict(model, batch)
        losses = F.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none")
        return (losses * counts).sum((1, 2)) / counts.sum((1, 2))

    def exact(self, model: nn.Module, batch: Batch) -> Tensor:
        """Share of a fact's sentences that greedy decoding ends with the right answer, [B].

        It does where every token of the answer is the likeliest one after those before it.
        """
        logits, tokens, counts = self.predict(model, batch)
        return ((logits.argmax(-1) == tokens) | ~counts).all(-1).double().mean(1)

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Logits where tokens count, [B, S, T − 1, V]; 0 elsewhere, which is nowhere any different."""
        logits, _, counts = self.predict(model, batch)
        return logits * counts[..., None]

    def divergence(self, outputs: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """KL(softmax(targets / T) ‖ softmax(outputs / T)) of a fact's tokens, summed, in nats, [B]."""
        log_p, log_q = ((each / temperature).log_softmax(-1) for each in (targets, outputs))
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum((1, 2, 3))

    def variant(self, batch: Batch, kind: Variant) -> Batch:
        """The same sentences with the answer of another country ("redirect")."""
        if kind != "redirect":
            return super().variant(batch, kind)
        return {**batch, "tokens": batch["other_tokens"], "answer": batch["other_answer"]}
