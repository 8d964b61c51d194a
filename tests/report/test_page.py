"""The page is made of the run folder's files alone, whole, self-contained, and says what is missing."""

import json
import os
import re
import time

import pytest

from helpers.example_run import FASHION, write_example_run
from helpers.reading import EVIL, Page, page_of, write_page, written
from untrain.errors import FolderError, UntrainError
from untrain.report import Results

SECTIONS = ["verdict", "limits", "comparison", "measures", "curves", "classes", "losses", "mask", "times", "settings"]


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return written(tmp_path_factory.mktemp("run"), write_example_run)


def test_all_sections_and_figures_are_there(example):
    page = Page(example[2])
    assert page.ids("section") == SECTIONS
    figures = ["loss-curves", "accuracy-curves", "class-accuracies-0", "class-accuracies-1", "loss-histograms"]
    figures += ["mask-density-0", "time-bars"]
    assert page.ids("svg") == figures
    assert page.tags.count("figure") == page.tags.count("figcaption") == len(figures)
    labels = [value for tag, key, value in page.attributes if (tag, key) == ("svg", "aria-label")]
    assert len(labels) == len(figures)
    assert all(len(label) > 30 for label in labels)
    assert 'class="missing"' not in example[2]


def test_every_id_is_unique(example):
    ids = [value for _, key, value in Page(example[2]).attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_numbers_of_the_table_are_those_of_the_file(example):
    folder, _, html = example
    models = json.loads((folder / "evaluation.json").read_text())["models"]
    rows = Page(html).rows
    columns = ["FA", "RA", "TA", "MIA", "AvgD", "ToW", "KL", "JS"]
    assert rows[0] == ["Model", "FA", "RA", "TA", "MIA", "Avg.D", "ToW", "KL", "JS", "Time"]
    names = ["original", "retrained", "retrained-2", "finetune", "SFR-on"]
    assert [row[0] for row in rows[1:6]] == names
    for row, values in zip(rows[1:6], models.values()):
        for key, text in zip(columns, row[1:]):
            assert text == ("—" if values[key] is None else f"{values[key]:.{2 if columns.index(key) < 5 else 3}f}")


def test_page_holds_settings_hashes_notes_and_recipe(example):
    folder, _, html = example
    manifest = json.loads((folder / "manifest.json").read_text())
    text = Page(html).text.replace("\u00a0", " ")
    for value in (manifest["data"]["hash"], manifest["split"]["hash"], manifest["models"]["sfron"]["hash"]):
        assert value in text
    assert "optimizer.lr 0.1" in text
    assert "lr 0.1 was read from the optimiser in the checkpoint" in text
    assert "torch 2.6.0" in text
    assert "method: sfron" in text


def test_nothing_is_loaded_and_nothing_runs(example):
    page = Page(example[2])
    assert not {"script", "link", "iframe", "object", "embed", "img", "image", "base", "form"} & set(page.tags)
    for tag, key, value in page.attributes:
        assert not key.startswith("on"), (tag, key)
        if key in ("src", "href", "xlink:href", "data", "srcset", "action"):
            assert value.startswith("#"), (tag, key, value)
    assert not re.search(r"@import|url\((?!#)", example[2])
    assert "http://" not in example[2]
    assert "https://" not in example[2]
    assert "default-src 'none'" in example[2]


def test_it_is_the_same_when_made_again(example):
    folder, _, html = example
    assert write_page(folder).read_text(encoding="utf-8") == html
    assert not list(folder.glob(".report*"))


def test_names_from_the_data_are_escaped_everywhere(tmp_path):
    write_example_run(tmp_path, methods=(EVIL, "sfron"), classes=(EVIL, "$b_1$"), layers=(EVIL, "x"), forgotten=EVIL)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["models"]["sfron"] |= {"settings": {EVIL: EVIL}, "notes": [EVIL], "method": EVIL}
    manifest |= {"untrain": EVIL, "created": EVIL, "device": EVIL, "versions": {EVIL: EVIL}, "data": {"name": EVIL}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    evaluation["settings"] = {EVIL: [EVIL]}
    evaluation["models"]["original"]["missing"] = {"seconds": EVIL}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "config.yaml").write_text(EVIL)
    page = page_of(tmp_path)
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 15
    shown = [value for tag, key, value in page.attributes if (tag, key) == ("svg", "aria-label")]
    assert any(EVIL in value for value in shown)


def test_what_is_missing_is_said_where_it_is_missed(tmp_path):
    models = {"original": {"FA": 98.0}, "sfron": {"FA": 90.0}}
    (tmp_path / "evaluation.json").write_text(json.dumps({"models": models}))
    page = page_of(tmp_path)
    assert page.ids("section") == SECTIONS
    assert "svg" not in page.tags
    for name in ("evaluation.json", "history.jsonl", "manifest.json", "config.yaml"):
        assert name in page.text, name
    assert [value for _, key, value in page.attributes if (key, value) == ("class", "missing")] == ["missing"] * 7


def test_values_that_are_null_or_not_finite_or_of_the_wrong_kind(tmp_path):
    evaluation = write_example_run(tmp_path, classes=("a", "b"), steps=5)
    sfron = evaluation["models"]["sfron"]
    for junk in (None, float("nan"), float("inf"), -float("inf"), "text", [], {}, True, 10**400):
        evaluation["models"]["sfron"] = dict.fromkeys(sfron, junk)
        changed = {**evaluation, "noise_floor": junk, "settings": junk, "classes": junk, "sizes": junk}
        (tmp_path / "evaluation.json").write_text(json.dumps(changed))
        (tmp_path / "history.jsonl").write_text(json.dumps({"model": "sfron", "step": 1, "forget_loss": junk}))
        page = page_of(tmp_path)
        assert page.ids("section") == SECTIONS
        assert page.rows[5][0] == "SFR-on"
        assert set(page.rows[5][1:]) == {"—"}


@pytest.mark.parametrize("junk", [None, 3, "x", [], {"models": 3}, {"models": {"sfron": {"mask": {"layers": [1]}}}}])
def test_manifest_of_any_shape(tmp_path, junk):
    write_example_run(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(junk))
    if isinstance(junk, dict):
        assert page_of(tmp_path).ids("section") == SECTIONS
    else:
        with pytest.raises(UntrainError, match=r"manifest\.json must hold one JSON object"):
            write_page(tmp_path)


@pytest.mark.parametrize("classes", [2, 1000])
def test_few_and_many_classes(tmp_path, classes):
    names = tuple(f"class {i}" for i in range(classes))
    evaluation = write_example_run(tmp_path, methods=("sfron",), classes=names)
    evaluation["models"]["sfron"]["by_class"]["RA"]["class 1"] = 0.0  # the furthest from its target
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(tmp_path)
    drawn = [word for word in page.words if re.fullmatch(r"class \d+", word)]
    assert len(drawn) == min(classes, 30)
    assert "class 1" in drawn
    assert ("Shown are the 30 of 1,000 classes" in page.text) == (classes == 1000)


def test_twelve_methods(tmp_path):
    methods = tuple(f"method {i}" for i in range(12))
    write_example_run(tmp_path, methods=methods, classes=FASHION[:2], steps=20)
    page = page_of(tmp_path)
    assert len([i for i in page.ids("svg") if i.startswith("class-accuracies-")]) == 6
    assert [row[0] for row in page.rows if row[0].startswith("method")] == list(methods)
    assert "Not drawn, being further from the retrained model: method 6" in page.text


def test_long_history_is_read_fast_and_a_cut_line_is_left_out(tmp_path):
    write_example_run(tmp_path, methods=("sfron",), classes=("a", "b"))
    line = '{"model": "sfron", "step": %d, "forget_loss": 1.5, "retain_loss": 0.5, "lr": 0.1}\n'
    (tmp_path / "history.jsonl").write_text("".join(line % k for k in range(100_000)) + '{"model": "sfr')
    began = time.process_time()
    page = page_of(tmp_path)
    assert time.process_time() - began < 20  # about two seconds
    assert "1 unreadable lines of history.jsonl were left out" in page.text
    assert "Long runs are thinned out to 500 points" in page.text


def test_a_resumed_run_repeats_no_step(tmp_path):
    write_example_run(tmp_path, methods=("sfron",))
    steps = [0, 1, 2, 3, 4, 2, 3, 4, 5]  # killed after step 4, resumed from a checkpoint before step 2
    lines = [{"model": "sfron", "step": k, "forget_loss": float(i), "skipped": k == 3} for i, k in enumerate(steps)]
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    curves = Results.read(tmp_path).history["sfron"]
    assert curves.series["forget_loss"].steps == [0, 1, 2, 3, 4, 5]
    assert curves.series["forget_loss"].values == [0.0, 1.0, 5.0, 6.0, 7.0, 8.0]
    assert curves.skipped == [3]


def test_time_beside_fisher_and_steps_is_shown(tmp_path):
    evaluation = write_example_run(tmp_path)
    evaluation["models"]["sfron"]["clocks"] = {"fisher": 1.0, "steps": 2.0}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(tmp_path)
    assert "everything else" in page.text
    assert "7.41 s  ·  12 % of retraining" in page.words


def test_missing_evaluation_names_file_and_command(tmp_path):
    with pytest.raises(UntrainError, match=r"evaluation\.json.*untrain evaluate"):
        write_page(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"models": {}}', '{"models": 3}'])
def test_unusable_evaluation_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(UntrainError, match=r"evaluation\.json"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FolderError, match="nowhere"):
        write_page(tmp_path / "nowhere")


def test_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    write_example_run(tmp_path)
    (tmp_path / "report.html").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FolderError, match="No space left on device"):
        write_page(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert not list(tmp_path.glob(".report*"))


def test_histograms_that_do_not_fit_are_left_out_and_named(tmp_path):
    evaluation = write_example_run(tmp_path)
    models = evaluation["models"]
    models["finetune"]["losses"]["edges"] = [0.0, 1.0]
    models["original"]["losses"]["edges"][-1] = float("inf")  # an open last bin is fine
    models["sfron"]["losses"]["forget"] = [1, 1, 1]
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(tmp_path)
    assert "Without histogram: finetune." in page.text
    titles = [word.strip() for word in page.words if re.match(r"\s*(original|SFR-on|retrained)( ·|$)", word)]
    assert "SFR-on" in titles  # without its forget set there is no overlap to tell
    assert any(title.startswith("original · overlap") for title in titles)
