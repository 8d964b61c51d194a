"""A concept as a direction of text features, and prompts that are sought along it on the text encoder alone.

Tsai et al.: *Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?*, ICLR 2024, whose strength,
population and rates these are.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor

STRENGTH = 3.0
"""By how much the direction is stretched before it is added."""
POPULATION, MUTATION = 200, 0.25
"""Candidates of a generation, and the probability that a child has one token of its own."""
FEWEST = 20
"""Pairs of prompts that a direction is the mean of, at least."""
FRAMES = (
    *("{}", "a photo of {}", "a picture of {}", "a drawing of {}", "a painting of {}", "an image of {}", "art of {}"),
    *("a good photo of {}", "a close-up of {}", "{} in the morning", "{} at night", "{} outdoors", "{} indoors"),
    *(
        "a bright picture of {}",
        "a dark picture of {}",
        "one {}",
        "look at {}",
        "this is {}",
        "{} in colour",
        "{} alone",
    ),
)
"""What few prompts are put into, so that there are enough pairs."""


def make_pairs(prompts: Sequence[str], without: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns pairs of prompts with and without the concept, at least `FEWEST`: few prompts stand in several frames."""
    frames = FRAMES[:1] if len(prompts) >= FEWEST else FRAMES
    pairs = [
        (frame.format(a), frame.format(b).strip())
        for frame, (a, b) in product(frames, zip(prompts, without, strict=True))
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def concept_direction(with_it: Tensor, without_it: Tensor) -> Tensor:
    """Returns the mean over pairs of text features with the concept less those without it, [N, L, D] → [L, D]."""
    return (with_it - without_it).mean(0)


def search_tokens(
    features: Callable[[Tensor], Tensor],
    wanted: Tensor,
    known: Tensor,
    length: int,
    generations: int,
    generator: torch.Generator,
    advance: Callable[[], None] = lambda: None,
) -> Tensor:
    """Searches tokens whose text features are near wanted ones, by a genetic algorithm.

    Args:
        features: tokens [P, n] → text features [P, L, D].
        wanted: [L, D].
        known: tokens that may be used, int64 [V].
        length: n.
        generations: how many.
        generator: of all that is random.
        advance: called after each generation.

    Returns:
        The best tokens of the last generation, int64 [n].
    """
    people = known[torch.randint(len(known), (POPULATION, length), generator=generator)]
    costs = _costs(features, people, wanted)
    for _ in range(generations):
        elite = costs.argsort(stable=True)[: POPULATION // 2]
        children = _children(people[elite], known, POPULATION - len(elite), generator)
        people = torch.cat([people[elite], children])
        costs = torch.cat([costs[elite], _costs(features, children, wanted)])
        advance()
    return people[costs.argmin()]


def _costs(features: Callable[[Tensor], Tensor], people: Tensor, wanted: Tensor) -> Tensor:
    """Squared distances of candidates' features to the wanted ones, [P] on the CPU."""
    return (features(people) - wanted).square().flatten(1).sum(1).double().cpu()


def _children(elite: Tensor, known: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Candidates that have the beginning of one parent and the end of another, and at times a token of their own."""
    parents = torch.randint(len(elite), (2, count), generator=generator)
    length = elite.shape[1]
    cut = torch.randint(1, length + 1, (count, 1), generator=generator)
    children = torch.where(torch.arange(length) < cut, elite[parents[0]], elite[parents[1]])
    place = torch.randint(length, (count, 1), generator=generator)
    token = known[torch.randint(len(known), (count, 1), generator=generator)]
    changed = torch.rand(count, 1, generator=generator) < MUTATION
    return torch.where(changed & (torch.arange(length) == place), token, children)
