"""The card in a terminal."""

import re

import pytest
from rich.console import Console

from untrain.audit.command import card_table
from untrain.report.audited import AuditedMethod

ROWS = [
    ("control", "original seen, retrained not seen", "–", "original seen, retrained not seen", "–"),
    ("told apart", "0.634, 29 % left, p 0.006", "0.610 to 0.658", "0.500", "0.743"),
    ("at 1 % false alarms", "12.5 % at 1.0 %", "9.4 to 16.0 %, approximate", "1.0 %", "24.3 %"),
    ("test data", "−4.3 points", "−7.0 to −1.6", "0", "+1.2 points"),
]
METHOD = AuditedMethod(
    "sfron", "trace", "still-known", "sfron leaves a trace.",
    card=tuple(dict(zip(("name", "value", "interval", "target", "original"), row)) for row in ROWS),
)  # fmt: skip


def lines_of(width):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(card_table(METHOD, width))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_nothing_is_cut_at_any_width(width):
    lines = lines_of(width)
    assert max(map(len, lines)) <= width
    said = "".join(re.sub(r"\s", "", line) for line in lines)
    for number in ("0.634", "29%left", "0.743", "0.610", "12.5%", "+1.2"):
        assert number in said


def test_decimal_points_stand_under_each_other():
    wide = lines_of(160)
    places = [
        line.index(number) + number.index(".")
        for line in wide
        for number in ("0.634", "12.5", "−4.3")
        if number in line
    ]
    assert len(places) == 3 and len(set(places)) == 1


def test_a_narrow_card_has_its_interval_under_the_value():
    narrow = lines_of(80)
    (row,) = [i for i, line in enumerate(narrow) if "told apart" in line]
    assert "0.634" in narrow[row] and "0.743" in narrow[row]
    assert "29 % left, p 0.006" in narrow[row + 1] and "0.610 to 0.658" in narrow[row + 2]
