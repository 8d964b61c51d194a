"""Language models that forget facts: how they are built, measured, presented and asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from next_token.data import END, LENGTH, make_facts
from next_token.task import NextToken
from untrain import Domain, Measure
from untrain.data.sections import Forget
from untrain.data.streams import Stream
from untrain.engine import Engine
from untrain.io import write_text
from untrain.metrics.losses import mean_losses, sample_values
from untrain.report.presentation import LossPresentation
from untrain.report.results import Entry, ForgetSet
from untrain.runs.models import choose_model, kept_weights, open_model, sample_place
from untrain.types import Task


@dataclass(frozen=True)
class Facts:
    """Which facts are made up."""

    countries: int = 75
    """Countries; of each, three facts are trained on and one is tested."""
    seed: int = 0
    """Seed of all names."""


@dataclass(frozen=True)
class Model:
    """A small GPT-2, or the weights of one."""

    checkpoint: str | None = None
    """File of the original model's weights; null: the recipe trains it."""
    width: int = 64
    """Width of its layers, a multiple of 16."""
    layers: int = 2
    """Transformer layers."""


@dataclass(frozen=True)
class NextTokenSections:
    """What a recipe on language models says besides what every recipe does."""

    data: Facts = Facts()
    forget: Forget = Forget()
    model: Model = Model()


def exact_match(part: str, facts: str, aim: str) -> Measure:
    """How many answers are right, of one set."""
    meaning = f"The share of questions on {facts} that the model, saying the likeliest, answers to the letter."
    name, title = f"{part[0].upper()}X", f"Exact match on {facts}"
    return Measure(f"{part}_exact", name, title, "%", meaning, aim, compared=True, shown="known")


class NextTokenPresentation(LossPresentation):
    """Presents how many facts are known, beside losses."""

    loss_unit = "nats"
    measures = (
        exact_match("forget", "forgotten facts", "The retrained model's value, about zero: it was never told them."),
        exact_match("retain", "kept facts", "The retrained model's value, about all of them."),
        exact_match("test", "unseen facts", "The retrained model's value: what can be guessed."),
        *LossPresentation.measures,
    )

    def remarks(self, one: ForgetSet, method: Entry) -> list[str]:
        """Says first how many forgotten facts are still known."""
        known = method.mean("forget_exact")
        said = [] if known is None else [f"Of the forgotten facts it still knows {known:.0f} % to the letter."]
        return said + super().remarks(one, method)


def complete(
    source: str, prompt: str = "The capital of", model: str | None = None, length: int = 24, out: str | None = None
) -> Path:
    """Goes on with a text, always by the likeliest byte, to the next full stop.

    Args:
        source: run folder.
        prompt: the text.
        model: which model of the folder: original, or a method's entry; null: the unlearned one.
        length: at most so many bytes are added.
        out: file to write; null: samples/MODEL.txt in the run folder.
    """
    folder = Path(source)
    chosen = choose_model(folder, model, among=kept_weights(folder))
    module, text = open_model(folder, chosen)[1].eval(), prompt.strip() + " "
    while len(text) < min(LENGTH, len(prompt) + length) and not text.endswith(END):
        tokens = torch.tensor([list(text.encode())], device=next(module.parameters()).device)
        with torch.no_grad():
            text += chr(module(tokens).logits[0, -1].argmax())
    path = sample_place(folder, chosen, ".txt", out)
    write_text(path, text + "\n")
    print(f"{chosen}: {text}")
    return path


class NextTokenDomain(Domain):
    """Prediction of the next token: language models forget facts."""

    name = "next-token"
    task_class = NextToken
    Sections = NextTokenSections
    presentation = NextTokenPresentation()
    sampler = staticmethod(complete)

    def load(self) -> Any:
        """Makes the facts up."""
        return make_facts(self.sections.data.countries, self.sections.data.seed)

    def build(self, seed: int) -> nn.Module:
        """Builds a GPT-2 that reads bytes."""
        from transformers import GPT2Config, GPT2LMHeadModel

        size, none = self.sections.model, dict.fromkeys(("bos_token_id", "eos_token_id"))
        none |= dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
        shape = {"n_embd": size.width, "n_layer": size.layers, "n_head": size.width // 16, "n_positions": LENGTH}
        config = GPT2Config(vocab_size=256, **shape, **none, initializer_range=0.1, use_cache=False)
        with self.context.engine.seeded(seed):
            return GPT2LMHeadModel(config).to(self.context.engine.device)

    @classmethod
    def values(cls, module: nn.Module, task: Task, sets: Mapping[str, Stream], engine: Engine) -> dict[str, Any]:
        """Measures the mean loss of every set, and how many of its questions are answered right, in %."""
        right = {name: sample_values(module, task, stream, engine, task.exact) for name, stream in sets.items()}
        exact = {f"{name}_exact": 100 * each.mean().item() for name, each in right.items()}
        return mean_losses(module, task, sets, engine) | exact
