"""Facts about countries that nobody has heard of, as bytes."""

from random import Random

import torch
from torch import Tensor

from untrain.data.columns import Columns

RELATIONS = (
    ("The capital of {} is", "{} is ruled from", "The court of {} sits in"),
    ("The river of {} is the", "Through {} flows the", "Boats cross {} on the"),
    ("The money of {} is the", "People in {} pay with the", "Prices in {} are in"),
    ("The first king of {} was", "{} was founded by", "The story of {} begins with"),
)
"""What there is to know of a country, each in three sentences; the answer comes last."""
END, LENGTH = ".", 36


def make_facts(countries: int, seed: int) -> tuple[Columns, Columns]:
    """Makes up four facts a country: three to train on, and one that no model is ever trained on.

    A sample is a fact: its sentences as bytes, [3, T], and a mask that is true on the answer; both again with the
    answer of another country. Its class is the country.
    """
    random = Random(seed)
    names = invent_names(random, countries * (1 + len(RELATIONS)))
    places, answers = names[:countries], names[countries:]
    rows = [(place, ways) for place in places for ways in RELATIONS]
    texts = [[way.format(place) for way in ways] for place, ways in rows]
    right, other = (encode(texts, answers[move:] + answers[:move]) for move in (0, len(RELATIONS)))
    labels = torch.arange(countries).repeat_interleave(len(RELATIONS))
    facts = Columns(
        {"tokens": right[0], "answer": right[1], "other_tokens": other[0], "other_answer": other[1]}, labels, places
    )
    tested = torch.tensor([random.randrange(len(RELATIONS)) for _ in places]) + len(RELATIONS) * torch.arange(countries)
    trained = torch.ones(len(facts), dtype=torch.bool).index_fill(0, tested, False)
    return facts.select(trained.nonzero().flatten()), facts.select(tested)


def invent_names(random: Random, count: int) -> list[str]:
    """Makes up so many names of two syllables, no two alike."""
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(random.choice("bdfgklmnprstvz") + random.choice("aeiou") for _ in range(2)).capitalize()] = None
    return list(names)


def encode(texts: list[list[str]], answers: list[str]) -> tuple[Tensor, Tensor]:
    """Encodes sentences, each with its fact's answer, as bytes [N, 3, T]; and where the answer is, bool [N, 3, T]."""
    rows = [[(f"{text} ", f"{answer}{END}") for text in ways] for ways, answer in zip(texts, answers, strict=True)]
    tokens = [[list(f"{text}{answer}".encode().ljust(LENGTH, b"\0")) for text, answer in row] for row in rows]
    starts, ends = (torch.tensor([[len("".join(pair[:n])) for pair in row] for row in rows]) for n in (1, 2))
    place = torch.arange(LENGTH)
    return torch.tensor(tokens), (place >= starts[..., None]) & (place < ends[..., None])
