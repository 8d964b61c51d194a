"""Figures are well-formed inline SVG that says what it was given; long curves keep their extremes."""

import time
from xml.etree import ElementTree

import numpy as np
import pytest

from untrain.report import drawing, figures
from untrain.report.figures import Clock, Histogram, thin
from untrain.report.results import Curve, Curves
from untrain.report.words import clean
from untrain.tasks.classification.figures import draw_classes

EVIL = '<script>alert(1)</script>&"'


def texts(svg):
    return ["".join(e.itertext()).strip() for e in ElementTree.fromstring(svg).iter("text")]


def test_thinning_keeps_mean_and_range_of_every_stretch():
    values = np.arange(10_000.0) % 7
    steps, mean, low, high = thin(np.arange(10_000), values)
    assert len(steps) == len(mean) == len(low) == len(high) == 500
    np.testing.assert_allclose(mean, values.reshape(500, 20).mean(1))
    np.testing.assert_array_equal(low, values.reshape(500, 20).min(1))
    np.testing.assert_array_equal(high, values.reshape(500, 20).max(1))


def test_thinning_leaves_short_curves_and_drops_what_is_not_finite():
    steps, mean, _, _ = thin([0, 1, 2, 3], [1.0, float("nan"), float("inf"), 4.0])
    assert steps.tolist() == [0, 3]
    assert mean.tolist() == [1.0, 4.0]


def test_a_hundred_thousand_steps_are_drawn_fast_and_small():
    curve = Curve(list(range(100_000)), np.random.default_rng(0).random(100_000).tolist())
    began = time.process_time()
    drawn = figures.draw_curves(
        "long", [Curves("sfron", {"forget_loss": curve})], {"forget_loss": "forget"}, "loss", ""
    )
    assert time.process_time() - began < 5  # a fraction of a second
    assert len(drawn.svg) < 100_000


def test_names_are_shown_as_they_are_and_run_nothing():
    names = [EVIL, "$x_1$", "a_b^c", "100 %", "$", "\\frac{", "日本語", "_hidden", "bell\x07"]
    values = {name: 50.0 + i for i, name in enumerate(names)}
    models = {"original": values, "method": values, "retrained": values}
    drawn = draw_classes("classes", "$m_0$", names, {"forget": models})
    shown = texts(drawn.svg)
    assert [clean(name, 26) for name in names] == shown[shown.index(clean(EVIL, 26)) :][: len(names)]
    assert "<script" not in drawn.svg
    assert "$m_0$" in shown


def test_ids_carry_the_prefix_and_every_reference_has_its_target():
    drawn = figures.draw_times("clock-7", [Clock("retrained", 0, 60.0, target=True), Clock("sfron", 2.0, 5.0)])
    root = ElementTree.fromstring(drawn.svg)
    ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
    assert len(ids) == len(set(ids))
    assert all(i.startswith("clock-7") for i in ids)
    references = [e.attrib["href"][1:] for e in root.iter() if "href" in e.attrib]
    references += [e.attrib["clip-path"][5:-1] for e in root.iter() if "clip-path" in e.attrib]
    assert references
    assert set(references) <= set(ids)


def test_colours_and_font_are_the_pages():
    counts = {part: np.array([5.0, 3, 1]) for part in drawing.SETS}
    drawn = figures.draw_histograms("h", [Histogram("original", np.array([0.0, 1, 2, 3]), counts)])
    assert not any(colour in drawn.svg for colour in drawing.VARIABLES)
    assert {f"var({drawing.VARIABLES[c]})" in drawn.svg for c in (drawing.BLUE, drawing.INK, drawing.MUTED)} == {True}
    assert "DejaVu" not in drawn.svg
    assert "http" not in drawn.svg


def test_same_figure_twice_is_the_same_text():
    clocks = [Clock("retrained", 0, 60.0, target=True), Clock("sfron", 2.0, 5.0, 1.0)]
    assert figures.draw_times("t", clocks).svg == figures.draw_times("t", clocks).svg


def test_user_settings_of_matplotlib_change_nothing():
    import matplotlib

    clocks = [Clock("retrained", 0, 60.0, target=True)]
    plain = figures.draw_times("t", clocks).svg
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert figures.draw_times("t", clocks).svg == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_times_are_told_and_compared_with_retraining():
    clocks = [Clock("retrained", 0, 60.0, target=True), Clock("sfron", 2.0, 5.0, 1.0)]
    drawn = figures.draw_times("t", clocks)
    assert "8.00 s  ·  13 % of retraining" in texts(drawn.svg)
    assert "everything else" in texts(drawn.svg)
    assert drawn.alt == "Time taken: retrained 60.0 s; sfron 8.00 s, 13 % of retraining."


def test_overlap_of_forget_and_test_in_closed_form():
    counts = {"forget": np.array([2.0, 2, 0]), "test": np.array([0.0, 5, 5])}
    histogram = Histogram("m", np.array([0.0, 1, 2, 3]), counts)
    assert histogram.overlap() == 0.5
    drawn = figures.draw_histograms("h", [histogram])
    assert "m · overlap 50 %" in texts(drawn.svg)


@pytest.mark.parametrize(("edges", "logarithmic"), [([0.0, 1, 2, 3], False), ([0.0, 0.01, 0.1, 1], True)])
def test_heavy_tails_get_a_logarithmic_axis(edges, logarithmic):
    counts = {"forget": np.array([1.0, 5, 1]), "retain": np.array([1.0, 5, 1])}
    drawn = figures.draw_histograms("h", [Histogram("m", np.array(edges), counts)])
    assert ("Logarithmic" in drawn.caption) == logarithmic


@pytest.mark.parametrize("count", [1, figures.BARS, figures.BARS + 1, 200, 1000])
def test_masks_of_any_number_of_layers_are_drawn(count):
    names = [f"block{i // 10}.{i % 10}.conv.weight" for i in range(count)]
    layers = {name: (i % 11) / 10 for i, name in enumerate(names)}
    drawn = figures.draw_mask("mask", "sfron", layers, 0.5)
    assert f"{count} layers" in drawn.alt
    shown = texts(drawn.svg)
    if count <= figures.BARS:
        assert set(names) <= set(shown)
    else:
        assert "block0" in shown
        assert len(shown) < 60  # a readable number of labels


def test_flat_layer_names_get_ticks_too():
    drawn = figures.draw_mask("mask", "m", {f"w{i}": 0.1 for i in range(150)}, None)
    assert "w0" in texts(drawn.svg)
    assert len(texts(drawn.svg)) < 60


def test_the_loss_aimed_at_is_a_line_with_its_value():
    curve = Curve(list(range(20)), [0.01] * 20)
    sets = {"forget_loss": "forget", "retain_loss": "retain"}
    series = {"forget_loss": curve, "retain_loss": curve}
    plain = figures.draw_curves("plain", [Curves("sfron", series)], sets, "loss", "nats")
    aimed = figures.draw_curves("aimed", [Curves("sfron", series, aim=5.08)], sets, "loss", "nats")
    assert "5.08" not in plain.svg + plain.alt
    assert ">aimed at: 5.08<" in aimed.svg  # and the axis reaches up to it: matplotlib draws no label outside of it
    assert "aimed at a forget loss of 5.08" in aimed.alt
    assert "Dotted line" in aimed.caption
    retained = figures.draw_curves("r", [Curves("finetune", {"retain_loss": curve}, aim=5.08)], sets, "loss", "nats")
    assert "5.08" not in retained.svg + retained.alt  # a method without a forget loss aims at none
