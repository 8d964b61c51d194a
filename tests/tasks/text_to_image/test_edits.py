"""Which token of a text stands for which of its anchor's."""

import pytest

from untrain.tasks.text_to_image.edits import places_of

BOS, EOS = 1, 2
WINDOW = 10


def published_others(old: list[int], new: list[int]) -> tuple[list[int], list[int]]:
    """What both sentences begin and end with, and the padding: MACE's rule, with a window of 10."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    i, j = len(old), len(new)
    while i > start and j > start and old[i - 1] == new[j - 1]:
        i, j = i - 1, j - 1
    shift = len(old) - len(new)
    here = [*range(start), *range(i, len(old)), *range(len(old), WINDOW - max(0, -shift))]
    there = [*range(start), *range(j, len(new)), *range(len(new), WINDOW - max(0, shift))]
    return here, there


CASES = [
    ([BOS, 5, EOS], [BOS, 6, EOS]),
    ([BOS, 7, 5, 8, EOS], [BOS, 7, 6, 8, EOS]),
    ([BOS, 7, 5, 5, 8, EOS], [BOS, 7, 6, 8, EOS]),
    ([BOS, 7, 5, 8, EOS], [BOS, 7, 6, 6, 6, 8, EOS]),
    ([BOS, 5, EOS], [BOS, EOS]),
    ([BOS, 7, 7, EOS], [BOS, 7, EOS]),
]


@pytest.mark.parametrize(("text", "anchor"), CASES, ids=str)
def test_the_words_around_a_concept(text: list[int], anchor: list[int]) -> None:
    assert places_of(text, anchor, window=WINDOW, tokens="others") == published_others(text, anchor)


@pytest.mark.parametrize(("text", "anchor"), CASES, ids=str)
def test_all_tokens_are_the_others_and_the_words_themselves(text: list[int], anchor: list[int]) -> None:
    here, there = places_of(text, anchor, window=WINDOW, tokens="all")
    longest = max(len(text), len(anchor))
    assert sorted(here) == [*range(len(text) + WINDOW - longest)], "every token of the text, each once"
    assert len(there) == len(here) and max(there) < WINDOW


def test_words_are_paired_from_the_last_on() -> None:
    text, anchor = [BOS, 5, 6, 7, EOS], [BOS, 8, 9, EOS]
    here, there = places_of(text, anchor, window=5, tokens="all")
    assert dict(zip(here, there, strict=True)) == {0: 0, 1: 1, 2: 1, 3: 2, 4: 3}
    empty = places_of([BOS, 5, EOS], [BOS, EOS], window=3, tokens="all")
    assert dict(zip(*empty, strict=True)) == {0: 0, 1: 0, 2: 1}


def test_the_last_token_and_the_rest_of_the_window() -> None:
    text, anchor = [BOS, 5, 6, EOS], [BOS, 7, EOS]
    assert places_of(text, anchor, window=6, tokens="last") == ([2], [1])
    assert places_of(text, anchor, window=6, tokens="end") == ([2, 3, 4, 5], [1, 2, 3, 4])
    assert places_of(text, [BOS, EOS], window=6, tokens="last") == ([2], [0]), "of nothing, the beginning"


@pytest.mark.parametrize("tokens", ["last", "end", "others", "all"])
def test_a_text_stands_for_itself(tokens: str) -> None:
    here, there = places_of([BOS, 5, 6, EOS], [BOS, 5, 6, EOS], window=6, tokens=tokens)
    assert here == there
