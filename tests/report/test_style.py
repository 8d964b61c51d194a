"""The page's own style: text that can be read on what it stands on, in both schemes, and edges that can be seen."""

import re
from importlib import resources

import pytest

PAGE = (resources.files("untrain.report") / "templates" / "page.html.j2").read_text(encoding="utf-8")
AA = 4.5
"""The least contrast of text by WCAG 2, level AA."""
TEXTS = [  # what is written, and the layers that it stands on, the lowest first
    ("ink", ("page",)),
    ("ink", ("card",)),
    ("ink", ("card", "target")),
    ("muted", ("page",)),
    ("muted", ("card",)),
    ("muted", ("card", "target")),
    ("blue", ("page",)),
    ("blue-text", ("card", "target")),
    ("green-text", ("card",)),
    ("vermillion-text", ("card", "target")),
    ("vermillion-text", ("page", "target")),
    ("orange-text", ("card", "target")),
]


def schemes():
    """The variables of the light and of the dark scheme; dark ones that are not given are the light ones."""
    light, dark = re.findall(r":root \{(.*?)\}", PAGE, re.DOTALL)[:2]
    values = [dict(re.findall(r"--([\w-]+): ([^;]+);", block)) for block in (light, dark)]
    return {"light": values[0], "dark": values[0] | values[1]}


def colour(text):
    """Red, green, blue in 0 … 1, and the opacity."""
    if match := re.fullmatch(r"#([0-9a-f]{6})", text):
        return [int(match[1][i : i + 2], 16) / 255 for i in (0, 2, 4)], 1.0
    *parts, alpha = re.fullmatch(r"rgb\((\d+) (\d+) (\d+) / (\d+)%\)", text).groups()
    return [int(part) / 255 for part in parts], int(alpha) / 100


def luminance(rgb):
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard():
    assert contrast([0, 0, 0], [1, 1, 1]) == pytest.approx(21)
    assert contrast(colour("#767676")[0], [1, 1, 1]) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "layers"), TEXTS)
def test_text_can_be_read(scheme, text, layers):
    values = schemes()[scheme]
    under = [1.0, 1.0, 1.0]
    for layer in layers:
        over, alpha = colour(values[layer])
        under = [alpha * a + (1 - alpha) * b for a, b in zip(over, under, strict=True)]
    assert contrast(colour(values[text])[0], under) >= AA


def test_every_tag_has_a_colour_for_text():
    assert set(re.findall(r"\.tag \{ color: var\(--([\w-]+)\)", PAGE)) <= {text for text, _ in TEXTS}


def test_what_scrolls_has_a_shadow_and_takes_the_keyboard():
    """Every template that scrolls sideways says so, and can be reached by Tab."""
    assert re.search(r"\.wide, pre \{[^}]*local[^}]*scroll", PAGE)
    for name in ("figures", "comparison", "by_class", "settings"):
        text = (resources.files("untrain.report") / "templates" / f"{name}.html.j2").read_text(encoding="utf-8")
        scrolling = re.findall(r'<(?:div class="wide"|pre)[^>]*>', text)
        assert scrolling
        assert all('tabindex="0" role="region" aria-label=' in each for each in scrolling)
