"""A table for one of two columns fits it, holds what matters most, and names what it leaves out."""

import re

import pytest

from helpers.example_comparison import write_example_comparison
from helpers.example_generator import write_example_generator
from helpers.example_run import write_example_run
from helpers.example_text import write_example_text
from helpers.reading import EVIL, presentation_of
from untrain.cli import main
from untrain.report import Results, task_of
from untrain.report.latex import COLUMN, GAP, width_of
from untrain.report.tables import latex_tables

WRITERS = [write_example_run, write_example_comparison, write_example_generator, write_example_text]
CHARACTERS = COLUMN / 4.25
"""Digits of Computer Modern of 8 pt, 4.25 pt wide, that a column holds."""


def compact(folder):
    results = Results.read(folder)
    return latex_tables(results, presentation_of(task_of(folder)), "compact")


def cells_of(tex):
    """The rows of a table as read: without commands and braces, a row of small type apart."""
    body = tex.partition("\\toprule")[2].partition("\\bottomrule")[0]
    rows = [row.split(" & ") for row in body.replace("\\midrule", "").split("\\\\") if row.strip()]
    return [
        [re.sub(r"\\(?:bfseries|itshape|scriptsize)|\\[a-z]+\{?\}?|[{}$^]", "", c).strip() for c in row] for row in rows
    ]


@pytest.mark.parametrize("write", WRITERS)
def test_a_compact_table_fits_a_column(tmp_path, write):
    write(tmp_path / "run")
    tex = compact(tmp_path / "run")
    rows = cells_of(tex)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    assert sum(widths) + 2 * GAP * (len(widths) - 1) / 4.25 <= CHARACTERS
    assert "resizebox" not in tex
    assert "table*" not in tex
    assert tex.count("{") == tex.count("}")


def test_what_is_left_out_is_named_and_what_ranks_stays(tmp_path):
    write_example_comparison(tmp_path / "run")
    tex = compact(tmp_path / "run")
    head = cells_of(tex)[0]
    assert head[0] == "Model"
    assert {"FA", "TA", "Avg.D", "Time"} <= set(head)
    (absent,) = re.findall(r"Left out to fit the column: (.*)\.", tex)
    assert not set(absent.split(", ")) & set(head)


def test_names_are_escaped_and_cut(tmp_path):
    write_example_run(tmp_path / "run", methods=("sfron", EVIL * 3))
    tex = compact(tmp_path / "run")
    assert r"\dots{}" in tex
    assert r"\textless{}" in tex
    assert max(len(row[0]) for row in cells_of(tex)) < 20


def test_widths_are_those_of_the_font():
    """Of Computer Modern of 8 pt: an upright digit is 4.25 pt wide, a bold one 4.6; never less is reckoned with."""
    assert width_of("0123456789") >= 46.0
    assert width_of("95.08") <= 1.15 * (4 * 4.6 + 2.6)


@pytest.mark.parametrize("form", ["wide", "compact"])
def test_the_command_writes_the_table(tmp_path, capsys, form):
    write_example_run(tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--latex", form]) == 0
    path = tmp_path / "run" / "table.tex"
    assert str(path) in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    assert ("\\begin{table*}" in text) == (form == "wide")
    assert ("graphicx" in text) == (form == "wide")


def test_another_form_is_refused_by_name(tmp_path, capsys):
    write_example_run(tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--latex", "tiny"]) == 1
    assert "'tiny'" in capsys.readouterr().err
