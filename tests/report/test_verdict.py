"""What a verdict says follows from the numbers: its kind, the method it is about, and what is remarked beside it.

The words themselves stand in golden/verdicts.txt, for each of these cases; `UNTRAIN_WRITE_GOLDEN=1` writes it anew.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from helpers.example_comparison import stat
from helpers.example_generator import write_example_generator
from helpers.example_run import write_example_run
from helpers.example_text import write_example_text
from helpers.golden import check_golden
from helpers.reading import verdict_of
from untrain.tasks.text_to_image.presentation import share_interval


def run_of(before, after, *, floor=None, seconds=(100.0, 12.0), **changes):
    """An evaluation of classifiers: an original, a retrained model and SFR-on at these distances."""
    base = {"FA": 90.0, "RA": 99.0, "TA": 91.0, "MIA": 70.0}
    models = {
        "original": {**base, "FA": 98.0, "AvgD": before, "seconds": None},
        "retrained": {**base, "AvgD": None, "seconds": seconds[0]},
        "sfron": {**base, "AvgD": after, "seconds": seconds[1], **changes},
    }
    return {"task": "classification", "models": models, "noise_floor": None if floor is None else {"AvgD": floor}}


def without(content, name):
    """An evaluation without a model."""
    return {**content, "models": {key: values for key, values in content["models"].items() if key != name}}


def beside(content, **methods):
    """An evaluation with further models."""
    return {**content, "models": content["models"] | methods}


def comparison_of(distances, *, floor=0.5, before=4.0, failed=(), seeds=3):
    """A comparison of methods at these distances, ranked as `untrain compare` ranks."""
    models = {"retrained": {"cells": [{"seed": s, "state": "done"} for s in range(seeds)]}}
    if before is not None:
        models["original"] = {"measures": {"AvgD": stat([before] * seeds)}}
    place, first = 0, None
    known = {name: d for name, d in distances.items() if name not in failed}
    ranks = {}
    for count, (name, distance) in enumerate(sorted(known.items(), key=lambda item: item[1]), 1):
        if first is None or distance > first + (floor or 0):
            place, first = count, distance
        ranks[name] = place
    for name, distance in distances.items():
        tied = list(ranks.values()).count(ranks.get(name)) > 1
        cells = [{"seed": s, "state": "failed" if name in failed and s == 0 else "done"} for s in range(seeds)]
        rank = {"AvgD": {"rank": ranks[name], "tied": tied} if name in ranks else None}
        models[name] = {"cells": cells, "measures": {"AvgD": stat([distance] * seeds)}, "rank": rank}
    noise = {"AvgD": {"mean": floor, "values": [floor]}} if floor is not None else {}
    return {"task": "classification", "forget_sets": {"a": {"models": models, "noise_floor": noise}}}


def weak(content):
    """An evaluation whose retrained model is 11 points worse on new images than the original."""
    models = {
        name: {**values, "TA": 80.0 if name == "retrained" else 91.0} for name, values in content["models"].items()
    }
    return {**content, "models": models, "sizes": {"forget": 10, "retain": 90}}


def warned(content, text, name="sfron"):
    """An evaluation of which a model was warned of."""
    return beside(content, **{name: {**content["models"][name], "warnings": [text]}})


def class_of(**methods):
    """An evaluation of classifiers that forget a class, without a retrained model."""
    usual = {"FA": 99.0, "RA": 99.0, "TA": 91.0, "MIA": 70.0, "forgotten_TA": 93.0}
    models = {"original": usual} | {name: usual | values for name, values in methods.items()}
    return {"task": "classification", "models": models}


def generators_of(original=None, retrained=None, **methods):
    usual = {"FA": 99.0, "RA": 98.0, "RA_worst": 95.0, "FD": 2.0}
    models = {"original": usual | (original or {})} | {name: usual | values for name, values in methods.items()}
    models |= {"retrained": usual | retrained} if retrained else {}
    return {"task": "class-diffusion", "models": models, "forgotten": ["3"]}


def pipelines_of(original=None, retrained=None, kind="classifier", **methods):
    usual = {"FA": 95.0, "RA": 98.0, "RA_worst": 96.0, "CLIP": 31.0}
    models = {"original": usual | (original or {})} | {name: usual | values for name, values in methods.items()}
    models |= {"retrained": usual | retrained} if retrained else {}
    return {"task": "text-to-image", "models": models, "forgotten": ["a circle"], "detector": {"kind": kind}}


def by_class(content, **shares):
    """An evaluation with shares by class, model → class → %."""
    models = {name: {**values, "by_class": {"recognised": shares.get(name, {})}}
              for name, values in content["models"].items()}  # fmt: skip
    return {**content, "models": models}


UNKNOWN = dict.fromkeys(("RA", "RA_worst", "CLIP"))
CASES = {  # name → what was measured, the verdict's kind, and the method that it is about
    # One run, by the distance to the retrained model.
    "within the floor": (run_of(3.96, 0.3, floor=0.4), "within", "sfron"),
    "at the floor": (run_of(3.96, 0.4, floor=0.4), "within", "sfron"),
    "near the floor": (run_of(3.96, 0.5, floor=0.4), "closer", "sfron"),
    "closer": (run_of(3.96, 1.5, floor=0.4), "closer", "sfron"),
    "exactly half": (run_of(3.96, 1.98), "closer", "sfron"),
    "partly": (run_of(3.96, 2.5, floor=0.4), "partly", "sfron"),
    "no more than the floor": (run_of(3.96, 3.74, floor=0.4), "none", "sfron"),
    "less than a tenth": (run_of(3.96, 3.6), "none", "sfron"),
    "a little further": (run_of(3.96, 4.2, floor=0.4), "none", "sfron"),
    "further": (run_of(3.96, 5.0, floor=0.4, seconds=(10.0, 25.0)), "further", "sfron"),
    "further from within the floor": (run_of(0.3, 2.0, floor=0.4), "further", "sfron"),
    "nothing to show": (run_of(0.3, 0.2, floor=0.4), "unknown", "sfron"),
    "nothing anywhere": (run_of(0.0, 0.0), "none", "sfron"),
    "a floor of zero": (run_of(2.0, 1.0, floor=0.0), "closer", "sfron"),
    "time unknown": (run_of(4.0, 1.0, seconds=(None, 12.0)), "closer", "sfron"),
    "no retrained model": (without(run_of(None, None), "retrained"), "unknown", "sfron"),
    "no distance": (run_of(4.0, None, missing={"AvgD": "MIA needs two classes."}), "unknown", "sfron"),
    "no distance before": (run_of(math.inf, 1.0), "unknown", "sfron"),
    "no method": (without(run_of(4.0, 1.0), "sfron"), "unknown", None),
    "forgot too much": (run_of(4.0, 1.0, FA=80.0), "closer", "sfron"),
    "forgot too little": (run_of(4.0, 1.0, FA=95.0), "closer", "sfron"),
    "worse on new images": (run_of(4.0, 1.0, TA=88.0), "closer", "sfron"),
    "worse on what is kept": (run_of(4.0, 1.0, RA=95.0), "closer", "sfron"),
    "another is closer": (beside(run_of(4.0, 2.0, floor=0.4), finetune={"AvgD": 1.5}), "closer", "finetune"),
    "closer by chance": (beside(run_of(4.0, 2.0, floor=0.4), finetune={"AvgD": 1.8}), "closer", "finetune"),
    # Where the reference is weak, the target is known without one, or the run fell short.
    "weak reference": (weak(run_of(8.1, 8.0, FA=52.0)), "unknown", "sfron"),
    "weaker for what it was not shown": (
        {**weak(run_of(4.0, 1.0)), "sizes": {"forget": 90, "retain": 10}}, "closer", "sfron"
    ),
    "no forget step": (warned(run_of(4.0, 3.9), "no forget step was taken: all is forgotten"), "none", "sfron"),
    "short of its aim": (warned(run_of(4.0, 1.0), "the loss aimed at was not reached: 1, not 5"), "closer", "sfron"),
    "short of its aim, no retrained model": (
        warned(without(run_of(None, None), "retrained"), "the loss aimed at was not reached: 1, not 5"),
        "unknown", "sfron",
    ),
    "another fell short": (
        warned(beside(run_of(4.0, 1.0), finetune={"AvgD": 1.5}), "the loss did not move: 1", "finetune"),
        "closer", "sfron",
    ),
    "a class forgotten": (class_of(sfron={"FA": 0.2, "forgotten_TA": 0.4}), "closer", "sfron"),
    "a class at every limit": (class_of(sfron={"FA": 1.0, "forgotten_TA": 1.0, "TA": 88.0}), "closer", "sfron"),
    "a class forgotten by its samples alone": (class_of(sfron={"FA": 0.0, "forgotten_TA": 60.0}), "none", "sfron"),
    "a class half forgotten": (class_of(sfron={"FA": 10.0, "forgotten_TA": 40.0}), "partly", "sfron"),
    "a class at the expense of others": (
        class_of(sfron={"FA": 0.0, "forgotten_TA": 0.0, "TA": 80.0}), "partly", "sfron"
    ),
    "others damaged, the class not": (class_of(sfron={"RA": 60.0}), "further", "sfron"),
    "two methods on a class": (
        class_of(ssd={"FA": 0.0, "forgotten_TA": 0.0, "TA": 60.0}, sfron={"FA": 0.9, "forgotten_TA": 0.0}),
        "closer", "sfron",
    ),
    "a class beside a retrained model": (beside(class_of(), **run_of(4.0, 1.0)["models"]), "closer", "sfron"),
    "a class beside a weak model": (
        beside(weak(run_of(4.0, 1.0)), **class_of(sfron={"FA": 0.0})["models"]), "none", "sfron"
    ),
    # A comparison.
    "one closest": (comparison_of({"salun": 2.0, "sfron": 1.0}), "closer", "sfron"),
    "ties": (comparison_of({"salun": 1.3, "sfron": 1.0, "scrub": 1.5, "ssd": 1.6}, seeds=5), "closer", "sfron"),
    "all further": (comparison_of({"sfron": 5.0}), "further", "sfron"),
    "no gain": (comparison_of({"sfron": 3.8}), "none", "sfron"),
    "original within the floor": (comparison_of({"sfron": 0.3}, before=0.4), "unknown", "sfron"),
    "floor unknown": (comparison_of({"sfron": 1.0}, floor=None), "closer", "sfron"),
    "one seed": (comparison_of({"sfron": 1.0}, seeds=1), "closer", "sfron"),
    "the closest failed": (comparison_of({"sfron": 1.0, "ssd": 0.2}, failed=("ssd",)), "closer", "sfron"),
    "one further": (comparison_of({"sfron": 1.0, "ssd": 5.0}), "closer", "sfron"),
    "all failed": (comparison_of({"sfron": 1.0}, failed=("sfron",)), "unknown", None),
    "nothing compared": (comparison_of({}), "unknown", None),
    # Generators of classes.
    "class forgotten": (generators_of(sfron={"FA": 0.5}), "closer", "sfron"),
    "at every limit": (generators_of(sfron={"FA": 1.0, "RA": 95.0, "RA_worst": 87.0, "FD": 2.3}), "closer", "sfron"),
    "mean damaged": (generators_of(sfron={"FA": 0.5, "RA": 94.9}), "partly", "sfron"),
    "one class damaged": (generators_of(sfron={"FA": 0.5, "RA_worst": 86.0}), "partly", "sfron"),
    "images damaged": (generators_of(sfron={"FA": 0.5, "FD": 2.4}), "partly", "sfron"),
    "class partly forgotten": (generators_of(sfron={"FA": 40.0}), "partly", "sfron"),
    "class not forgotten": (generators_of(sfron={"FA": 90.0}), "none", "sfron"),
    "only damaged": (generators_of(sfron={"FA": 90.0, "RA": 50.0}), "further", "sfron"),
    "nothing seen": (generators_of(sfron={"FA": None}), "unknown", "sfron"),
    "cost unknown": (generators_of(sfron={"FA": 0.5, "RA": None, "RA_worst": None, "FD": None}), "unknown", "sfron"),
    "above the limit": (generators_of(sfron={"FA": 5.0}), "partly", "sfron"),
    "no more than retrained": (generators_of(retrained={"FA": 6.0}, sfron={"FA": 5.0}), "closer", "sfron"),
    "one class named": (
        by_class(generators_of(sfron={"FA": 0.5}), original={"3": 99.0, "4": 98.0, "5": 97.0},
                 sfron={"3": 0.5, "4": 80.0, "5": 97.0}),
        "partly", "sfron",
    ),
    "three generators": (
        generators_of(salun={"FA": 30.0}, esd={"FA": 0.5, "RA": 90.0}, sfron={"FA": 0.9, "RA": 97.0}), "closer", "sfron"
    ),
    "could not before": (generators_of(original={"FA": 0.5}, sfron={"FA": 0.0}), "unknown", "sfron"),
    "no generator": (generators_of(), "unknown", None),
    # Text-to-image pipelines.
    "concept forgotten": (pipelines_of(sfron={"FA": 5.0}), "closer", "sfron"),
    "concept at every limit": (
        pipelines_of(sfron={"FA": 5.0, "RA": 95.0, "RA_worst": 91.0, "CLIP": 30.0}), "closer", "sfron"
    ),
    "prompts damaged": (pipelines_of(sfron={"FA": 0.0, "RA": 94.9}), "partly", "sfron"),
    "one label damaged": (pipelines_of(sfron={"FA": 0.0, "RA_worst": 90.5}), "partly", "sfron"),
    "CLIP damaged": (pipelines_of(sfron={"FA": 0.0, "CLIP": 29.5}), "partly", "sfron"),
    "a distance has no scale": (pipelines_of(sfron={"FA": 0.0, "FD": 900.0}), "closer", "sfron"),
    "concept partly forgotten": (pipelines_of(sfron={"FA": 5.1}), "partly", "sfron"),
    "concept not forgotten": (pipelines_of(sfron={"FA": 60.0}), "none", "sfron"),
    "prompts only damaged": (pipelines_of(sfron={"FA": 60.0, "RA": 50.0}), "further", "sfron"),
    "no detector": (pipelines_of(sfron={"FA": None}), "unknown", "sfron"),
    "prompts unknown": (pipelines_of(sfron={"FA": 0.0, **UNKNOWN}), "unknown", "sfron"),
    "nudity, prompts unknown": (pipelines_of(sfron={"FA": 0.0, **UNKNOWN, "NR": 0.0}), "unknown", "sfron"),
    "ten times rarer": (pipelines_of(original={"FA": 15.0}, sfron={"FA": 1.5}), "closer", "sfron"),
    "not ten times rarer": (pipelines_of(original={"FA": 15.0}, sfron={"FA": 1.6}), "partly", "sfron"),
    "hardly there before": (pipelines_of(original={"FA": 0.9}, sfron={"FA": 0.0}), "unknown", "sfron"),
    "no more than a retrained pipeline": (pipelines_of(retrained={"FA": 7.0}, sfron={"FA": 6.9}), "closer", "sfron"),
    "four pipelines": (
        pipelines_of(salun={"FA": 30.0}, esd={"FA": 0.0, "RA": 90.0}, finetune={"FA": 90.0}, sfron={"FA": 4.0}),
        "closer", "sfron",
    ),
    "by the distance at last": (
        pipelines_of(esd={"FA": 0, "FD": 9.0, **UNKNOWN}, sfron={"FA": 1, "FD": 2.0, **UNKNOWN}), "unknown", "sfron"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_kind_and_method(name):
    content, kind, method = CASES[name]
    said = verdict_of(content)
    assert (said.kind, said.method) == (kind, method)
    assert said.headline
    assert said.sentence.endswith(".")


def test_the_words_of_every_case():
    texts = []
    for name, (content, *_) in CASES.items():
        said = verdict_of(content)
        told = [*(f"! {caution}" for caution in said.cautions), *(f"- {remark}" for remark in said.remarks)]
        texts += [f"# {name}", said.headline, said.sentence, *told, ""]
    check_golden(Path(__file__).parent / "golden" / "verdicts.txt", "\n".join(texts))


# What is remarked, and what not.


@pytest.mark.parametrize(
    ("changes", "measure"), [({"FA": 80.0}, "FA"), ({"FA": 95.0}, "FA"), ({"TA": 88.0}, "TA"), ({"RA": 95.0}, "RA")]
)
def test_what_one_side_pays_is_remarked_and_only_that(changes, measure):
    usual, changed = (set(verdict_of(content).remarks) for content in (run_of(4.0, 1.0), run_of(4.0, 1.0, **changes)))
    (remark,) = changed - usual
    assert f"{measure} is {changes[measure]:.2f} %" in remark


def test_what_could_be_chance_is_said_only_within_the_noise_floor():
    far, near = (verdict_of(CASES[name][0]).remarks for name in ("another is closer", "closer by chance"))
    assert len(near) == len(far) + 1
    assert "0.20 points" in near[-1]


def test_a_weak_reference_judges_nothing_and_its_gap_is_told():
    said = verdict_of(CASES["weak reference"][0])
    assert said.headline.endswith("the retrained model is weak")
    (caution,) = said.cautions
    assert all(number in caution for number in ("11.00", "80.00", "91.00"))
    assert any("52.00" in remark for remark in said.remarks)


def test_what_a_run_fell_short_of_stands_in_the_headline_and_of_others_below():
    own, other = (verdict_of(CASES[name][0]) for name in ("short of its aim", "another fell short"))
    assert own.headline.endswith(", but the loss aimed at was not reached")
    assert own.cautions == ("The loss aimed at was not reached: 1, not 5.",)
    assert "did not move" not in other.headline
    assert other.cautions == ("finetune: the loss did not move: 1.",)


def test_a_comparison_says_in_its_headline_that_nothing_came_closer():
    for name in ("no gain", "all further", "original within the floor"):
        assert "closest" not in verdict_of(CASES[name][0]).headline
    content = comparison_of({"sfron": 1.0})
    content["forget_sets"]["a"]["models"]["sfron"]["warnings"] = ["seed 1: no forget step was taken: all is forgotten"]
    said = verdict_of(content)
    assert said.headline == "SFR-on comes closest, but no forget step was taken"
    assert said.cautions == ("SFR-on: seed 1: no forget step was taken: all is forgotten.",)


def test_a_weak_retrained_generator_excuses_nothing():
    """It shows much of what it never saw, as the judge must call its bad images something."""
    bad = {"FA": 6.0, "RA": 60.0}
    said = verdict_of(generators_of(retrained=bad, sfron={"FA": 5.0}))
    assert said.kind == "partly"
    assert "the retrained model is weak" in said.headline


def test_several_unjudged_methods_are_about_none(tmp_path):
    said = verdict_of(write_example_run(tmp_path, retrained=False))
    assert (said.kind, said.method) == ("unknown", None)
    assert all(f"({name})" in said.remarks[0] for name in ("finetune", "SFR-on"))


def test_ties_name_all_of_the_first_and_only_them():
    said = verdict_of(CASES["ties"][0])
    assert all(name in said.sentence for name in ("SFR-on", "SalUn", "SCRUB"))
    assert "SSD" not in said.sentence


def test_the_class_that_lost_most_is_named_and_the_forgotten_one_is_not_blamed():
    remarks = verdict_of(CASES["one class named"][0]).remarks
    assert any(", 4, fell by 18.0 points" in remark for remark in remarks)


def test_sentences_hold_the_numbers_that_were_measured(tmp_path):
    said = verdict_of(write_example_generator(tmp_path, pictures=False))
    assert all(
        number in said.sentence for number in ("0.30 %", "98.90 %", "0.20 %", "97.20 %", "1.21", "1.29", "3.1 %")
    )
    said = verdict_of(write_example_text(tmp_path, pictures=False))
    assert all(number in said.sentence for number in ("1.30 %", "97.50 %", "97.20 %", "31.20", "31.00", "74.2 s"))
    assert "0.5 and 3.7 %" in said.remarks[1]


def test_intimate_parts_that_rise_are_remarked(tmp_path):
    evaluation = write_example_text(tmp_path, kind="nudity", pictures=False)
    usual = verdict_of(evaluation).remarks
    evaluation["models"]["sfron"]["NR"] = 2.5
    (risen,) = set(verdict_of(evaluation).remarks) - set(usual)
    assert "2.50 %" in risen
    assert "1.00 %" in risen


def test_the_interval_is_where_a_binomial_share_could_come_from():
    """Against the definition: the shares p whose mean lies within 1.96 of their own standard deviations."""
    for share, count in ((0.0, 50), (2.0, 200), (50.0, 10), (100.0, 7)):
        grid = np.linspace(0, 1, 200_001)[1:-1]
        inside = grid[np.abs(share / 100 - grid) <= 1.959964 * np.sqrt(grid * (1 - grid) / count)]
        np.testing.assert_allclose(share_interval(share, count), (100 * inside.min(), 100 * inside.max()), atol=2e-3)
