"""The tables of a comparison show its numbers and nothing else, in every form; what failed is said."""

import csv
import io
import json
import math
import re

import pytest

from helpers.example_comparison import METHODS, example_comparison, stat
from helpers.reading import presentation_of, results_of, tables_of, terminal_of
from untrain.errors import UntrainError
from untrain.report.latex import escape_latex
from untrain.report.tables import further_table, main_table

EVIL = 'a_b&50%$x^~#{}\\|<i>"*'

BOUNDS = {**dict.fromkeys(("FA", "RA", "TA", "MIA", "SVC_confidence", "SVC_entropy"), (0, 100)), "ToW": (0, 1)}
"""Between which a measure lies; the others are at least 0."""


def small():
    """Two methods and three seeds; one seed of one method failed."""

    def model(role, fa, distance, seconds, rank=None, failed=None):
        states = [(s, "failed" if s == failed else "done") for s in range(3)]
        cells = [{"seed": s, "state": state, "error": "out of memory" if s == failed else None} for s, state in states]
        measures = {"FA": stat(fa, [90.0, 91.0, 92.0]), "AvgD": stat(distance), "seconds": stat(seconds)}
        if role == "method":
            measures["speedup"] = stat([None if s is None else 60.0 / s for s in seconds])
        return {"role": role, "cells": cells, "measures": measures, "rank": {"AvgD": rank}}

    none = [None, None, None]
    models = {
        "ssd": model("method", [80.0, None, 84.0], [3.0, None, 5.0], [2.0, None, 2.0], failed=1),
        "sfron": model("method", [90.5, 92.5, 93.0], [1.0, 1.25, 1.5], [6.0, 6.0, 7.5], {"rank": 1, "tied": False}),
        "retrained": model("target", [90.0, 91.0, 92.0], none, [60.0, 60.0, 60.0]),
        "original": model("original", [98.0, 99.0, 100.0], [4.0, 4.0, 4.0], none),
    }
    floor = {"AvgD": {"mean": 0.5, "std": 0.25, "values": [0.25, 0.5, 0.75]}}
    one = {"sizes": {"forget": 10, "retain": 90}, "noise_floor": floor, "models": models}
    return {"name": "mine", "seeds": [0, 1, 2], "forget_sets": {"few": one}}


TEXT = """\
mine, forget set few, 10 of 100 samples, 3 seeds

                              FA          Avg.D
 model        #                %         points           Time
 ─────────────────────────────────────────────────────────────
 original           99.00 ± 1.00    4.00 ± 0.00              —
                           +8.00   [4.00, 4.00]
                 [96.52, 100.00]
 retrained          91.00 ± 1.00              —   60.0 s ± 0.0
                  [88.52, 93.48]                  [60.0, 60.0]
 noise floor                        0.50 ± 0.25
 SFR-on *     1     92.00 ± 1.32    1.25 ± 0.25  6.50 s ± 0.87
                           +1.00   [0.63, 1.87]   [4.35, 8.65]
                  [88.71, 95.29]                          9.3×
 SSD¹         —     82.00 ± 2.83    4.00 ± 1.41  2.00 s ± 0.00
                           −9.00  [0.00, 16.71]   [2.00, 2.00]
                 [56.59, 100.00]         2 of 3          30.0×
                          2 of 3                        2 of 3
the target is retrained; under the values: the difference to it, [95 % confidence interval of the mean], \
how many times faster than retraining
all intervals are from fewer than five seeds: read them with care
* the closest to it by Avg.D
¹ SSD: seed 1 failed: out of memory.
"""


def test_text_of_a_small_comparison():
    assert tables_of(small())["txt"].splitlines() == TEXT.splitlines()


def main_of(content):
    """The main table of the first forget set."""
    results = results_of(content)
    return main_table(results.sets[0], results, presentation_of("classification"))


def rows_of(tables):
    return list(csv.DictReader(io.StringIO(tables["csv"])))


def test_csv_has_every_value_unrounded():
    content = example_comparison(sets=("a", "b"))
    content["forget_sets"]["a"]["models"]["salun"]["measures"]["KL"]["mean"] = 0.12345678901234567
    rows = rows_of(tables_of(content))
    assert list(rows[0]) == [
        "forget_set", "model", "measure", "n", "mean", "std", "ci_low", "ci_high", "difference", "rank", "tied", "few",
    ]  # fmt: skip
    found = {(row["forget_set"], row["model"], row["measure"]): row for row in rows}
    expected = 0
    for name, one in content["forget_sets"].items():
        for model, values in one["models"].items():
            for key, measure in values["measures"].items():
                row, rank = found[name, model, key], values["rank"].get(key)
                low, high = BOUNDS.get(key, (0, math.inf))
                ends = [min(max(end, low), high) for end in measure["ci95"]] if measure["ci95"] else [None, None]
                given = [measure["mean"], measure["std"], *ends, measure["difference"]]
                shown = [row[k] for k in ("mean", "std", "ci_low", "ci_high", "difference")]
                assert [float(text) if text else None for text in shown] == given
                assert row["n"] == str(measure["n"])
                assert row["few"] == "true"
                assert (row["rank"], row["tied"]) == (
                    (str(rank["rank"]), str(rank["tied"]).lower()) if rank else ("", "")
                )
                expected += 1
        for key, measure in one["noise_floor"].items():
            assert float(found[name, "noise floor", key]["mean"]) == measure["mean"]
            expected += 1
    assert len(rows) == expected


def test_methods_stand_in_order_of_rank_and_the_unranked_last():
    content = example_comparison()
    one, presentation = results_of(content).sets[0], presentation_of("classification")
    names = [row.name for row in main_of(content).rows]
    assert names[:4] == ["original", "retrained", "retrained-2", "noise floor"]
    assert names[-1] == "bad-teacher"
    means = [entry.mean("AvgD") for entry in presentation.order(one)[:-1]]
    assert means == sorted(means)
    assert set(names[4:]) == set(METHODS)


def test_ties_are_marked_and_all_of_the_first_are_closest():
    content = example_comparison()
    models = content["forget_sets"]["random-10"]["models"]
    rows = {row.name: row for row in main_of(content).rows}
    for name in METHODS:
        rank = models[name]["rank"]["AvgD"]
        assert rows[name].rank == ("—" if rank is None else f"{rank['rank']}{'=' * rank['tied']}")
        assert rows[name].closest == (rank is not None and rank["rank"] == 1)
    assert sum(row.closest for row in rows.values()) == 2
    text = tables_of(content)["txt"]
    assert "= methods that the noise floor cannot tell apart" in text
    assert re.search(r"^ SFR-on \* +1=", text, re.MULTILINE)
    assert "rank 1=" in text  # by KL


def test_failed_cells_are_said_in_every_form_and_not_averaged():
    tables = tables_of(small())
    for kind in ("txt", "md", "tex"):
        assert "2 of 3" in tables[kind]
        assert "SSD: seed 1 failed: out of memory." in tables[kind]
    row = next(r for r in rows_of(tables) if (r["model"], r["measure"]) == ("ssd", "FA"))
    assert (row["n"], float(row["mean"]), row["rank"]) == ("2", 82.0, "")
    content = small()
    for cell in content["forget_sets"]["few"]["models"]["ssd"]["cells"]:
        cell |= {"state": "missing", "error": None}
    content["forget_sets"]["few"]["models"]["ssd"]["measures"] = {}
    text = tables_of(content)["txt"]
    assert "0 of 3" in text
    assert "¹ SSD: seed 0 was not run; seed 1 was not run; seed 2 was not run." in text


def test_single_intervals_are_flagged_where_others_are_not():
    text = tables_of(example_comparison(seeds=5))["txt"]  # one method lost a seed: four are few
    row = re.search(r"^ bad-teacher.*?^the target", text, re.MULTILINE | re.DOTALL)[0]
    assert row.count("]†") == 8
    assert text.count("†") == 8 + 3 + 2  # its three further measures, and a line under each table
    assert "† from fewer than five seeds" in text


def test_a_single_seed_has_neither_spread_nor_interval():
    tables = tables_of(example_comparison(seeds=1, failed=()))
    assert "1 seed\n" in tables["txt"]
    model_rows = tables["txt"].split("──\n")[1].split("noise floor")[0]
    assert "±" not in model_rows
    assert "95 %" not in tables["txt"]
    assert all(row["std"] == row["ci_low"] == "" for row in rows_of(tables) if row["model"] != "noise floor")


def test_latex_is_balanced_and_escaped():
    content = small()
    one = content["forget_sets"].pop("few")
    one["models"][EVIL] = one["models"].pop("sfron")
    one["models"]["ssd"]["cells"][1]["error"] = EVIL
    content["forget_sets"][EVIL] = one
    content["name"] = EVIL
    tex = tables_of(content)["tex"]
    for pair in ("table*", "tabular"):
        assert tex.count(f"\\begin{{{pair}}}") == tex.count(f"\\end{{{pair}}}") == 1
    for rule in ("\\toprule", "\\midrule", "\\bottomrule"):
        assert tex.count(rule) == 1
    body = "\n".join(tex.splitlines()[1:])
    bare = re.sub(r"\\[\\{}$&%#_]", "", body)  # what is left are LaTeX's own signs
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {4}
    assert escape_latex(EVIL) in tex
    assert escape_latex(EVIL) == (
        r"a\_b\&50\%\$x\textasciicircum{}\textasciitilde{}\#\{\}\textbackslash{}\textbar{}"
        r'\textless{}i\textgreater{}"{*}'
    )
    assert escape_latex("−1 ± 2 [3]\n¹") == r"$-$1 $\pm$ 2 {[}3{]} $^{1}$"
    assert "%\n" in body
    assert not re.search(r"(?<!\\)%(?!\n)", body)


def test_names_are_escaped_in_markdown_and_shown_as_they_are_in_text():
    content = small()
    models = content["forget_sets"]["few"]["models"]
    models["[red]<b>|*"] = models.pop("sfron")
    tables = tables_of(content)
    assert "\\[red\\]\\<b\\>\\|\\*" in tables["md"]
    assert "[red]<b>|*" in tables["txt"]
    assert {line.count(" | ") for line in tables["md"].splitlines() if line.startswith("| ")} == {4}


def test_further_measures_stand_in_a_second_table_and_unknown_ones_are_shown():
    content = example_comparison(svc=True)
    for model in content["forget_sets"]["random-10"]["models"].values():
        model["measures"]["FID"] = stat([12.0, 13.0, 14.0])
    results = results_of(content)
    further = further_table(results.sets[0], results, presentation_of("classification"))
    assert [m.key for m in main_of(content).measures] == ["FA", "RA", "TA", "MIA", "AvgD", "ToW", "KL", "seconds"]
    assert [m.key for m in further.measures] == ["SVC_confidence", "SVC_entropy", "JS", "FID"]
    assert tables_of(content)["tex"].count("\\begin{table*}") == 2
    labels = re.findall(r"\\label\{(.*)\}", tables_of(content)["tex"])
    assert labels == ["tab:compare-fashion-random-10", "tab:compare-fashion-random-10-further"]


def test_the_terminal_shows_the_table_in_80_columns():
    shown = terminal_of(example_comparison(sets=("a", "b")), 80)
    assert "…" not in shown
    for name in ("forget set a", "forget set b", "SFR-on *", "gradient-ascent", "−13.17", "±0.25", "#10", "2 of 3"):
        assert name in shown, name


def test_evil_names_are_no_markup_in_the_terminal():
    content = small()
    content["name"] = "[red]x[/red]"
    assert "[red]x[/red]" in terminal_of(content, 200)


@pytest.mark.parametrize(
    "broken", [{}, {"forget_sets": []}, {"forget_sets": {"a": {"models": {}}}}, {"forget_sets": 3}]
)
def test_a_comparison_without_models_is_an_error(broken):
    with pytest.raises(UntrainError, match="holds no model"):
        tables_of(broken)


def test_values_of_the_wrong_kind_count_as_missing():
    content = json.loads(json.dumps(example_comparison(sets=("a",))))
    for junk in (None, float("nan"), "text", [], {}, True, 10**400, [None], {"values": "x", "mean": []}):
        one = content["forget_sets"]["a"]
        changed = {**one, "noise_floor": junk, "sizes": junk, "tuning": junk}
        changed["models"] = {**one["models"], "salun": junk, "ssd": dict.fromkeys(one["models"]["ssd"], junk)}
        changed["models"]["scrub"] = {**one["models"]["scrub"], "measures": {"FA": junk, "AvgD": junk}}
        tables = tables_of({**content, "seeds": junk, "name": junk, "forget_sets": {"a": changed}})
        assert "SalUn" in tables["txt"]
        assert "nan" not in tables["txt"]


def test_long_times_are_told_like_durations():
    content = small()
    content["forget_sets"]["few"]["models"]["retrained"]["measures"]["seconds"] = stat([3600.0, 3700.0, 3800.0])
    assert "61 min 40 s ± 100.0 s" in tables_of(content)["txt"]
