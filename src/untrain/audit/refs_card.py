"""The card of an audit by references: one row a number, with that of originals and of retrained models beside it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from untrain.audit.card import NOTHING, kept_row
from untrain.audit.finding import CardRow
from untrain.audit.permutation import smallest_p
from untrain.audit.refs_score import UNLEARNED, ModelTraces, NumberFinding
from untrain.audit.refs_verdict import show_shares
from untrain.runs.names import ORIGINAL, RETRAINED

KEPT_DATA = {"base": "kept data", "test": "test data"}


def number_rows(found: ModelTraces, original: ModelTraces) -> Iterator[CardRow]:
    """Yields the rows of a method's card.

    Args:
        found: of the method.
        original: of the originals.
    """
    for number in found.numbers.values():
        yield _number_row(number)
    for key, name in KEPT_DATA.items():
        if key in found.kept:
            yield kept_row(name, found.kept[key], original.kept.get(key))


def _number_row(number: NumberFinding) -> CardRow:
    if number.missing is not None:
        return CardRow(number.label, NOTHING, number.missing, NOTHING, NOTHING, number.meaning)
    removed = "" if number.removed is None else f", {100 * number.removed:.0f} % gone"
    p = "" if number.p_holm is None else f", p {number.p_holm:.3f}"
    return CardRow(
        number.label,
        f"{_show(number, UNLEARNED)}{removed}{p}",
        NOTHING if number.removed_ci is None else f"{show_shares(number.removed_ci)} gone",
        _show(number, RETRAINED, spread=True),
        _show(number, ORIGINAL),
        number.meaning,
    )


def _show(number: NumberFinding, kind: str, *, spread: bool = False) -> str:
    """A kind's mean over models, with its deviation."""
    values, digits = np.array(number.values[kind]), number.digits
    if spread and len(values) > 1:
        return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}{number.unit}"
    return f"{values.mean():.{digits}f}{number.unit}"


def sizes_below(facts: Mapping[str, Any]) -> str:
    """Returns the line under a card: how many models there are, and how small a p can be."""
    twins, references = facts["twins"], facts["references"]
    ways = math.comb(twins + references, twins)
    least = smallest_p(twins, references)
    sizes = f"{twins} originals, {references} retrained models, {ways} ways to exchange them"
    return f"{sizes}: no p of means is below {least:.4f}"
