"""The comparison table shows the evaluation's numbers and nothing else; the verdict follows from them."""

import csv
import io
import math

import pytest
from rich.console import Console

from helpers.example_run import write_example_run
from helpers.reading import table_of
from untrain.errors import UntrainError


def evaluation(before, after, *, floor=None, seconds=(100.0, 12.0), **changes):
    """An original, a retrained model and SFR-on at these distances."""
    base = {"FA": 90.0, "RA": 99.0, "TA": 91.0, "MIA": 70.0}
    models = {
        "original": {**base, "FA": 98.0, "AvgD": before, "seconds": None},
        "retrained": {**base, "AvgD": None, "seconds": seconds[0]},
        "sfron": {**base, "AvgD": after, "seconds": seconds[1], **changes},
    }
    return {"models": models, "noise_floor": None if floor is None else {"AvgD": floor}}


def rendered(table, width=200):
    console = Console(width=width, color_system=None, file=io.StringIO())
    console.print(table.rich())
    return console.file.getvalue()


def test_table_shows_every_number_of_the_evaluation(tmp_path):
    example = write_example_run(tmp_path)
    table = table_of(example)
    by_name = {row.name: row for row in table.rows}
    assert list(by_name) == [*example["models"], "noise floor"]
    checked = 0
    for name, values in example["models"].items():
        for measure, cell in zip(table.measures, by_name[name].cells):
            assert cell.value == values[measure.key]
            if cell.value is not None and measure.key != "seconds":
                shown = float(cell.text.replace("−", "-"))
                assert shown == pytest.approx(values[measure.key], abs=0.5 * 10**-measure.digits + 1e-12)
                checked += 1
    assert checked == 5 * 8 - 4  # five models, eight measures, four of them not for the target itself


def test_csv_keeps_full_precision_and_leaves_missing_values_empty(tmp_path):
    example = write_example_run(tmp_path)
    example["models"]["sfron"]["KL"] = 0.12345678901234567
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(table_of(example).csv()))}
    assert float(rows["sfron"]["KL"]) == 0.12345678901234567
    assert rows["original"]["seconds"] == ""
    assert rows["retrained"]["AvgD"] == ""


def test_every_form_of_the_table_says_the_same(tmp_path):
    table = table_of(write_example_run(tmp_path))
    forms = [rendered(table), table.text(), table.markdown(), table.html()]
    for form in forms:
        for row in table.rows:
            assert row.label in form
            for cell in row.cells:
                assert cell.text in form
                assert all(line in form for line in cell.small)
    assert "\x1b" not in table.text()


def test_table_fits_a_terminal_of_80_columns(tmp_path):
    assert max(map(len, table_of(write_example_run(tmp_path)).text().splitlines())) <= 80


def test_closest_method_is_the_one_with_the_smallest_distance(tmp_path):
    example = write_example_run(tmp_path, methods=("finetune", "sfron"))
    marked = [row.name for row in table_of(example).rows if row.closest]
    assert marked == ["sfron"]  # neither retrained-2, which is no method, nor finetune
    example["models"]["finetune"]["AvgD"] = 0.5
    assert [row.name for row in table_of(example).rows if row.closest] == ["finetune"]
    for model in example["models"].values():
        model["AvgD"] = None
    assert not any(row.closest for row in table_of(example).rows)


def test_missing_values_are_dashes_with_their_reason_once():
    example = evaluation(4.0, 1.0)
    example["models"]["original"] |= {"KL": None, "JS": None, "missing": {"KL": "too big", "JS": "too big"}}
    example["models"]["sfron"]["MIA"] = math.nan
    table = table_of(example)
    cells = {m.key: cell for m, cell in zip(table.measures, table.rows[0].cells)}
    assert cells["KL"].text == cells["JS"].text == "—"
    assert cells["KL"].note == cells["JS"].note
    assert table.notes[cells["KL"].note - 1] == "too big"
    sfron = {m.key: cell for m, cell in zip(table.measures, table.rows[2].cells)}
    assert sfron["MIA"].text == "—"
    assert "not finite" in table.notes[sfron["MIA"].note - 1]


def test_measures_beyond_the_known_ones_are_shown_and_class_accuracy_only_if_there():
    example = evaluation(4.0, 1.0, SVC_MIA=33.25)
    keys = [m.key for m in table_of(example).measures]
    assert keys[-1] == "SVC_MIA"
    assert "forgotten_TA" not in keys
    example["models"]["sfron"]["forgotten_TA"] = 0.4
    assert "forgotten_TA" in [m.key for m in table_of(example).measures]


def test_names_are_not_read_as_markup():
    example = evaluation(4.0, 1.0)
    evil = '[red]</td><script>x|*"'
    example["models"][evil] = example["models"].pop("sfron")
    table = table_of(example)
    assert evil in rendered(table)
    assert "<script>" not in table.html()
    assert "&lt;script&gt;" in table.html()
    assert "\\<script\\>x\\|\\*" in table.markdown()


@pytest.mark.parametrize("broken", [{}, {"models": {}}, {"models": [1]}, {"models": None}])
def test_an_evaluation_without_models_is_an_error(broken):
    with pytest.raises(UntrainError, match="holds no model"):
        table_of(broken)


def test_svc_attacks_are_shown_only_where_they_were_made():
    example = evaluation(4.0, 1.0)
    assert not any("SVC" in m.name for m in table_of(example).measures)
    example["models"]["retrained"]["SVC_confidence"] = 60.0
    example["models"]["sfron"]["SVC_confidence"] = 62.5
    table = table_of(example)
    place = [m.name for m in table.measures].index("SVC-MIA (confidence)")
    assert [row.cells[place].text for row in table.rows] == ["—", "60.00", "62.50"]
    assert table.rows[2].cells[place].small == ("+2.50",)
