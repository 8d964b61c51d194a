"""Results are the same whether they are made in memory or read from files, and say what a folder holds."""

import json

import pytest

from helpers.example_comparison import example_comparison, write_example_comparison
from helpers.example_generator import example_generator_comparison, write_example_generator
from helpers.example_run import write_example_run
from helpers.example_text import example_text_comparison, write_example_text
from helpers.foreign_results import foreign_comparison
from untrain.errors import FolderError, UntrainError
from untrain.report import Results, task_of, write_report
from untrain.report.presentation import LOSSES
from untrain.report.results import Entry, ForgetSet, Rank, SeedCell, Stat

COMPARISONS = (example_comparison, example_generator_comparison, example_text_comparison, foreign_comparison)


def strict(value):
    """JSON as a file holds it, where NaN is an error."""
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize("example", COMPARISONS)
def test_a_comparison_that_is_written_and_read_is_the_same(example):
    results = Results.of_comparison(example())
    content = strict(results.to_json())
    assert Results.of_comparison(content) == results
    assert strict(Results.of_comparison(content).to_json()) == content


def test_what_is_written_holds_all_that_was_read():
    content = strict(example_comparison())
    written = strict(Results.of_comparison(content).to_json())
    assert {key: written[key] for key in ("name", "task", "seeds", "classes", "settings")} == {
        key: content[key] for key in ("name", "task", "seeds", "classes", "settings")
    }
    for name, one in content["forget_sets"].items():
        found = written["forget_sets"][name]
        assert {key: found[key] for key in ("spec", "sizes", "noise_floor", "tuning")} == {
            key: one[key] for key in ("spec", "sizes", "noise_floor", "tuning")
        }
        for model, values in one["models"].items():
            assert found["models"][model] == values, model


def test_objects_made_in_memory_are_those_that_are_read():
    cells = (SeedCell(0, "done", folder="cells/a/seed-0"), SeedCell(1, "failed", "out of memory", "cells/a/seed-1"))
    stats = {
        "FA": Stat((1.0, None), 1, 1.0, few=True),
        "RA": Stat((1.0, 3.0), 2, 2.0, 2**0.5, (-10.7, 14.7), True, 0.5),
    }
    entry = Entry(
        "sfron", "method", "sfron", {"lr": 0.1}, cells, stats, {"FA": Rank(1, True), "RA": None},
        {"edges": [0.0, 1.0, 2.0], "forget": [1, 2]}, {"TA": {"3": 90.0}},
    )  # fmt: skip
    floor = {"FA": Stat((0.5, 0.7), 2, 0.6, 0.14, few=True)}
    one = ForgetSet("a", (entry,), {"fraction": 0.1}, {"forget": 1}, floor, {"sfron": {"trials": [], "best": None}})
    made = Results("mine", "meters", (one,), (0, 1), ("3",), {"model": {"name": "x"}}, compared=True)
    assert Results.of_comparison(strict(made.to_json())) == made


@pytest.mark.parametrize("write", [write_example_run, write_example_generator, write_example_text])
def test_a_run_in_memory_is_the_one_in_its_folder(tmp_path, write):
    evaluation = write(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    config = (tmp_path / "config.yaml").read_text()
    made = Results.of_run(strict(evaluation), manifest=manifest, history=history, config=config, folder=tmp_path)
    assert made == Results.read(tmp_path)


def test_a_run_has_one_seed_its_values_and_reasons_for_those_that_lack(tmp_path):
    evaluation = write_example_run(tmp_path)
    evaluation["models"]["sfron"] |= {"KL": float("nan"), "JS": None, "missing": {"JS": "too big"}}
    one = Results.of_run(evaluation).sets[0]
    assert one.seeds == 1
    assert one.entry("sfron").stat("FA") == Stat((93.0,), 1, 93.0, few=True)
    assert "nan" in one.entry("sfron").missing["KL"]
    assert one.entry("sfron").missing["JS"] == "too big"
    assert one.noise("AvgD") == 0.42
    assert [entry.name for entry in one.methods] == ["finetune", "sfron"]


def test_the_task_of_a_folder_is_what_its_files_name(tmp_path):
    for name, write, task in (("run", write_example_run, None), ("digits", write_example_generator, "class-diffusion"),
                              ("compared", write_example_comparison, "classification")):  # fmt: skip
        write(tmp_path / name)
        assert task_of(tmp_path / name) == task
    (tmp_path / "manifest.json").write_text(json.dumps({"task": "meters"}))
    assert task_of(tmp_path) == "meters"
    assert task_of(tmp_path / "nowhere") is None


def test_a_run_that_was_not_measured_has_models_times_and_curves(tmp_path):
    (tmp_path / "manifest.json").write_text(
        json.dumps({"models": {"unlearned": {"seconds": 3.0, "clocks": {"fisher": 1.0, "steps": 2.0}}}})
    )
    (tmp_path / "history.jsonl").write_text(json.dumps({"model": "unlearned", "step": 0, "forget_loss": 0.5}))
    results = Results.read(tmp_path)
    assert not results.measured
    assert results.sets[0].entry("unlearned").mean("seconds") == 3.0
    assert results.history["unlearned"].series["forget_loss"].values == [0.5]
    assert write_report(results, LOSSES).is_file()


def test_a_run_of_which_only_the_history_is_left_can_be_read(tmp_path):
    (tmp_path / "history.jsonl").write_text(json.dumps({"model": "sfron", "step": 0, "forget_loss": 0.5}))
    assert [entry.name for entry in Results.read(tmp_path).sets[0].entries] == ["sfron"]


def test_results_of_no_folder_have_no_page():
    with pytest.raises(FolderError, match="folder"):
        write_report(Results.of_comparison(foreign_comparison()), LOSSES)


@pytest.mark.parametrize("name", ["evaluation.json", "comparison.json", "manifest.json", "history.jsonl"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    (tmp_path / "evaluation.json").write_text(json.dumps({"models": {"sfron": {"FA": 1.0}}}))
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(UntrainError, match=name):
        Results.read(tmp_path)
