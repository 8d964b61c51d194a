"""The page of a text-to-image run: what a detector still sees, prompts side by side, parts of bodies, what lacks."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from helpers.example_text import (
    CAPTIONS,
    CLOTHED,
    FOUND,
    KEYS,
    NUDE,
    PARTS,
    REASONS,
    SEEN,
    example_text_comparison,
    write_example_text,
)
from helpers.reading import EVIL, Page, page_of, table_of, tables_of, terminal_of, write_page, written

FIRST = ["verdict", "limits", "grids", "comparison", "measures"]
LAST = ["setup", "curves", "mask", "times", "settings"]
TITLES = {"FA5": "FA, top 5", "RA": "RA", "RA_worst": "RA, worst", "NR": "NR"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return written(tmp_path_factory.mktemp("shapes"), lambda folder: write_example_text(folder, columns=2))


@pytest.fixture(scope="module")
def nude(tmp_path_factory):
    return written(tmp_path_factory.mktemp("nude"), lambda folder: write_example_text(folder, kind="nudity", tile=512))


def pictures(page):
    """The words and the opened picture of every image of a page, in order."""
    made = []
    given = [(key, value) for tag, key, value in page.attributes if tag == "img" and key in ("src", "alt")]
    for (_, source), (_, alt) in zip(given[::2], given[1::2]):
        head, _, data = source.partition(",")
        assert head in ("data:image/png;base64", "data:image/webp;base64")
        made.append((alt, Image.open(io.BytesIO(base64.b64decode(data, validate=True)))))
    return made


# The page.


@pytest.mark.parametrize(("example", "middle"), [("shapes", "classes"), ("nude", "parts")])
def test_sections_are_those_of_the_detector(request, example, middle):
    html = request.getfixturevalue(example)[2]
    page = Page(html)
    assert page.ids("section") == [*FIRST, middle, *LAST]
    assert page.ids("svg") == ["loss-curves", "mask-density-0", "mask-density-1", "time-bars"]
    assert 'class="missing"' not in html
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(("example", "table"), [("shapes", SEEN), ("nude", FOUND)])
def test_every_value_is_in_the_table_and_what_all_miss_is_said_with_its_reason(request, example, table):
    _, evaluation, html = request.getfixturevalue(example)
    page = Page(html)
    head = next(row for row in page.rows if row and row[0] == "Model")
    kind = evaluation["detector"]["kind"]
    columns = [key for key, value in zip(KEYS, table["sfron"]) if value is not None]
    assert len(head) == 1 + len(columns)
    for name, shown in (("original", "original"), ("sfron", "SFR-on"), ("salun", "SalUn")):
        row = next(row for row in page.rows if row[:1] == [shown] and len(row) == len(head))
        values = dict(zip(columns[:-1], row[1:-1]))
        for key, text in values.items():
            value = table[name][KEYS.index(key)]
            digits = 0 if key == "steps" else 2
            assert text == ("—" if value is None else f"{value:,.{digits}f}".replace(",", "\u2009"))
    for key, reason in REASONS[kind].items():
        assert re.search(rf"Not measured: [^:]*\({TITLES[key]}\)[^:]*: {reason}\.", page.text), key
        assert TITLES[key] not in head


def test_differences_are_to_the_original_or_to_a_retrained_pipeline(tmp_path):
    for retrained, aim in ((False, "original"), (True, "retrained")):
        evaluation = write_example_text(tmp_path, retrained=retrained, pictures=False)
        rows = {row.name: row for row in table_of(evaluation).rows}
        assert rows["sfron"].cells[0].small == (f"{SEEN['sfron'][0] - SEEN[aim][0]:+.2f}".replace("-", "−"),)
        steps = [measure.key for measure in table_of(evaluation).measures].index("steps")
        assert rows["sfron"].cells[steps].small == ()
        assert ("so its row is the target" in page_of(tmp_path).text) is retrained


def test_pictures_are_side_by_side_forgotten_prompts_first(shapes):
    folder, _, html = shapes
    page = Page(html)
    assert [row for row in page.rows if row and row[0] == "before: original"] == [
        ["before: original", "after: SFR-on"], ["before: original", "after: SalUn"],
    ]  # fmt: skip
    table = html[html.index('<table class="pictures') : html.index("</table>")]
    heads = re.findall(r'<th scope="rowgroup"[^>]*>(<span class="tag">forgotten</span> )?([^<]*)</th>', table)
    assert len(heads) == 16
    assert [bool(tag) for tag, _ in heads] == [True] * 6 + [False] * 10
    assert {text for tag, text in heads if tag} == {caption for caption in CAPTIONS if "circle" in caption}
    made = dict(pictures(page))
    grids = {
        name: np.asarray(Image.open(folder / "grids" / f"{name}.png"), dtype=float) for name in ("original", "sfron")
    }
    # Of pictures that were compressed, the nearest of all tiles must be the right one.
    tiles = {(name, i): grid[66 * i : 66 * i + 64, :64] for name, grid in grids.items() for i in range(len(CAPTIONS))}
    for name, shown in (("original", "original"), ("sfron", "SFR-on")):
        prompt = CAPTIONS[1]  # after forgetting, retained prompts are drawn as before
        picture = np.asarray(made[f"{shown}: 2 images of “{prompt}”"].convert("RGB"), dtype=float)
        assert picture.shape == (64, 130, 3)
        apart = {key: np.abs(picture[:, :64] - tile).mean() for key, tile in tiles.items()}
        assert min(apart, key=apart.get) == (name, CAPTIONS.index(prompt))


def test_large_pictures_are_made_small_and_said_to_be_blurred(nude):
    _, _, html = nude
    made = pictures(Page(html))
    assert {picture.size for _, picture in made} == {(4 * 122 - 2, 120)}
    assert len(html) < 300_000
    assert html.count("the detector sees what was to be forgotten are blurred") == 2  # one table a method


def test_pictures_that_are_not_blurred_are_not_said_to_be(shapes):
    assert "are blurred" not in shapes[2]


def test_snapshots_have_prompts_too_and_are_blurred_unseen(tmp_path):
    write_example_text(tmp_path, kind="nudity", methods=("sfron",), columns=2, tile=32)
    (tmp_path / "snapshots").mkdir()
    for step in (10, 20):
        (tmp_path / "snapshots" / f"sfron-{step:06}.png").write_bytes((tmp_path / "grids" / "sfron.png").read_bytes())
    page = page_of(tmp_path)
    assert page.ids("section") == [*FIRST, "parts", "snapshots", *LAST]
    assert ["before", "step 10", "step 20"] in page.rows
    assert f"“{NUDE}”, step 20" in [alt for alt, _ in pictures(page)]
    assert "Images of forgotten prompts are blurred, whatever they show." in page.text


def test_of_many_prompts_half_are_forgotten_ones(tmp_path):
    forgotten, retained = ([f"{kind} number {i}" for i in range(40)] for kind in ("gone", "kept"))
    write_example_text(
        tmp_path, methods=("sfron",), forgotten=tuple(forgotten), retained=tuple(retained), columns=1, tile=32
    )
    page = page_of(tmp_path)
    rows = [alt.split("“")[1] for alt, _ in pictures(page) if alt.startswith("original")]
    assert [row.split()[0] for row in rows] == ["gone"] * 8 + ["kept"] * 8
    assert rows[1].startswith("gone number 5")  # evenly from the first on
    assert "Shown are 16 of 80 prompts." in page.text


def test_counts_by_part_stand_beside_the_original_and_the_rest_is_zero(nude):
    _, evaluation, html = nude
    rows = {row[0]: row[1:] for row in Page(html).rows if row}
    assert rows["Part of the body"] == ["original", "SFR-on", "SalUn"]
    for part, words in (("FEMALE_BREAST_EXPOSED", "female breast, exposed"), ("FEET_EXPOSED", "feet, exposed")):
        assert rows[words] == [
            str(evaluation["models"][name]["by_part"][part]) for name in ("original", "sfron", "salun")
        ]
    assert next(row for row in rows if row.endswith(", exposed")) == "female breast, exposed"  # the most frequent first
    assert "In how many of the 240 images of forgotten prompts" in Page(html).text
    assert "with a score of at least 0.60" in Page(html).text


def test_a_part_that_is_found_only_after_forgetting_is_shown(tmp_path):
    evaluation = write_example_text(tmp_path, kind="nudity", pictures=False)
    evaluation["models"]["sfron"]["by_part"] = {"ANUS_EXPOSED": 3}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    rows = {row[0]: row[1:] for row in page_of(tmp_path).rows if row}
    assert rows["anus, exposed"] == ["0", "3", "0"]
    assert rows["female breast, exposed"][1] == "0"
    assert len([row for row in rows if row.endswith("exposed")]) == len(PARTS) + 1


def test_labels_are_compared_and_the_forgotten_one_is_marked(shapes):
    _, _, html = shapes
    rows = {row[0]: row[1:] for row in Page(html).rows if row}
    assert rows["Asked for"] == ["original", "SFR-on", "SalUn"]
    assert rows["circle"] == ["97.5", "1.3", "9.0"]
    assert rows["square"] == ["96.3", "93.9", "80.2"]
    table = html[html.index('<table class="comparison classes">') :]
    assert re.findall(r'<th scope="row">([^<]*)<span class="tag">forgotten', table) == ["circle"]


def test_what_was_trained_and_how_it_was_judged_is_told(shapes, nude):
    text = Page(shapes[2]).text
    for words in ("cross-attention (xattn)", "48,012 of 1,284,003", "3.7 %", "120 steps, 74.2 s", "small-cnn",
                  "right on test images, shape 99.20 %", "openai/clip-vit-base-patch32", "images of each prompt 40",
                  "sampling steps 50", "guidance scale 7.5", "forgotten: circle"):  # fmt: skip
        assert words in text, words
    text = Page(nude[2]).text
    for words in ("detector NudeNet", "threshold 0.6", "How often NudeNet itself is right was not measured here",
                  f"forgotten: {NUDE}"):  # fmt: skip
        assert words in text, words


def test_nothing_is_loaded_and_nothing_runs(shapes, nude):
    for _, _, html in (shapes, nude):
        page = Page(html)
        assert not {"script", "link", "iframe", "object", "embed", "image", "base", "form"} & set(page.tags)
        for tag, key, value in page.attributes:
            assert not key.startswith("on"), (tag, key)
            if key in ("src", "href", "xlink:href", "data", "srcset", "action"):
                assert value.startswith(("#", "data:image/")), (tag, key, value[:60])
        assert "http" not in html.replace("http-equiv", "")


def test_hostile_text_is_only_text(tmp_path):
    long = EVIL + " and then" * 200
    evaluation = write_example_text(
        tmp_path, kind="nudity", methods=("x",), forgotten=(EVIL,), retained=(long, "日本語 \u202e$x_1$"), tile=32
    )
    evaluation |= {
        "detector": {"name": EVIL, "kind": "nudity", "threshold": EVIL, "test_accuracy": {EVIL: 90.0}},
        "features": EVIL, "clip": EVIL, "sampler": {EVIL: EVIL}, "prompts": {EVIL: EVIL}, "trained": {"parts": [EVIL]},
    }  # fmt: skip
    model = evaluation["models"].pop("x")
    evaluation["models"][EVIL] = {**model, "by_part": {EVIL: 3}, "missing": {"RA": EVIL, "CLIP": EVIL}, "CLIP": None}
    for name in ("sfron", EVIL.replace("/", "")):
        evaluation["models"][name] = model | {"by_class": {"recognised": {EVIL: 50.0}}}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(tmp_path)
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 10
    assert "…" in page.text
    assert "and then" * 60 not in page.text  # as long as published prompts, no longer
    assert all(len(alt) < 400 for alt, _ in pictures(page))


def test_values_of_the_wrong_kind_are_shown_as_missing(tmp_path):
    evaluation = write_example_text(tmp_path, columns=1, tile=32)
    whole = dict(evaluation["models"]["sfron"])
    for kind in ("classifier", "nudity"):
        for junk in (None, float("nan"), "text", [], {}, True, 10**400)[:: 1 if kind == "classifier" else 3]:
            evaluation["models"]["sfron"] = dict.fromkeys(whole, junk)
            keys = ("classes", "forgotten", "sizes", "features", "clip", "sampler", "prompts", "trained", "settings")
            detector = {"kind": kind, **dict.fromkeys(("name", "threshold", "test_accuracy", "hash"), junk)}
            changed = {**evaluation, **dict.fromkeys(keys, junk), "detector": detector}
            (tmp_path / "evaluation.json").write_text(json.dumps(changed))
            (tmp_path / "grids" / "sfron.json").write_text(json.dumps({"classes": junk, "columns": junk}))
            page = page_of(tmp_path)
            assert page.ids("section")[: len(FIRST)] == FIRST
            row = next(row for row in page.rows if row and row[0] == "SFR-on")
            assert set(row[1:]) == {"—"}
            assert "grids/sfron.png does not fit" in page.text


def test_an_almost_empty_evaluation_says_what_it_lacks(tmp_path):
    models = {"original": {"FA": 98.0}, "sfron": {"FA": 1.0, "RA": None, "missing": {"RA": "no judge was named"}}}
    content = {"task": "text-to-image", "models": models}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    page = page_of(tmp_path)
    for words in ("evaluation.json", "history.jsonl", "manifest.json", "config.yaml"):
        assert words in page.text, words
    assert page.text.count("no judge was named") == 2  # beside the verdict, and under the table
    assert "parts" not in page.ids("section")
    content["detector"] = {"kind": "nudity"}
    (tmp_path / "evaluation.json").write_text(json.dumps(content))
    assert "parts" in page_of(tmp_path).ids("section")


# Tables and comparisons.


@pytest.mark.parametrize("kind", ["classifier", "nudity"])
def test_tables_in_every_form_have_the_values_and_what_is_missing(tmp_path, kind):
    table = table_of(write_example_text(tmp_path, kind=kind, pictures=False))
    for text in (table.text(), table.markdown(), table.latex("Text", "tab:text")):
        assert "SFR-on" in text
        assert "not measured: " in text
        for reason in REASONS[kind].values():
            assert reason in text
    head, *rows = (line.split(",") for line in table.csv().splitlines())
    sfron = dict(zip(head, next(row for row in rows if row[0] == "sfron")))
    assert sfron["FA"] == repr((FOUND if kind == "nudity" else SEEN)["sfron"][0])
    assert sfron["steps"] == ("1000" if kind == "nudity" else "120")
    assert max(map(len, table.text().split("\n\n")[0].splitlines()[:-3])) <= 110


def test_a_comparison_has_tables_and_a_page(tmp_path):
    content = example_text_comparison()
    tables = tables_of(content)
    means = content["forget_sets"]["circle"]["models"]["sfron"]["measures"]
    assert f"{means['FA']['mean']:.2f} ± {means['FA']['std']:.2f}" in tables["txt"]
    assert f"sfron,CLIP,3,{means['CLIP']['mean']!r}" in tables["csv"]
    assert all("Steps" in tables[form] for form in ("txt", "md", "tex"))
    assert terminal_of(content, 100)
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    page = page_of(tmp_path)
    assert page.ids("section") == ["verdict", "limits", "comparison", "measures", "figures", "settings"]
    assert re.search(r'class="headline">SFR-on', (tmp_path / "report.html").read_text(encoding="utf-8"))


def test_long_prompts_stand_whole_above_their_pictures(nude):
    assert len(CLOTHED[1]) > 150
    table = nude[2][nude[2].index('<table class="pictures') :]
    assert f'colspan="2">{CLOTHED[1]}</th>' in table


def test_it_is_the_same_when_made_again(nude):
    folder, _, html = nude
    assert write_page(folder).read_text(encoding="utf-8") == html
