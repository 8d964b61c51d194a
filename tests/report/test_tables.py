"""The comparison table shows the evaluation's numbers and nothing else; the verdict follows from them."""

import csv
import io
import math

import pytest
from rich.console import Console

from helpers.example_run import write_example_run
from untrain.errors import UntrainError
from untrain.report import comparison_table, verdict
from untrain.report.tables import duration, share, show


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
    table = comparison_table(example)
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
    rows = {row["model"]: row for row in csv.DictReader(io.StringIO(comparison_table(example).csv()))}
    assert float(rows["sfron"]["KL"]) == 0.12345678901234567
    assert rows["original"]["seconds"] == ""
    assert rows["retrained"]["AvgD"] == ""


def test_every_form_of_the_table_says_the_same(tmp_path):
    table = comparison_table(write_example_run(tmp_path))
    forms = [rendered(table), table.text(), table.markdown(), table.html()]
    for form in forms:
        for row in table.rows:
            assert row.label in form
            for cell in row.cells:
                assert cell.text in form
                assert all(line in form for line in cell.small)
    assert "\x1b" not in table.text()


def test_table_fits_a_terminal_of_80_columns(tmp_path):
    assert max(map(len, comparison_table(write_example_run(tmp_path)).text().splitlines())) <= 80


def test_closest_method_is_the_one_with_the_smallest_distance(tmp_path):
    example = write_example_run(tmp_path, methods=("finetune", "sfron"))
    marked = [row.name for row in comparison_table(example).rows if row.closest]
    assert marked == ["sfron"]  # neither retrained-2, which is no method, nor finetune
    example["models"]["finetune"]["AvgD"] = 0.5
    assert [row.name for row in comparison_table(example).rows if row.closest] == ["finetune"]
    for model in example["models"].values():
        model["AvgD"] = None
    assert not any(row.closest for row in comparison_table(example).rows)


def test_missing_values_are_dashes_with_their_reason_once():
    example = evaluation(4.0, 1.0)
    example["models"]["original"] |= {"KL": None, "JS": None, "missing": {"KL": "too big", "JS": "too big"}}
    example["models"]["sfron"]["MIA"] = math.nan
    table = comparison_table(example)
    cells = {m.key: cell for m, cell in zip(table.measures, table.rows[0].cells)}
    assert cells["KL"].text == cells["JS"].text == "—"
    assert cells["KL"].note == cells["JS"].note
    assert table.notes[cells["KL"].note - 1] == "too big"
    sfron = {m.key: cell for m, cell in zip(table.measures, table.rows[2].cells)}
    assert sfron["MIA"].text == "—"
    assert "not finite" in table.notes[sfron["MIA"].note - 1]


def test_measures_beyond_the_known_ones_are_shown_and_class_accuracy_only_if_there():
    example = evaluation(4.0, 1.0, SVC_MIA=33.25)
    keys = [m.key for m in comparison_table(example).measures]
    assert keys[-1] == "SVC_MIA"
    assert "forgotten_TA" not in keys
    example["models"]["sfron"]["forgotten_TA"] = 0.4
    assert "forgotten_TA" in [m.key for m in comparison_table(example).measures]


def test_names_are_not_read_as_markup():
    example = evaluation(4.0, 1.0)
    evil = '[red]</td><script>x|*"'
    example["models"][evil] = example["models"].pop("sfron")
    table = comparison_table(example)
    assert evil in rendered(table)
    assert "<script>" not in table.html()
    assert "&lt;script&gt;" in table.html()
    assert "\\<script\\>x\\|\\*" in table.markdown()


@pytest.mark.parametrize("broken", [{}, {"models": {}}, {"models": [1]}, {"models": None}])
def test_an_evaluation_without_models_is_an_error(broken):
    with pytest.raises(UntrainError, match="holds no model"):
        comparison_table(broken)


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (1.234, 2, "1.23"),
        (-0.5, 2, "−0.50"),
        (0, 2, "0.00"),
        (0.0004, 3, "4.0e−04"),
        (-1e-18, 2, "0.00"),
        (12345.6, 1, "12\u2009345.6"),
    ],
)
def test_numbers_as_shown(value, digits, text):
    assert show(value, digits) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.50 s"), (61.4, "61.4 s"), (119.94, "119.9 s"), (120, "2 min 00 s"), (3599.6, "60 min 00 s"),
     (7199.4, "119 min 59 s"), (7200, "2 h 00 min"), (90_061, "25 h 01 min")],
)  # fmt: skip
def test_durations_as_shown(seconds, text):
    assert duration(seconds) == text


def test_shares_as_shown():
    assert [share(1, 100), share(12, 100), share(3, 1)] == ["1.0 %", "12 %", "300 %"]


# The verdict.


@pytest.mark.parametrize(
    ("before", "after", "floor", "kind"),
    [
        (3.96, 0.3, 0.4, "within"),
        (3.96, 0.4, 0.4, "within"),
        (3.96, 1.5, 0.4, "closer"),
        (3.96, 1.98, None, "closer"),  # exactly half
        (3.96, 2.5, 0.4, "partly"),
        (3.96, 3.74, 0.4, "none"),
        (3.96, 3.6, None, "none"),  # less than a tenth
        (3.96, 4.2, 0.4, "none"),
        (3.96, 5.0, 0.4, "further"),
        (0.3, 2.0, 0.4, "further"),
        (0.3, 0.2, 0.4, "unknown"),  # the original cannot be told from retraining: nothing to show
        (0.0, 0.0, None, "none"),
        (2.0, 1.0, 0.0, "closer"),
    ],
)
def test_kind_of_verdict(before, after, floor, kind):
    said = verdict(evaluation(before, after, floor=floor))
    assert said.kind == kind
    assert said.method == "sfron"
    assert said.headline


def test_sentence_of_success_names_distance_floor_and_time():
    assert verdict(evaluation(3.96, 1.5, floor=0.4)).sentence == (
        "SFR-on brought the model from an average distance of 3.96 points to the retrained model down to 1.50, "
        "still 3.8 times the noise floor of 0.40, in 12 % of the retraining time."
    )
    assert "close to the noise floor of 0.40, not within it" in verdict(evaluation(3.96, 0.5, floor=0.4)).sentence
    assert "within the noise floor of 0.40" in verdict(evaluation(3.96, 0.3, floor=0.4)).sentence
    without = verdict(evaluation(3.96, 1.5))
    assert without.sentence.endswith("down to 1.50 in 12 % of the retraining time.")
    assert any("noise floor is unknown" in remark for remark in without.remarks)


def test_sentences_of_failure_are_plain():
    assert verdict(evaluation(3.96, 3.74, floor=0.4)).sentence == (
        "SFR-on had no visible effect: the average distance to the retrained model was 3.96 points before and 3.74 "
        "after, a change no larger than the noise floor, in 12 % of the retraining time."
    )
    assert verdict(evaluation(3.96, 5.0, seconds=(10.0, 25.0))).sentence == (
        "SFR-on left the model further from the retrained model than the original was: an average distance of 5.00 "
        "points, against 3.96 before, in 2.5 times the retraining time."
    )


def test_unknown_time_is_left_out():
    assert verdict(evaluation(4.0, 1.0, seconds=(None, 12.0))).sentence.endswith("down to 1.00.")
    assert verdict(evaluation(4.0, 1.0, seconds=(0.0, 12.0))).sentence.endswith("down to 1.00.")


def test_without_a_retrained_model_nothing_is_judged(tmp_path):
    example = evaluation(None, None)
    del example["models"]["retrained"]
    said = verdict(example)
    assert said.kind == "unknown"
    assert said.sentence.startswith("How far SFR-on forgot cannot be judged: no model was retrained")
    assert "from 98.00 % to 90.00 % (SFR-on)" in said.remarks[0]
    several = verdict(write_example_run(tmp_path, retrained=False))
    assert several.sentence.startswith("How far each method forgot cannot be judged")
    assert several.method is None


def test_distance_that_is_missing_gives_its_reason():
    example = evaluation(4.0, None, missing={"AvgD": "MIA needs two classes."})
    assert verdict(example).sentence.endswith("is not known (MIA needs two classes).")
    example = evaluation(math.inf, 1.0)
    assert "where it began is not known" in verdict(example).sentence


def test_without_a_method_there_is_nothing_to_judge():
    example = evaluation(4.0, 1.0)
    del example["models"]["sfron"]
    said = verdict(example)
    assert said.method is None
    assert said.sentence.endswith("at an average distance of 4.00 points to the retrained model.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"FA": 80.0}, "forgot more than retraining would"),
        ({"FA": 95.0}, "still recognises more of the forget set"),
        ({"TA": 88.0}, "worse on new images"),
        ({"RA": 95.0}, "recognises less of what should be kept"),
    ],
)
def test_what_one_side_pays_is_said(changes, words):
    assert not any(words in remark for remark in verdict(evaluation(4.0, 1.0)).remarks)
    assert any(words in remark for remark in verdict(evaluation(4.0, 1.0, **changes)).remarks)


def test_the_verdict_is_about_the_closest_method_and_names_the_others():
    example = evaluation(4.0, 2.0, floor=0.4)
    example["models"]["finetune"] = {"AvgD": 1.5}
    said = verdict(example)
    assert said.method == "finetune"
    assert said.sentence.startswith("finetune brought")
    assert "Other methods ended at 2.00 (SFR-on)." in said.remarks
    assert not any("could be chance" in remark for remark in said.remarks)
    example["models"]["finetune"]["AvgD"] = 1.8
    assert any("could be chance" in remark for remark in verdict(example).remarks)


def test_svc_attacks_are_shown_only_where_they_were_made():
    example = evaluation(4.0, 1.0)
    assert not any("SVC" in m.name for m in comparison_table(example).measures)
    example["models"]["retrained"]["SVC_confidence"] = 60.0
    example["models"]["sfron"]["SVC_confidence"] = 62.5
    table = comparison_table(example)
    place = [m.name for m in table.measures].index("SVC-MIA (confidence)")
    assert [row.cells[place].text for row in table.rows] == ["—", "60.00", "62.50"]
    assert table.rows[2].cells[place].small == ("+2.50",)
