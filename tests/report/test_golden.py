"""Every page and table as a reader sees it, word for word.

`UNTRAIN_WRITE_GOLDEN=1 pytest tests/report` writes the files in golden/ anew; what changed is then read in the diff.
"""

import json
from pathlib import Path

import pytest

from helpers.example_audit import add_audits, write_example_audit
from helpers.example_comparison import METHODS, example_comparison, write_example_comparison
from helpers.example_generator import example_generator_comparison, write_example_generator
from helpers.example_run import write_example_run
from helpers.example_text import example_text_comparison, write_example_text
from helpers.foreign_results import Foreign, foreign_comparison, foreign_run
from helpers.golden import check_golden
from helpers.reading import presentation_of, reader_text
from untrain.report import Results, comparison_tables, run_table, write_report
from untrain.report.presentation import LOSSES

GOLDEN = Path(__file__).parent / "golden"
FEW = {name: METHODS[name] for name in ("sfron", "salun", "finetune", "bad-teacher")}


def dump(content):
    name = "comparison.json" if "forget_sets" in content else "evaluation.json"
    return lambda folder: (folder / name).write_text(json.dumps(content))


def write_unmeasured(folder):
    """A run as `untrain.unlearn(out=...)` leaves it: nothing was measured."""
    write_example_run(folder, methods=("sfron",), retrained=False, steps=20)
    (folder / "evaluation.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["models"]["original"]
    manifest["models"]["sfron"] |= {"seconds": 7.41, "clocks": {"fisher": 1.9, "steps": 5.51}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


EXAMPLES = {
    "classification": (write_example_run, "classification"),
    "classification_without_retrained": (lambda f: write_example_run(f, retrained=False), "classification"),
    "classification_of_a_class": (
        lambda f: write_example_run(f, methods=("sfron",), forgotten="Shirt", noise_floor=False), "classification"
    ),
    "class_diffusion": (write_example_generator, "class-diffusion"),
    "class_diffusion_without_retrained": (
        lambda f: write_example_generator(f, retrained=False, pictures=False, inception=True), "class-diffusion"
    ),
    "text_to_image": (lambda f: write_example_text(f, columns=2, tile=32), "text-to-image"),
    "nudity": (lambda f: write_example_text(f, kind="nudity", tile=32), "text-to-image"),
    "comparison": (lambda f: write_example_comparison(f, methods=FEW), "classification"),
    "comparison_of_two_sets": (
        lambda f: write_example_comparison(
            f, cells=False, methods=FEW, sets=("random-10", "class-Shirt"), seeds=1, references=0, trials=0, failed=()
        ),
        "classification",
    ),
    "comparison_of_class_diffusion": (dump(example_generator_comparison()), "class-diffusion"),
    "comparison_of_text_to_image": (dump(example_text_comparison()), "text-to-image"),
    "foreign_task": (dump(foreign_run()), Foreign()),
    "foreign_comparison": (dump(foreign_comparison()), Foreign()),
    "losses_alone": (
        dump({"models": {"original": {"forget_loss": 0.1, "retain_loss": 0.12}, "sfron": {"forget_loss": 0.4}}}), LOSSES
    ),
    "hardly_anything": (dump({"models": {"original": {"FA": 98.0}, "sfron": {"FA": 90.0}}}), "classification"),
    "hardly_anything_of_class_diffusion": (
        dump({"models": {"original": {"FA": 98.0},
                         "sfron": {"FA": 1.0, "FD": None, "missing": {"FD": "too few samples: raise n"}}}}),
        "class-diffusion",
    ),
    "hardly_anything_of_text_to_image": (
        dump({"models": {"original": {"FA": 98.0}, "sfron": {"FA": 1.0, "RA": None, "missing": {"RA": "no judge"}}},
              "detector": {"kind": "nudity"}}),
        "text-to-image",
    ),
    "hardly_anything_compared": (
        dump({"forget_sets": {"a": {"models": {"original": {"measures": {"FA": 98.0}},
                                               "sfron": {"measures": {"FA": 90.0}}}}}}),
        "classification",
    ),
    "audited": (lambda f: (write_example_run(f), write_example_audit(f)), "classification"),
    "audited_comparison": (
        dump(add_audits(example_comparison(methods=FEW, trials=0, failed=()))), "classification"
    ),
    "unmeasured": (write_unmeasured, "classification"),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_words_of_page_and_tables(tmp_path, name):
    write, task = EXAMPLES[name]
    folder = tmp_path / "example"
    folder.mkdir()
    write(folder)
    presentation = presentation_of(task) if isinstance(task, str) else task
    results = Results.read(folder)
    text = reader_text(write_report(results, presentation).read_text(encoding="utf-8"))
    if (own := folder / "audit/audit.html").exists():
        text += "\n" + reader_text(own.read_text(encoding="utf-8"))
    if results.compared:
        tables = comparison_tables(results, presentation)
        text += "\n" + "\n".join(tables[form] for form in ("txt", "md", "tex", "csv"))
    elif results.measured:
        table = run_table(results, presentation)
        text += "\n" + "\n".join([table.text(), table.markdown(), table.latex("Caption", "tab:label"), table.csv()])
    check_golden(GOLDEN / f"{name}.txt", text)
