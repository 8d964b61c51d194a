"""A task of its own: measures and distance are enough for a whole page, and everything can be said in other words."""

import json

import pytest
from markupsafe import Markup

from helpers.foreign_results import Foreign, foreign_comparison, foreign_run
from helpers.reading import Page, results_of
from untrain.report import Presentation, Verdict, run_table, write_report
from untrain.report.page import render_page
from untrain.report.sections import Section

RUN = ["verdict", "limits", "comparison", "measures", "curves", "mask", "times", "settings"]
COMPARED = ["verdict", "limits", "comparison", "measures", "forgetting", "distance", "times", "settings"]


class OnlyMeasures(Presentation):
    """No distance: nothing says which model is better."""

    measures = Foreign.measures[:2]


class Own(Foreign):
    """A section and a verdict of its own."""

    def sections(self, results):
        return [*super().sections(results), self.show_meter]

    def show_meter(self, results):
        return Section("meter", "The meter", Markup("<p>{}</p>").format(results.facts["meter"]["model"]))

    def verdict(self, one, results):
        return Verdict("closer", "It reads like new.", method="sfron")


def page(content, presentation):
    return Page(render_page(results_of(content), presentation))


@pytest.mark.parametrize(("content", "sections"), [(foreign_run(), RUN), (foreign_comparison(), COMPARED)])
def test_measures_and_distance_are_enough(content, sections):
    assert page(content, Foreign()).ids("section") == sections


@pytest.mark.parametrize("content", [foreign_run(), foreign_comparison()])
def test_without_a_distance_all_values_are_shown_and_nothing_is_judged(content):
    shown, results = page(content, OnlyMeasures()), results_of(content)
    assert OnlyMeasures().verdict(results.sets[0], results).kind == "unknown"
    assert "distance" not in shown.ids("section")
    assert any(row[:2] == ["SFR-on", "2.70"] or row[:2] == ["SFR-on", "2.73 ± 0.03"] for row in shown.rows)


def test_without_a_distance_no_method_is_the_closest():
    assert not any(row.closest for row in run_table(results_of(foreign_run()), OnlyMeasures()).rows)
    assert [row.name for row in run_table(results_of(foreign_run()), Foreign()).rows if row.closest] == ["sfron"]


def test_sections_and_verdict_can_be_a_tasks_own(tmp_path):
    content = foreign_run() | {"meter": {"model": "<script>"}}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    shown = Page(write_report(tmp_path, Own()).read_text(encoding="utf-8"))
    assert shown.ids("section") == [*RUN, "meter"]
    assert "It reads like new." in shown.text
    assert "script" not in shown.tags
