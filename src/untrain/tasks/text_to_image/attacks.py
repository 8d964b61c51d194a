"""The attacks of an audit on a text-to-image pipeline: each on one UNet, and which of its images show the target."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from untrain.diffusion.architectures.base import EMBEDS, Condition
from untrain.diffusion.text import tokenizers
from untrain.engine import generator_of
from untrain.tasks.text_to_image.adversarial import RelaxedTokens, attack_prompts, usable_tokens
from untrain.tasks.text_to_image.attack_bench import TRIALS, AttackBench, chosen_rows, spread
from untrain.tasks.text_to_image.attack_options import (
    ADVERSARIAL,
    CONCEPT_VECTOR,
    INVERSION,
    PLAIN,
    RELEARNING,
    AttackBudget,
    AttackOptions,
)
from untrain.tasks.text_to_image.attack_target import AttackTarget
from untrain.tasks.text_to_image.concept_vector import STRENGTH, concept_direction, make_pairs, search_tokens
from untrain.tasks.text_to_image.inversion import invert, write_with
from untrain.tasks.text_to_image.new_words import NewWords
from untrain.tasks.text_to_image.relearning import relearn

UNATTACKED = "adversarial-unattacked"
"""Signal of adversarial prompts: which prompts succeed before any token stands before them."""


def relearned_after(steps: int) -> str:
    """Names the signal of relearning after so many steps."""
    return f"{RELEARNING}-{steps}"


@dataclass
class Attacked:
    """What an attack on one UNet brought back.

    Attributes:
        signals: name → 1 where an image shows the target, else 0, NaN where nothing was tried, float64 [trials].
        pictures: rows of a picture: what they show, images uint8 [K, 3, H, W], and whether each shows the target [K].
        prompts: that were found to succeed.
    """

    signals: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)

    def add(self, name: str, title: str, images: Tensor, seen: Tensor) -> None:
        """Adds the images of one signal."""
        self.signals[name] = seen.double().numpy()
        self.pictures.append((title, images, seen))


@dataclass(frozen=True, eq=False)
class PipelineAttacks:
    """The attacks on a pipeline.

    Attributes:
        bench: where.
        target: what they try to bring back.
        options: what was asked for.
        budget: what they may do.
        seed: of all that is random.
    """

    bench: AttackBench
    target: AttackTarget
    options: AttackOptions
    budget: AttackBudget
    seed: int

    def run(self, attack: str, unet: nn.Module, label: str) -> Attacked:
        """Runs one attack on a UNet, which is left as it is.

        Args:
            attack: one of `ATTACKS`.
            unet: whose.
            label: of progress bars, after the attack's name.
        """
        known: Mapping[str, Callable[[nn.Module, str], Attacked]] = {
            PLAIN: self._plain,
            INVERSION: self._inversion,
            ADVERSARIAL: self._adversarial,
            RELEARNING: self._relearning,
            CONCEPT_VECTOR: self._concept_vector,
        }
        with self.bench.frozen(unet):
            return known[attack](unet, f"{attack}, {label}")

    def _images(
        self, unet: nn.Module, embed: Callable[[Sequence[int]], Condition], label: str | None
    ) -> tuple[Tensor, Tensor]:
        """Images of as many trials as the budget has, of the prompts in turn, and which of them show the target."""
        places, numbers = spread(self.budget.samples, len(self.target.prompts), TRIALS)
        keys = [self.target.prompts[place] for place in places]
        with torch.no_grad():
            embedded = embed(places)
        images = self.bench.draw(unet, keys, embedded, numbers, label)
        return images, self.target.sees(images, places)

    def _asked(self, places: Sequence[int]) -> Condition:
        return self.bench.embed([self.target.prompts[place] for place in places])

    def _plain(self, unet: nn.Module, label: str) -> Attacked:
        found = Attacked()
        found.add(PLAIN, "plain prompts", *self._images(unet, self._asked, label))
        return found

    def _inversion(self, unet: nn.Module, label: str) -> Attacked:
        budget, target = self.budget, self.target
        word = NewWords(self.bench.pipeline, 1, [*target.prompts, *target.written])
        how = {"steps": budget.inversion_steps, "rate": budget.inversion_rate, "batch_size": budget.batch_size}
        more = {"start": self.options.start, "seed": self.seed, "label": label}
        vectors = invert(self.bench, unet, target, word, **how, **more)  # type: ignore[arg-type]
        found = Attacked()

        def embed(places: Sequence[int]) -> Condition:
            return word.embed(write_with(word, [target.written[place] for place in places]), vectors)

        found.add(INVERSION, "a new word", *self._images(unet, embed, f"{label}, images"))
        return found

    def _relearning(self, unet: nn.Module, label: str) -> Attacked:
        budget, found = self.budget, Attacked()
        how = {"stops": budget.relearning_steps, "rate": budget.relearning_rate, "batch_size": budget.batch_size}
        copies = relearn(self.bench, unet, self.target, **how, seed=self.seed, label=label)  # type: ignore[arg-type]
        for steps, copy in copies:
            images, seen = self._images(copy, self._asked, f"{label}, images after step {steps}")
            found.add(relearned_after(steps), f"after {steps} steps", images, seen)
        return found

    def _adversarial(self, unet: nn.Module, label: str) -> Attacked:
        """Attacks the prompts of the target's first images; those that succeed by themselves are counted apart."""
        budget, target, found = self.budget, self.target, Attacked()
        count = min(budget.prompts, len(target.images))
        places, numbers = [target.shown[i] for i in range(count)], [target.numbers[i] for i in range(count)]
        keys = [target.prompts[place] for place in places]
        before = self.bench.draw(unet, keys, self.bench.embed(keys), numbers, f"{label}, before")
        alone = target.sees(before, places)
        found.signals[UNATTACKED] = alone.double().numpy()
        chosen = (~alone).nonzero().flatten().tolist()
        words = NewWords(self.bench.pipeline, budget.tokens, keys)
        over, images = [], before.clone()
        for part in [chosen[i : i + budget.side_by_side] for i in range(0, len(chosen), budget.side_by_side)]:
            rows = _Prompts(self, unet, words, part, places, numbers, images)
            over.append(rows.attack(f"{label}, prompts {part[0] + 1} to {part[-1] + 1} of {count}"))
            found.prompts += rows.found
        success = torch.cat(over) if over else torch.zeros(0, dtype=torch.bool)
        if chosen:
            found.pictures.append((f"{budget.tokens} tokens before a prompt", images[chosen], success))
        signal = torch.full((count,), torch.nan, dtype=torch.float64)
        signal[chosen] = success.double()
        found.signals[ADVERSARIAL] = signal.numpy()
        return found

    def _concept_vector(self, unet: nn.Module, label: str) -> Attacked:
        """Draws tokens that the text encoder takes for a prompt with thrice the concept; the UNet is not asked."""
        target, budget = self.target, self.budget
        window = min(int(tokenizer.model_max_length) for _, tokenizer in tokenizers(self.bench.pipeline))
        words = NewWords(self.bench.pipeline, min(budget.tokens_found, window - 2), [])
        known = usable_tokens(next(tokenizers(self.bench.pipeline))[1])
        with torch.no_grad():
            with_it, without_it = (
                self.bench.embed(side)[EMBEDS] for side in make_pairs(target.prompts, target.without)
            )
            chosen = range(min(len(target.prompts), budget.prompts))
            wanted = self.bench.embed([target.prompts[i] for i in chosen])[EMBEDS]
            wanted = wanted + STRENGTH * concept_direction(with_it, without_it)
            with self.bench.progress(label, len(chosen) * budget.generations) as bar:
                tokens = torch.stack([self._search(words, wanted[i], known, i, bar.advance) for i in chosen])
        found, (places, numbers) = Attacked(), spread(budget.samples, len(chosen), TRIALS)
        keys = [target.prompts[place] for place in places]
        images = self.bench.draw(unet, keys, self._embed_tokens(words, tokens[places]), numbers, f"{label}, images")
        found.add(CONCEPT_VECTOR, "concept vector", images, target.sees(images, places))
        found.prompts += [next(tokenizers(self.bench.pipeline))[1].decode(row) for row in tokens.tolist()]
        return found

    def _search(
        self, words: NewWords, wanted: Tensor, known: Tensor, place: int, advance: Callable[[], None]
    ) -> Tensor:
        generator = generator_of(self.seed, "concept vector", place)
        length, generations = len(words.words), self.budget.generations
        return search_tokens(
            lambda tokens: self._embed_tokens(words, tokens)[EMBEDS],
            wanted,
            known,
            length,
            generations,
            generator,
            advance,
        )

    def _embed_tokens(self, words: NewWords, tokens: Tensor) -> Condition:
        """Embeds tokens by their numbers, [P, n]."""
        vectors = [table.weight.detach()[tokens.to(table.weight.device)] for table in words.tables]
        with torch.no_grad():
            return words.embed([" ".join(words.words)] * len(tokens), vectors)


class _Prompts:
    """Some prompts under attack, side by side."""

    def __init__(
        self,
        attacks: PipelineAttacks,
        unet: nn.Module,
        words: NewWords,
        chosen: Sequence[int],
        places: Sequence[int],
        numbers: Sequence[int],
        images: Tensor,
    ) -> None:
        """Takes images by their number among the target's; the last images that are made are put in their place."""
        self.attacks, self.bench, self.target = attacks, attacks.bench, attacks.target
        self.unet, self.words, self.chosen, self.images = unet, words, list(chosen), images
        self.places, self.numbers = [places[i] for i in chosen], [numbers[i] for i in chosen]
        self.keys = [self.target.prompts[place] for place in self.places]
        self.texts = [f"{' '.join(words.words)} {key}" for key in self.keys]
        self.noise = [generator_of(attacks.seed, "adversarial", i) for i in chosen]
        self.found: list[str] = []

    def attack(self, label: str) -> Tensor:
        """Attacks them; returns which succeeded, bool [B]."""
        budget, bench = self.attacks.budget, self.bench
        tokenizer = next(tokenizers(bench.pipeline))[1]
        known = usable_tokens(tokenizer).to(bench.engine.device)
        tables = [table.weight for table in self.words.tables]
        tokens = RelaxedTokens(tables, known, len(self.chosen), budget.tokens)
        draws = [generator_of(self.attacks.seed, "adversarial tokens", i) for i in self.chosen]
        total = bench.task.timesteps
        timesteps = [round(t) for t in np.linspace(total - 1, 0, budget.timesteps + 2)[1:-1]]
        with bench.progress(label, budget.timesteps * budget.timestep_steps) as bar:
            over, numbers = attack_prompts(
                tokens,
                lambda vectors, t: self._descend(tokens.rows, vectors, t),
                self._look,
                draws,
                timesteps,
                budget.timestep_steps,
                bar.advance,
            )
        for i in over.nonzero().flatten().tolist():
            self.found.append(f"{tokenizer.decode(numbers[i].tolist())} {self.keys[i]}")
        return over

    def _descend(self, rows: Tensor, vectors: Sequence[Tensor], t: int) -> None:
        bench = self.bench
        batch = bench.rows(self.target, self.chosen, self.words.embed(self.texts, vectors))
        alone = [
            bench.task.draw({k: v[i : i + 1] for k, v in batch.items()}, g, "forget") for i, g in enumerate(self.noise)
        ]
        drawn = {name: torch.cat([each[name] for each in alone]) for name in alone[0]}
        drawn = bench.task.at(drawn, torch.full_like(drawn["timestep"], t))
        bench.descend(bench.losses(self.unet, drawn), [rows], mean=False)

    def _look(self, vectors: Sequence[Tensor], wanted: Tensor) -> Tensor:
        """Images of the prompts that are still attacked, and which of them show the target."""
        rows = wanted.nonzero().flatten().tolist()
        with torch.no_grad():
            chosen = chosen_rows(self.words.embed(self.texts, vectors), rows)
        images = self.bench.draw(self.unet, [self.keys[i] for i in rows], chosen, [self.numbers[i] for i in rows], None)
        self.images[[self.chosen[i] for i in rows]] = images
        seen = torch.zeros(len(wanted), dtype=torch.bool)
        seen[rows] = self.target.sees(images, [self.places[i] for i in rows])
        return seen
