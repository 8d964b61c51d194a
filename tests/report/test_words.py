"""Numbers, times and settings as a reader would write them."""

import pytest

from untrain.report.words import clean, describe_choice, flatten, list_values, show, show_duration, show_share


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.234, 2, "1.23"),
        (-0.5, 2, "−0.50"),
        (0, 2, "0.00"),
        (0.0004, 3, "4.0e−04"),
        (-1e-18, 2, "0.00"),
        (12345.6, 1, "12\u2009345.6"),
    ],
)
def test_numbers_as_shown(value, digits, text):
    assert show(value, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.50 s"), (61.4, "61.4 s"), (119.94, "119.9 s"), (120, "2 min 00 s"), (3599.6, "60 min 00 s"),
     (7199.4, "119 min 59 s"), (7200, "2 h 00 min"), (90_061, "25 h 01 min")],
)  # fmt: skip
def test_durations_as_shown(seconds, text):
    assert show_duration(seconds) == text


def test_shares_as_shown():
    assert [show_share(1, 100), show_share(12, 100), show_share(3, 1)] == ["1.0 %", "12 %", "300 %"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\n b\tc", "a b c"),
        ("x" * 50, "x" * 35 + "…"),
        ("_hidden", "\u200b_hidden"),
        ("a\x00b\ud800", "a\ufffdb\ufffd"),
    ],
)
def test_labels_are_cleaned(text, cleaned):
    assert clean(text) == cleaned


def test_settings_are_flat_and_long_lists_cut():
    assert flatten({"a": {"b": None, "c": True}, "d": 0.1 + 0.2, "e": {}}) == [
        ("a.b", "none"), ("a.c", "yes"), ("d", "0.3"), ("e", "{}"),
    ]  # fmt: skip
    assert list_values(range(3), 2) == "0, 1, … (3 in all)"
    assert describe_choice({"classes": ["3"], "fraction": None, "ids": []}) == "classes 3"
