"""The page of a run on generators: whether they forgot, pictures side by side, classes, and what is missing."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from helpers.example_generator import DIGITS, example_generator_comparison, write_example_generator
from helpers.reading import EVIL, Page, page_of, table_of, tables_of, terminal_of, write_page, written

SECTIONS = [
    "verdict",
    "limits",
    "grids",
    "comparison",
    "measures",
    "classes",
    "snapshots",
    "curves",
    "mask",
    "times",
    "settings",
]


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
    assert write_page(folder).read_text(encoding="utf-8") == html


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
    missing = [value for _, key, value in page.attributes if (key, value) == ("class", "missing")]
    assert len(missing) == 1  # a line instead of the pictures
    table = table_of(json.loads((tmp_path / "evaluation.json").read_text()))
    assert table.rows[0].cells[0].small == ()
    small = {row.name: row.cells[0].small for row in table.rows}
    assert small["sfron"] == ("−98.60",)
    assert [line for line in table.legend() if "original" in line] == list(table.legend())


def test_what_is_missing_is_said_where_it_is_missed(tmp_path):
    models = {"original": {"FA": 98.0}, "sfron": {"FA": 1.0, "FD": None, "missing": {"FD": "too few samples: raise n"}}}
    (tmp_path / "evaluation.json").write_text(json.dumps({"task": "class-diffusion", "models": models}))
    page = page_of(tmp_path)
    for words in ("evaluation.json", "history.jsonl", "manifest.json", "config.yaml", "too few samples: raise n"):
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
    assert len(write_page(tmp_path).read_bytes()) < 2_000_000


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


# Comparisons.


def test_comparison_of_generators_has_tables_and_a_page_without_the_figures_of_classifiers(tmp_path):
    content = example_generator_comparison()
    tables = tables_of(content)
    assert tables["txt"].index("RA,") < tables["txt"].index("sFD")  # the further measures stand in a second table
    assert " # " not in tables["txt"].splitlines()[2]
    means = content["forget_sets"]["class-3"]["models"]["sfron"]["measures"]
    assert f"{means['FA']['mean']:.2f} ± {means['FA']['std']:.2f}" in tables["txt"]
    assert f"sfron,FD,3,{means['FD']['mean']!r}" in tables["csv"]
    assert terminal_of(content, 100)
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    page = page_of(tmp_path)
    assert page.ids("section") == ["verdict", "limits", "comparison", "failures", "measures", "figures", "settings"]
    assert "svg" not in page.tags
    assert re.search(r'class="headline">SFR-on', (tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "ESD (1 of 3)" in page.text
    assert "Rank" not in page.text
