"""How a call ends that may be refused: well, or with an error of ours that says something."""

from random import Random

from hypothesis.strategies import integers

from untrain import UntrainError

SEEDED = integers(0, 2**32 - 1).map(Random)
"""Generators of random numbers, by seed. Those that hypothesis has draw by what modules happen to be loaded, so that in
one process two calls of five succeeded, in another one of six."""


def succeeds(function, about):
    """Whether it succeeds; fails on whatever is no error of ours, or says nothing or too much."""
    said = None
    try:
        function()
    except UntrainError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} of\n{about[:3000]}") from error
    assert said is None or 10 < len(said) < 20_000, about[:3000]
    return said is None
