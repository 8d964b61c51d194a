"""A real browser opens the pages: nothing on its console, every figure is drawn, nothing is cut off or runs."""

import html
import json
import os
import re
import shutil
import subprocess

import pytest
from PIL import Image

from helpers.example_comparison import METHODS, write_example_comparison
from helpers.example_generator import DIGITS, example_generator_comparison, write_example_generator
from helpers.example_run import FASHION, write_example_run
from helpers.example_text import example_text_comparison, write_example_text
from helpers.reading import write_page

EVIL = '<script>console.error("ran")</script>&"'
PROBE = """
<script>
const found = {figures: [], pictures: [], duplicates: [], dangling: [], cut: [], overflow: 0};
document.querySelectorAll("details").forEach(part => part.open = true);
const seen = new Set();
document.querySelectorAll("[id]").forEach(e => { if (seen.has(e.id)) found.duplicates.push(e.id); seen.add(e.id); });
document.querySelectorAll("figure svg").forEach(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll("path, use")].filter(e => e.getBoundingClientRect().width > 0).length;
  found.figures.push({id: svg.id, width: box.width, height: box.height, marks: marks});
  svg.querySelectorAll("text").forEach(text => {
    const at = text.getBoundingClientRect();
    if (at.left < box.left - 2 || at.right > box.right + 2 || at.top < box.top - 2 || at.bottom > box.bottom + 2)
      found.cut.push(svg.id + ": " + text.textContent);
  });
  svg.querySelectorAll("[clip-path], [href]").forEach(e => {
    const to = (e.getAttribute("href") || e.getAttribute("clip-path").slice(4, -1)).slice(1);
    if (!document.getElementById(to)) found.dangling.push(to);
  });
});
document.querySelectorAll("img").forEach(img => {
  const box = img.getBoundingClientRect();
  found.pictures.push({alt: img.alt, width: box.width,
    whole: img.complete && Math.abs(box.width * img.naturalHeight - box.height * img.naturalWidth) < 200});
});
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const out = document.createElement("pre");
out.id = "found";
out.textContent = JSON.stringify(found);
document.body.append(out);
console.log("probe done");
</script>
</body>"""


def browser():
    """The browser's path; without one the test fails, unless the environment says that there need not be any."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    if os.environ.get("UNTRAIN_NO_BROWSER"):
        pytest.skip("no Chromium on this machine, and UNTRAIN_NO_BROWSER is set")
    return pytest.fail("no Chromium found: install it, or set UNTRAIN_NO_BROWSER to go without this test")


PHONE = 390
"""Width of a common phone in CSS pixels."""
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body><iframe style="width: WIDTHpx; height: 800px"></iframe><script>
const frame = document.querySelector("iframe"), found = {overflow: 0, lost: [], scrolling: 0};
frame.onload = () => {
  const page = frame.contentDocument, width = page.documentElement.clientWidth;
  page.querySelectorAll("details").forEach(part => part.open = true);
  found.overflow = page.documentElement.scrollWidth - width;
  const hinted = e => e.closest('[tabindex="0"][role="region"][aria-label]');
  page.querySelectorAll("body *").forEach(e => {
    if (e.closest(".unseen, #verdict-title, svg *")) return;
    const scrolls = e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== "visible";
    if (scrolls) hinted(e) === e ? found.scrolling += 1 : found.lost.push(e.outerHTML.slice(0, 80));
    if (e.getBoundingClientRect().right > width + 1 && !hinted(e)) found.lost.push(e.outerHTML.slice(0, 80));
  });
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
};
frame.srcdoc = PAGE;
</script></body>"""


def run_browser(folder, *options):
    """What the browser prints, which must end well."""
    done = subprocess.run(
        [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}", *options],
        capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


def result_of(done):
    """What a page's script found."""
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)[1]))


def on_a_phone(folder, page):
    """What is cut off without a word on a narrow screen, and what scrolls."""
    script = json.dumps(page).replace("</", "<\\/").replace("<!--", "<\\!--")
    (folder / "phone.html").write_text(FRAME.replace("WIDTH", str(PHONE)).replace("PAGE;", f"{script};"))
    return result_of(run_browser(folder, "--dump-dom", (folder / "phone.html").as_uri()))


def opened(folder, page):
    """What the browser found in a page: figures, cut texts, doubled ids; keeps a screenshot beside it."""
    assert page.count("default-src 'none';") == page.count("</body>") == 1
    probed = page.replace("default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';")
    (folder / "probed.html").write_text(probed.replace("</body>", PROBE), encoding="utf-8")
    done = run_browser(
        folder, "--window-size=1000,2000", "--enable-logging=stderr", "--v=0", "--dump-dom",
        f"--screenshot={folder / 'screenshot.png'}", (folder / "probed.html").as_uri(),
    )  # fmt: skip
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(console) == 1, console  # the probe's own word, so the console was listened to, and no error beside it
    assert "probe done" in console[0]
    with Image.open(folder / "screenshot.png") as picture:
        assert picture.size == (1000, 2000)
        assert len(picture.getcolors(1 << 24)) > 50
    return result_of(done)


def check(found, expected):
    assert [figure["id"] for figure in found["figures"]] == expected
    for figure in found["figures"]:
        assert figure["width"] > 600, figure
        assert figure["height"] > 60, figure
        assert figure["marks"] > 3, figure
    assert found["duplicates"] == found["dangling"] == found["cut"] == []
    assert found["overflow"] <= 0


def test_browser_draws_every_figure_without_a_word_on_its_console(tmp_path):
    run = tmp_path / "run"
    write_example_run(run, methods=("finetune", "sfron", EVIL), classes=(EVIL, "$b_1$", "日本語"), layers=(EVIL, "x"))
    found = opened(tmp_path, write_page(run).read_text(encoding="utf-8"))
    expected = ["loss-curves", "accuracy-curves", *(f"class-accuracies-{i}" for i in range(3)), "loss-histograms"]
    check(found, [*expected, "mask-density-0", "mask-density-1", "time-bars"])


@pytest.mark.parametrize(
    "write", [write_example_run, write_example_comparison, write_example_generator, write_example_text]
)
def test_nothing_is_cut_off_on_a_phone_without_a_region_that_scrolls(tmp_path, write):
    write(tmp_path / "run")
    found = on_a_phone(tmp_path, write_page(tmp_path / "run").read_text(encoding="utf-8"))
    assert found["lost"] == []
    assert found["overflow"] <= 0
    assert found["scrolling"] >= 2  # the table of all models, and a figure


def test_the_report_of_a_run_is_six_sheets_at_most(tmp_path):
    write_example_run(tmp_path / "run")
    page = write_page(tmp_path / "run")
    run_browser(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}", page.as_uri())
    pages = len(re.findall(rb"/Type /Page\b", (tmp_path / "report.pdf").read_bytes()))
    assert 2 <= pages <= 6


COMPARED = ("forgetting", "distance", "times", "losses", "classes", "tuning")


@pytest.mark.parametrize(
    ("sets", "seeds", "references"),
    [(("random-10",), 3, 1), (("random-10", EVIL), 1, 0)],
    ids=["usual", "two sets, one seed"],
)
def test_browser_draws_every_figure_of_a_comparison(tmp_path, sets, seeds, references):
    methods = {**METHODS, EVIL: METHODS["salun"]}
    folder = tmp_path / "compared"
    classes = (*FASHION, EVIL, "$b_1$", "日本語")
    write_example_comparison(
        folder, cells=False, methods=methods, sets=sets, seeds=seeds, references=references, classes=classes
    )
    found = opened(tmp_path, write_page(folder).read_text(encoding="utf-8"))
    check(found, [f"{key}-{place}" for key in COMPARED for place in range(len(sets))])


def test_browser_shows_the_pictures_of_generators(tmp_path):
    run = tmp_path / "run"
    write_example_generator(run, methods=("salun", "sfron", "selective-amnesia"), classes=(*DIGITS[:8], EVIL, "日本語"))
    found = opened(tmp_path, write_page(run).read_text(encoding="utf-8"))
    check(found, ["loss-curves", *(f"mask-density-{i}" for i in range(3)), "time-bars"])
    assert len(found["pictures"]) == 3 * 10 * 3 + 3 * 10 * 6  # beside each other, and over the steps
    for picture in found["pictures"]:
        assert picture["whole"], picture
        assert picture["width"] >= 32, picture
        assert picture["alt"]


@pytest.mark.parametrize("kind", ["classifier", "nudity"])
def test_browser_shows_prompts_and_their_pictures(tmp_path, kind):
    run = tmp_path / "run"
    long = "a very long prompt, " * 15 + "w" * 200
    write_example_text(run, kind=kind, forgotten=(EVIL, "日本語"), retained=(long, "b"), tile=128)
    found = opened(tmp_path, write_page(run).read_text(encoding="utf-8"))
    check(found, ["loss-curves", "mask-density-0", "mask-density-1", "time-bars"])
    assert len(found["pictures"]) == 2 * 4 * 2
    for picture in found["pictures"]:
        assert picture["whole"], picture
        assert picture["width"] > 300, picture


@pytest.mark.parametrize("example", [example_generator_comparison, example_text_comparison])
def test_browser_opens_a_comparison_of_what_makes_images(tmp_path, example):
    folder = tmp_path / "compared"
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps(example()))
    check(opened(tmp_path, write_page(folder).read_text(encoding="utf-8")), [])
