"""The comparison's page is made of the folder's files alone, self-contained, and says what failed or is missing."""

import json
import re

import pytest

from helpers.example_comparison import METHODS, example_comparison, stat, write_example_comparison
from helpers.reading import EVIL, Page, page_of, presentation_of, tables_of, write_page, written
from untrain.errors import FolderError, UntrainError
from untrain.report import Results
from untrain.report.sections import look_of
from untrain.report.trade_offs import look_at

FIGURES = ["forgetting-0", "distance-0", "times-0", "losses-0", "classes-0", "tuning-0"]
SECTIONS = ["verdict", "limits", "comparison", "failures", "measures", "forgetting", "distance", "times", "losses",
            "classes", "tuning", "settings"]  # fmt: skip


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return written(tmp_path_factory.mktemp("compared"), write_example_comparison)


def test_all_sections_and_figures_are_there(example):
    page = Page(example[2])
    assert page.ids("section") == SECTIONS
    assert page.ids("svg") == FIGURES
    labels = [value for tag, key, value in page.attributes if (tag, key) == ("svg", "aria-label")]
    assert all(len(label) > 30 for label in labels)
    assert 'class="missing"' not in example[2]
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_the_table_is_that_of_the_text(example):
    _, content, html = example
    rows = Page(html).rows
    assert rows[0] == ["Model", "Rank", "FA", "RA", "TA", "MIA", "Avg.D", "ToW", "KL", "Time"]
    text = tables_of(content)["txt"]
    assert len(rows) >= len(METHODS) + 5
    for row in rows[1 : len(METHODS) + 5]:
        assert all(cell in text for cell in row[1:])
    assert sum("±" in cell for row in rows for cell in row) > 100


def test_the_verdict_names_all_that_tie_and_what_failed_with_its_reason(example):
    _, content, html = example
    (sentence,) = re.findall(r'<p class="sentence">(.*?)</p>', html)
    assert {name for name in ("SFR-on", "SalUn", "SCRUB") if name in sentence} == {"SFR-on", "SalUn"}
    error = content["forget_sets"]["random-10"]["models"]["bad-teacher"]["cells"][1]["error"]
    assert f"bad-teacher: seed 1 failed: {error}" in Page(html).text


def test_every_measure_is_explained_with_its_target(example):
    _, content, html = example
    text = Page(html).text.replace("\u00a0", " ")
    target = content["forget_sets"]["random-10"]["models"]["retrained"]["measures"]
    for key, words in (("FA", "Forget accuracy"), ("MIA", "An attacker looks at how sure the model is"),
                       ("SVC_entropy", "support vector machine")):  # fmt: skip
        assert words in text
        assert f"Here: {target[key]['mean']:.2f} %" in text


def test_nothing_is_loaded_and_links_stay_in_the_folder(example):
    folder, _, html = example
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed", "img", "image", "base", "form"} & set(page.tags)
    links = []
    for tag, key, value in page.attributes:
        assert not key.startswith("on"), (tag, key)
        if key in ("src", "href", "xlink:href", "data", "srcset", "action") and not value.startswith("#"):
            assert tag == "a"
            links.append(value)
    assert links == [f"./cells/random-10/seed-{seed}/report.html" for seed in range(3)]
    assert all((folder / link).is_file() for link in links)
    assert not re.search(r"@import|url\((?!#)", html)
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize(
    "folder", ["../elsewhere", "/etc", "javascript:alert(1)", "cells/../..", "cells/x y#?", "a\0b"]
)
def test_a_cell_is_linked_only_where_its_report_is(tmp_path, folder):
    outer = tmp_path / "compared"
    content = write_example_comparison(outer, cells=False)
    content["forget_sets"]["random-10"]["models"]["sfron"]["cells"][0]["folder"] = folder
    (outer / "comparison.json").write_text(json.dumps(content))
    if folder == "cells/x y#?":
        (outer / folder).mkdir(parents=True)
        (outer / folder / "report.html").write_text("cell")
    for path in (tmp_path / "elsewhere", tmp_path):
        path.mkdir(exist_ok=True)
        (path / "report.html").write_text("not ours")
    links = [v for tag, key, v in page_of(outer).attributes if tag == "a" and key == "href" and not v.startswith("#")]
    assert links == (["./cells/x%20y%23%3F/report.html"] if folder == "cells/x y#?" else [])


def test_settings_of_each_method_are_shown(example):
    text = Page(example[2]).text
    assert text.count("optimizer.lr 0.0137") == len(METHODS)
    assert "torch 2.6.0" in text
    assert "seeds: [0, 1, 2]" in text


def test_names_from_the_data_are_escaped_everywhere(tmp_path):
    methods = {**METHODS, EVIL: METHODS["salun"]}
    content = write_example_comparison(
        tmp_path, cells=False, methods=methods, sets=("a", EVIL), classes=(EVIL, "$b_1$"), failed=((EVIL, 0),)
    )
    content |= {"name": EVIL, "settings": {EVIL: EVIL}}
    one = content["forget_sets"][EVIL]
    one["spec"] = {EVIL: EVIL}
    one["models"][EVIL] |= {"settings": {EVIL: EVIL}, "method": EVIL}
    one["models"][EVIL]["cells"][0] |= {"error": EVIL, "seed": EVIL, "folder": EVIL}
    one["models"]["sfron"]["measures"][EVIL] = stat([1.0, 2.0, 3.0])
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    (tmp_path / "manifest.json").write_text(json.dumps({"untrain": EVIL, "created": EVIL, "versions": {EVIL: EVIL}}))
    (tmp_path / "config.yaml").write_text(EVIL)
    page = page_of(tmp_path)
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 20
    assert any(EVIL in v for tag, key, v in page.attributes if (tag, key) == ("svg", "aria-label"))


@pytest.mark.parametrize(
    ("changes", "figures"),
    [
        ({"seeds": 1, "references": 0}, FIGURES),
        ({"sets": ("random-10", "class-Shirt"), "trials": 0, "failed": ()},
         [f"{key[:-2]}-{i}" for key in FIGURES[:-1] for i in range(2)]),
        ({"seeds": 10, "classes": tuple(f"class {i}" for i in range(100))}, FIGURES),
        ({"methods": {"sfron": METHODS["sfron"]}}, FIGURES),
    ],
)  # fmt: skip
def test_comparisons_of_many_sizes_are_drawn(tmp_path, changes, figures):
    write_example_comparison(tmp_path, cells=False, **changes)
    page = page_of(tmp_path)
    assert page.ids("svg") == figures
    headings = [word for word in page.words if word.startswith("Forget set ")]
    assert (set(headings) == {"Forget set random-10", "Forget set class-Shirt"}) == ("sets" in changes)
    assert ("Shown are the 30 of 100 classes" in page.text) == (len(changes.get("classes", ())) == 100)


def test_what_is_missing_is_said_where_it_is_missed(tmp_path):
    models = {"original": {"measures": {"FA": stat([98.0])}}, "sfron": {"measures": {"FA": stat([90.0])}}}
    (tmp_path / "comparison.json").write_text(json.dumps({"forget_sets": {"a": {"models": models}}}))
    page = page_of(tmp_path)
    assert "svg" not in page.tags
    assert "tuning" not in page.ids("section")
    assert "failures" not in page.ids("section")
    missing = [value for _, key, value in page.attributes if (key, value) == ("class", "missing")]
    assert len(missing) == 5  # a line instead of each figure


def test_values_of_the_wrong_kind_are_left_out(tmp_path):
    content = example_comparison(sets=("a",))
    whole = content["forget_sets"]["a"]
    for junk in (None, float("nan"), float("inf"), "text", [], {}, True, 10**400, [None, [1]]):
        models = {name: {**model, "by_class": junk, "losses": junk} for name, model in whole["models"].items()}
        models["salun"] = junk
        models["ssd"] = dict.fromkeys(models["ssd"], junk)
        models["scrub"]["measures"] = {key: {"values": junk, "mean": junk} for key in ("FA", "TA", "AvgD", "seconds")}
        models["sfron"]["measures"] = {**models["sfron"]["measures"], "FA": {"values": [1.0], "mean": 1.0}}
        one = {"models": models, "noise_floor": junk, "sizes": junk, "spec": junk, "tuning": {"sfron": junk}}
        (tmp_path / "comparison.json").write_text(json.dumps({**content, "classes": junk, "forget_sets": {"a": one}}))
        page = page_of(tmp_path)
        assert page.ids("svg") == ["forgetting-0", "distance-0", "times-0"]
        assert "Not drawn, as the values are missing" in page.text


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"forget_sets": {}}', '{"forget_sets": 3}'])
def test_unusable_comparison_is_an_error(tmp_path, content):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(UntrainError, match=r"comparison\.json|holds no model"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_missing_folder_or_file_is_an_error(tmp_path):
    with pytest.raises(FolderError, match="nowhere"):
        write_page(tmp_path / "nowhere")
    with pytest.raises(UntrainError, match=r"evaluation\.json"):
        write_page(tmp_path)


def test_it_is_the_same_when_made_again(example):
    folder, _, html = example
    assert write_page(folder).read_text(encoding="utf-8") == html


def test_looks_differ_and_a_method_keeps_its_own(tmp_path):
    looks = [look_at(place) for place in range(12)]
    assert len({look.marker for look in looks}) == len({(look.colour, look.hollow) for look in looks}) == 12
    content = write_example_comparison(tmp_path, cells=False, sets=("a", "b"), failed=())
    content["forget_sets"]["b"]["models"]["sfron"]["rank"] = {}  # there it stands last
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    results, presentation = Results.read(tmp_path), presentation_of("classification")
    first, second = (
        {entry.name: look_of(entry, results, presentation) for entry in presentation.order(one)} for one in results.sets
    )
    assert next(iter(first)) == list(second)[-1] == "sfron"
    assert first == second
    assert len(set(first.values())) == len(METHODS)
