"""The audit as readers see it: in the run's report, and on a page of its own."""

import json
import re

import pytest

from helpers.example_audit import FACTS, example_method, write_example_audit
from helpers.example_run import write_example_run
from helpers.reading import EVIL, Page, presentation_of
from untrain.errors import StaleFile
from untrain.report import write_report
from untrain.report.audit_file import read_audit
from untrain.sealed import read_sealed, write_sealed


@pytest.fixture
def run(tmp_path):
    write_example_run(tmp_path / "run", steps=3)
    return tmp_path / "run"


def pages_of(run):
    """The report and the audit's page, read as a browser would."""
    report = write_report(run, presentation_of("classification")).read_text(encoding="utf-8")
    return Page(report), Page((run / "audit/audit.html").read_text(encoding="utf-8"))


def test_the_pages_say_what_the_audit_found(run):
    write_example_audit(run)
    report, page = pages_of(run)
    for each in (report, page):
        assert "28 % (20 to 37 %) remains" in each.text.replace("\xa0", " "), "the verdict is a sentence"
        cells = [row for row in each.rows if row and row[0] in ("Told apart", "ε at least")]
        assert len(cells) == 4 and cells[0][1:] == ["0.568", "0.541 to 0.597", "0.500", "0.743"]
        assert "Any promise of forgetting with a smaller ε is refuted." in each.text
    assert "script" not in page.tags and "audit" in report.ids("section")
    assert ("a", "href", "./audit/audit.html") in report.attributes
    assert {"verdict", "limits", "card", "facts", "figure-0", "figure-3"} <= set(page.ids("section"))
    for words in ("Not tried: attacks on weights", FACTS["coins_sha256"], "13 min 32 s", "answer at random"):
        assert words in page.text
    assert "/somewhere/else" not in page.text, "no path of the machine that made it"


def test_every_kind_of_figure_is_drawn_with_its_words(run):
    write_example_audit(run)
    _, page = pages_of(run)
    alts = " ".join(value for tag, key, value in page.attributes if tag == "svg" and key == "aria-label")
    for words in ("original from", "retrained from", "overlap", "told apart original 0.7"):
        assert words in alts
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    images = [value for tag, key, value in page.attributes if (tag, key) == ("img", "src")]
    assert len(images) == 2 and all(image.startswith("data:image/png;base64,") for image in images)


def test_the_headline_of_averages_names_the_audits_verdict(run):
    write_example_run(run, methods=("sfron",), steps=3)
    presentation = presentation_of("classification")
    page = Page(write_report(run, presentation).read_text(encoding="utf-8"))
    assert "Averages alone were measured" in page.text and "untrain audit" in page.text
    write_example_audit(run)
    text = write_report(run, presentation).read_text(encoding="utf-8")
    (headline,) = re.findall(r'<p class="headline">(Much.*|Some.*|As close.*)</p>', text)
    assert "; audit: a trace is left, still known" in headline
    tones = re.findall(r'<div class="verdict (\w+)">', text)
    assert tones[0] == "partly" and "further" in tones, "averages beside a trace are no success"
    assert "Averages alone" not in text


def test_names_and_texts_are_escaped(run):
    content = write_example_audit(run)
    method = example_method("sfron")
    method["verdict"] |= {"sentence": EVIL, "remarks": [EVIL], "kind": EVIL, "subkind": EVIL}
    method["card"] = [dict.fromkeys(("name", "value", "interval", "target", "original", "meaning"), EVIL)]
    method["below"] = [EVIL]
    method["figures"]["roc"] |= {"title": EVIL, "caption": EVIL, "x": EVIL}
    method["figures"]["roc"]["lines"][0]["name"] = EVIL
    method["figures"]["back"]["rows"][0]["name"] = EVIL
    content |= {"methods": {EVIL: method}, "how": EVIL, "notes": [EVIL], "not_tried": [EVIL], EVIL: EVIL}
    write_sealed(run / "audit/audit.json", content)
    for each in pages_of(run):
        assert "script" not in each.tags and "alert(1)" in each.text


def test_an_audit_that_is_not_finished_says_so(run):
    write_example_audit(run, finished=False)
    report, page = pages_of(run)
    for each in (report, page):
        assert "not finished" in each.text and f"untrain audit {run} --resume" in each.text
    assert FACTS["coins_sha256"] in page.text, "the coins are known before anything is trained"


def test_a_damaged_audit_is_refused_by_name(run):
    write_example_audit(run)
    path = run / "audit/audit.json"
    path.write_text(path.read_text().replace("0.743", "0.543", 1))
    with pytest.raises(StaleFile, match=r"audit\.json is damaged"):
        pages_of(run)


def test_an_audit_of_other_models_is_not_shown(run):
    write_example_audit(run, models={"sfron": "another", "finetune": None, "gone": "mark"})
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["models"]["sfron"]["fingerprint"] = "one"
    (run / "manifest.json").write_text(json.dumps(manifest))
    report, page = pages_of(run)
    for each in (report, page):
        assert "audit.json is of other models" in each.text and "SFR-on was made anew" in each.text
        assert "remains" not in each.text


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("roc", {"kind": "spectrum"}),
        ("roc", {"lines": [{"name": "a", "x": [1.0, 2.0], "y": [1.0]}]}),
        ("scores", {"panels": [{"name": "a", "edges": [0.0, 1.0], "groups": {"forgotten": [1.0, 2.0]}}]}),
        ("attacks", {"rows": [{"name": "a", "groups": [{"role": "stranger", "values": [1.0]}]}]}),
        ("back", {"rows": [{"name": "a", "pictures": [{"file": "../../secret.png"}]}]}),
    ],
)
def test_figures_that_cannot_be_drawn_are_refused_by_name(run, name, change):
    content = write_example_audit(run)
    content["methods"]["sfron"]["figures"][name] |= change
    write_sealed(run / "audit/audit.json", content)
    with pytest.raises(StaleFile, match=f"audit.json.*'{name}'"):
        read_audit(run, {})


def test_a_picture_that_cannot_be_read_is_said(run):
    write_example_audit(run)
    (run / "audit/pictures/back.png").write_bytes(b"no picture")
    _, page = pages_of(run)
    assert "pictures/back.png cannot be read" in page.text


def test_a_run_without_an_audit_has_no_page_of_it(run):
    write_report(run, presentation_of("classification"))
    assert not (run / "audit").exists() and read_audit(run, {}) is None
    assert read_sealed(run / "audit/audit.json", "") is None
