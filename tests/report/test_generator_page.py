"""The page of a run on generators: whether they forgot, pictures side by side, classes, and what is missing."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from helpers.example_generator import DIGITS, example_generator_comparison, write_example_generator
from helpers.reading import EVIL, Page, page_of, written
from untrain.errors import UnknownName
from untrain.report import comparison_table, comparison_tables, generator_verdict, terminal, write_report

SECTIONS = ["verdict", "grids", "comparison", "measures", "classes", "snapshots", "curves", "mask", "times", "settings"]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return written(tmp_path_factory.mktemp("run"), write_example_generator)


def embedded(page):
    """The pictures of a page as arrays, with their words and the sizes that the page gives them."""
    found, part = [], {}
    for tag, key, value in page.attributes:
        if tag == "img":
            part[key] = value
            if key == "height":
                head, _, data = part["src"].partition(",")
                assert head in ("data:image/png;base64", "data:image/webp;base64")  # the latter of large images
                picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
                assert picture.shape == (int(part["height"]), int(part["width"]), 4)
                found.append((part["alt"], picture))
                part = {}
    return found


# The page.


def test_all_sections_and_figures_are_there(example):
    page = Page(example[2])
    assert page.ids("section") == SECTIONS
    assert page.ids("svg") == ["loss-curves", "mask-density-0", "mask-density-1", "time-bars"]
    assert page.tags.count("figure") == page.tags.count("figcaption") == 4 + 2 + 2
    assert 'class="missing"' not in example[2]
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_every_picture_is_its_piece_of_the_grid_and_says_what_it_shows(example):
    folder, _, html = example
    pictures = dict(embedded(Page(html)))
    assert all(len(alt) > 10 for alt in pictures)
    for name, shown in (("original", "original"), ("sfron", "SFR-on"), ("retrained", "retrained")):
        grid = np.asarray(Image.open(folder / "grids" / f"{name}.png").convert("RGB"))
        for place, c in enumerate(DIGITS):
            row = grid[34 * place : 34 * place + 32]  # images stand two pixels apart
            picture = pictures[f"{shown}: 8 images of class {c}"]
            assert picture.shape == (32, 8 * 34 - 2, 4)
            for i in range(8):
                np.testing.assert_array_equal(picture[:, 34 * i : 34 * i + 32, :3], row[:, 34 * i : 34 * i + 32])
            assert (picture[..., 3].min(0) == 0).sum() == 7 * 2  # nothing is seen through but the gaps
    snapshot = np.asarray(Image.open(folder / "snapshots" / "sfron-000020.png").convert("RGB"))
    np.testing.assert_array_equal(pictures["class 3, step 20"][:, 34:, :3], snapshot[102:134, 34:66])


def test_forgotten_rows_are_marked_and_only_they(example):
    html = example[2]
    rows = re.findall(r'<tr class="forgotten">\s*<th scope="row">([^<]*?) ?<span class="tag">forgotten', html)
    assert set(rows) == {"3"}
    assert len(rows) == html.count('class="forgotten"') == 2 + 2 + 1  # grids, snapshots of two methods, the classes


def test_before_after_and_retrained_stand_side_by_side_the_best_method_first(example):
    tables = [row for row in Page(example[2]).rows if row and row[0] == "Class"]
    assert tables[0] == ["Class", "before: original", "after: SFR-on", "retrained"]
    assert tables[1] == ["Class", "before: original", "after: SalUn", "retrained"]
    assert tables[2] == ["Class", "original", "retrained", "SFR-on", "SalUn"]
    assert tables[3] == ["Class", "before", "step 10", "step 20", "step 30", "step 40", "step 50"]


def test_numbers_of_the_tables_are_those_of_the_file(example):
    _, evaluation, html = example
    rows = {row[0]: row[1:] for row in Page(html).rows if row}
    assert rows["Model"] == ["FA", "RA", "RA, worst", "FD", "sFD", "CS", "precision", "recall", "p, forgotten",
                             "H, forgotten", "Time"]  # fmt: skip
    sfron = evaluation["models"]["sfron"]
    assert rows["SFR-on"][:4] == [f"{sfron[key]:.2f}" for key in ("FA", "RA", "RA_worst", "FD")]
    assert rows["real images, two halves"][3:5] == ["0.34", "0.21"]
    shares = [evaluation["models"][name]["by_class"]["recognised"]["0"] for name in ("original", "retrained", "sfron")]
    assert ["0", *(f"{share:.1f}" for share in shares)] in [row[:4] for row in Page(html).rows]


def test_nothing_is_loaded_and_nothing_runs(example):
    page = Page(example[2])
    assert not {"script", "link", "iframe", "object", "embed", "image", "base", "form"} & set(page.tags)
    for tag, key, value in page.attributes:
        assert not key.startswith("on"), (tag, key)
        if key in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, key, value[:60])
    assert "img-src data:" in example[2]
    assert "http" not in example[2].replace("http-equiv", "")


def test_it_is_the_same_when_made_again(example):
    folder, _, html = example
    assert write_report(folder).read_text(encoding="utf-8") == html


def test_inception_names_its_distances(tmp_path):
    write_example_generator(tmp_path, inception=True, pictures=False)
    page = page_of(tmp_path)
    names = next(row for row in page.rows if row and row[0] == "Model")
    assert {"FID", "sFID", "IS"} <= set(names)
    assert not {"FD", "sFD", "CS"} & set(names)
    assert "FID to real images" in page.text


def test_without_pictures_and_without_a_retrained_generator(tmp_path):
    write_example_generator(tmp_path, pictures=False, retrained=False)
    page = page_of(tmp_path)
    assert page.ids("section") == [key for key in SECTIONS if key != "snapshots"]
    assert "img" not in page.tags
    for words in ("There are no pictures", "There is no generator retrained without the class",
                  "the small numbers are the differences to the original"):  # fmt: skip
        assert words in page.text
    table = comparison_table(json.loads((tmp_path / "evaluation.json").read_text()))
    assert table.rows[0].cells[0].small == ()
    small = {row.name: row.cells[0].small for row in table.rows}
    assert small["sfron"] == ("−98.60",)
    assert table.legend() == ("under the values, the difference to original",)


def test_what_is_missing_is_said_where_it_is_missed(tmp_path):
    models = {"original": {"FA": 98.0}, "sfron": {"FA": 1.0, "FD": None, "missing": {"FD": "too few samples: raise n"}}}
    (tmp_path / "evaluation.json").write_text(json.dumps({"task": "class-diffusion", "models": models}))
    page = page_of(tmp_path)
    for words in ("There are no pictures", "shares by class are not in", "too few samples: raise n",
                  "what the other classes lost is not known", "history.jsonl is missing"):  # fmt: skip
        assert words in page.text, words


def test_values_of_the_wrong_kind_are_shown_as_missing(tmp_path):
    evaluation = write_example_generator(tmp_path, snapshots=(10,))
    whole = dict(evaluation["models"]["sfron"])
    for junk in (None, float("nan"), float("inf"), "text", [], {}, True, 10**400):
        evaluation["models"]["sfron"] = dict.fromkeys(whole, junk)
        keys = ("real", "classes", "forgotten", "sizes", "judge", "features", "sampler", "settings")
        changed = {**evaluation, **dict.fromkeys(keys, junk)}
        (tmp_path / "evaluation.json").write_text(json.dumps(changed))
        (tmp_path / "grids" / "sfron.json").write_text(json.dumps({"classes": junk, "columns": junk}))
        page = page_of(tmp_path)
        assert page.ids("section") == SECTIONS
        row = next(row for row in page.rows if row and row[0] == "SFR-on")
        assert set(row[1:]) == {"—"}
        assert "grids/sfron.png does not fit" in page.text


def test_damaged_pictures_are_named_and_the_rest_is_shown(tmp_path):
    write_example_generator(tmp_path)
    (tmp_path / "grids" / "salun.png").write_bytes(b"no picture")
    (tmp_path / "grids" / "retrained.json").write_text(json.dumps({"classes": ["0", "1", "2"], "columns": 8}))
    (tmp_path / "snapshots" / "sfron-000030.png").write_bytes(b"")
    page = page_of(tmp_path)
    assert "grids/salun.png cannot be read" in page.text
    assert "grids/retrained.png does not fit" in page.text
    assert "snapshots/sfron-000030.png cannot be read" in page.text
    assert "Without pictures: SalUn." in page.text
    assert ["Class", "before: original", "after: SFR-on"] in page.rows


def test_large_images_are_made_small_and_many_classes_are_few(tmp_path):
    names = tuple(f"class {i}" for i in range(40))
    write_example_generator(
        tmp_path, classes=names, forgotten=("class 33",), methods=("sfron",), tile=128, columns=8, snapshots=(1, 2)
    )
    page = page_of(tmp_path)
    shown = [
        alt for alt, picture in embedded(page) if alt.startswith("SFR-on") and picture.shape == (96, 8 * 98 - 2, 4)
    ]
    assert len(shown) == 16
    assert "SFR-on: 8 images of class class 33" in shown
    assert "Shown are 16 of 40 classes." in page.text
    assert "Shown are 30 of 40 classes: the forgotten ones and those that lost most." in page.text
    assert len(write_report(tmp_path).read_bytes()) < 2_000_000


def test_names_from_the_data_are_escaped_everywhere(tmp_path):
    write_example_generator(
        tmp_path, methods=("sfron", "x"), classes=(EVIL, "$b_1$"), forgotten=(EVIL,), snapshots=(1,)
    )
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    evaluation |= {"features": EVIL, "judge": {"name": EVIL, "test_accuracy": 90.0}, "sampler": {EVIL: EVIL}}
    evaluation["models"][EVIL] = {**evaluation["models"].pop("x"), "missing": {"recall": EVIL}, "recall": None}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(tmp_path)
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 10
    assert any(EVIL in value for tag, key, value in page.attributes if (tag, key) == ("img", "alt"))


def test_a_name_leads_to_no_file_outside_of_the_folder(tmp_path):
    folder = tmp_path / "run"
    evaluation = write_example_generator(folder, methods=("sfron",))
    (tmp_path / "secret.png").write_bytes((folder / "grids" / "sfron.png").read_bytes())
    evaluation["models"]["../../secret"] = evaluation["models"].pop("sfron")
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(folder)
    assert "Without pictures: ../../secret." in page.text
    assert {alt.partition(":")[0] for alt, _ in embedded(page) if ":" in alt} == {"original", "retrained"}


def test_an_unknown_task_is_an_error_that_lists_the_known(tmp_path):
    write_example_generator(tmp_path, pictures=False)
    content = json.loads((tmp_path / "evaluation.json").read_text()) | {"task": "class-difusion"}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    with pytest.raises(UnknownName, match="Did you mean 'class-diffusion'"):
        write_report(tmp_path)


# The verdict.


def evaluation(original=None, retrained=None, **methods):
    usual = {"FA": 99.0, "RA": 98.0, "RA_worst": 95.0, "FD": 2.0}
    models = {"original": usual | (original or {})} | {name: usual | values for name, values in methods.items()}
    return {"models": models | ({"retrained": usual | retrained} if retrained else {}), "forgotten": ["3"]}


@pytest.mark.parametrize(
    ("values", "kind", "title"),
    [
        ({"FA": 0.5}, "closer", "Forgotten, and the other classes kept"),
        ({"FA": 1.0, "RA": 95.0, "RA_worst": 87.0, "FD": 2.3}, "closer", "Forgotten, and the other classes kept"),
        ({"FA": 0.5, "RA": 94.9}, "partly", "Forgotten, at the expense of other classes"),
        ({"FA": 0.5, "RA_worst": 86.0}, "partly", "Forgotten, at the expense of other classes"),
        ({"FA": 0.5, "FD": 2.4}, "partly", "Forgotten, at the expense of other classes"),
        ({"FA": 40.0}, "partly", "Partly forgotten"),
        ({"FA": 90.0}, "none", "Not forgotten"),
        ({"FA": 90.0, "RA": 50.0}, "further", "Not forgotten, and other classes damaged"),
        ({"FA": None}, "unknown", "Cannot be judged"),
        ({"FA": 0.5, "RA": None, "RA_worst": None, "FD": None}, "unknown",
         "Forgotten; what the other classes lost is not known"),
    ],
)  # fmt: skip
def test_kind_of_verdict(values, kind, title):
    said = generator_verdict(evaluation(sfron=values))
    assert (said.kind, said.headline, said.method) == (kind, title, "sfron")


def test_no_more_than_the_retrained_generator_counts_as_forgotten():
    assert generator_verdict(evaluation(sfron={"FA": 5.0})).headline == "Partly forgotten"
    assert generator_verdict(evaluation(retrained={"FA": 6.0}, sfron={"FA": 5.0})).kind == "closer"


def test_sentence_names_what_was_forgotten_and_what_it_cost(tmp_path):
    assert generator_verdict(write_example_generator(tmp_path, pictures=False)).sentence == (
        "Of the images of class 3 that the generator makes after SFR-on, the judge still recognises 0.30 % (98.90 % "
        "before, 0.20 % after retraining), and of the other classes' images 97.20 % (98.10 % before); the distance of "
        "these to real ones went from 1.21 to 1.29. It took 6.30 s, 3.1 % of the retraining time."
    )


def test_the_class_that_lost_most_is_named_and_the_forgotten_one_is_not_blamed():
    example = evaluation(sfron={"FA": 0.5})
    example["models"]["original"]["by_class"] = {"recognised": {"3": 99.0, "4": 98.0, "5": 97.0}}
    example["models"]["sfron"]["by_class"] = {"recognised": {"3": 0.5, "4": 80.0, "5": 97.0}}
    said = generator_verdict(example)
    assert said.kind == "partly"
    assert "The class that lost most, 4, fell by 18.0 points." in said.remarks


def test_the_best_method_forgot_and_took_least():
    said = generator_verdict(evaluation(salun={"FA": 30.0}, esd={"FA": 0.5, "RA": 90.0}, sfron={"FA": 0.9, "RA": 97.0}))
    assert said.method == "sfron"
    told = "Recognised of forgotten and other classes after other methods: ESD 0.50 % and 90.00 %; SalUn 30.00 %"
    assert any(remark.startswith(told) for remark in said.remarks)


def test_a_generator_that_never_could_has_nothing_to_forget():
    said = generator_verdict(evaluation(original={"FA": 0.5}, sfron={"FA": 0.0}))
    assert said.headline == "Nothing to forget"
    assert generator_verdict(evaluation()).headline == "Nothing to judge"


# Comparisons.


def test_comparison_of_generators_has_tables_and_a_page_without_the_figures_of_classifiers(tmp_path):
    content = example_generator_comparison()
    tables = comparison_tables(content)
    assert tables["txt"].index("RA,") < tables["txt"].index("sFD")  # the further measures stand in a second table
    assert " # " not in tables["txt"].splitlines()[2]
    means = content["forget_sets"]["class-3"]["models"]["sfron"]["measures"]
    assert f"{means['FA']['mean']:.2f} ± {means['FA']['std']:.2f}" in tables["txt"]
    assert f"sfron,FD,3,{means['FD']['mean']!r}" in tables["csv"]
    assert terminal(content)
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    page = page_of(tmp_path)
    assert page.ids("section") == ["verdict", "comparison", "failures", "measures", "figures", "settings"]
    assert "svg" not in page.tags
    assert "so they are not drawn here" in page.text
    assert "SFR-on: forgotten, and the other classes kept" in page.text
    assert "Seeds without a result: ESD (1 of 3)." in page.text
    assert "a classifier, the judge, still calls by them" in page.text
    assert "Rank" not in page.text
