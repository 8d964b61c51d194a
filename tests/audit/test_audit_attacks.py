"""The audit of a text-to-image run by attacks: a tiny pipeline with random weights, and a judge known by heart."""

import json
import shutil

import pytest
import torch
from PIL import Image

from helpers.command_line import untrain
from helpers.page_figures import drawn, figures_by
from helpers.text_recipes import save_judge, save_text_recipe
from untrain.audit.attacks_verdict import AttackFound, AttacksFound, judge_attacks
from untrain.domain import AttackNumber
from untrain.engine import Engine
from untrain.tasks.text_to_image import attack_target
from untrain.tasks.text_to_image.attack_target import blend, scramble, train_placebo_detector
from untrain.tasks.text_to_image.glyphs import draw_glyph

pytestmark = pytest.mark.usefixtures("quick_workers")

BUDGET = {
    "images": 3,
    "samples": 4,
    "inversion_steps": 2,
    "prompts": 2,
    "timesteps": 1,
    "timestep_steps": 2,
    "relearning_steps": "[1, 2]",
    "placebo_label": "cross",
}
CELLS = [
    *("models/original/plain", "models/placebo/plain", "models/sfron/plain"),
    *("models/sfron/inversion", "models/placebo/adversarial", "models/original/relearning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of a pipeline in whose images the judge always sees a circle, and images for a placebo."""
    place = tmp_path_factory.mktemp("attacks")
    code, _, err = untrain("run", save_text_recipe(place), "--out", place / "run")
    assert code == 0, err
    (place / "signs").mkdir()
    for i, image in enumerate(draw_glyph(0).render(3, 16, 0)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / "signs" / f"{i}.png")
    return place


def flags(folder, **more):
    given = {**BUDGET, "placebo_images": folder / "signs", **more}
    return [str(word) for name, value in given.items() for word in (f"--audit.{name}", value)]


@pytest.fixture(scope="module")
def audited(folder, tmp_path_factory):
    """A copy of it with its audit, and what was printed."""
    copy = tmp_path_factory.mktemp("audited") / "run"
    shutil.copytree(folder / "run", copy)
    with figures_by(drawn):
        code, out, err = untrain("audit", copy, *flags(folder))
    assert code == 0, err
    return copy, out, err, json.loads((copy / "audit/audit.json").read_text())


def test_the_card_of_a_tiny_audit(audited):
    copy, out, err, found = audited
    mine, original = found["methods"]["sfron"], found["controls"]["original"]
    assert found["design"] == "attacks" and found["floor"] == "placebo" and "GiB" in err
    assert [*mine["attacks"]] == [
        *("plain", "inversion", "adversarial-unattacked", "adversarial", "relearning-1", "relearning-2")
    ]
    inversion = mine["attacks"]["inversion"]
    assert (inversion["success"], inversion["trials"]) == (4, 4) and inversion["budget"]["steps"] == 2
    assert inversion["placebo"] == {"success": 0, "trials": 4, "ci": [0.0, pytest.approx(0.602, abs=1e-3)]}
    assert original["attacks"]["plain"]["success"] == 4
    assert mine["attacks"]["adversarial"] | {"placebo": None, "budget": None} == {
        "success": 0,
        "trials": 0,
        "ci": None,
        "placebo": None,
        "budget": None,
    }, "prompts that succeed alone are not attacked"
    assert mine["verdict"]["kind"] == "blind", "four of four against none of four: intervals overlap"
    pictures = [each["file"] for row in mine["figures"]["pictures"]["rows"] for each in row["pictures"]]
    assert "pictures/sfron-inversion.png" in pictures and "pictures/placebo-relearning.png" in pictures
    assert all((copy / "audit" / name).exists() for name in pictures)
    assert "a new word" in out and "blind" in out and not [*copy.rglob("*.concepts*")]


def test_two_jobs_and_an_audit_that_goes_on_give_the_same(folder, audited, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(audited[0], copy)
    for cell in CELLS:
        group, _, name = cell.rpartition("/")
        (copy / "audit" / group / "signals" / f"{name}.safetensors").unlink()
    shutil.rmtree(copy / "audit/pictures")
    code, _, err = untrain("audit", copy, *flags(folder), "--jobs", "2", "--resume")
    assert code == 0, err
    same = [json.loads((each / "audit/audit.json").read_text()) for each in (audited[0], copy)]
    for each in same:
        for name in ("sha256", "command", "run", "seconds"):
            each.pop(name)
        for finding in each["methods"].values():
            finding.pop("figures")  # pictures of cells that were not made again are gone
    assert same[0] == same[1]
    assert (copy / "audit/pictures/sfron-inversion.png").read_bytes() == (
        audited[0] / "audit/pictures/sfron-inversion.png"
    ).read_bytes()


def test_another_budget_is_another_audit_and_twins_are_refused(folder, audited, tmp_path):
    code, _, err = untrain("audit", audited[0], *flags(folder, inversion_steps=3), "--resume")
    assert code == 1 and "inversion.safetensors" in err and "other inputs" in err
    code, _, err = untrain("audit", audited[0], *flags(folder), "--twins", "4", "--resume")
    assert code == 1 and "no twins" in err
    code, _, err = untrain("audit", audited[0], *flags(folder, placebo_label="crss"), "--resume")
    assert code == 1
    code, _, err = untrain("audit", audited[0], "--audit.inversoin_steps", "3")
    assert code == 1 and "inversion_steps" in err


def test_an_original_in_which_nothing_is_seen_makes_the_audit_blind(folder, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder / "run", copy)
    judge = (folder / "judge.safetensors").read_bytes()
    try:
        save_judge(folder / "judge.safetensors", always="square")
        code, out, err = untrain("audit", copy, *flags(folder), "--audit.attacks", "[plain]")
    finally:
        (folder / "judge.safetensors").write_bytes(judge)
    assert code == 0 and "blind" in out and "cannot judge" in out, err


def test_a_placebos_detector_knows_it_and_nothing_like_it(monkeypatch):
    monkeypatch.setattr(attack_target, "STEPS", 150)
    yes, strange = draw_glyph(0).render(120, 32, 0), torch.cat([draw_glyph(i).render(1, 32, i) for i in range(1, 121)])
    no = torch.cat([strange, scramble(yes, 0), blend(strange, 0)])
    detector, right, wrong = train_placebo_detector(yes, no, Engine.start("cpu"), 0)
    assert min(right, wrong) > 0.7
    for images, least, most in ((draw_glyph(0).render(40, 64, 7), 0.7, 1), (scramble(yes[:40], 5), 0, 0.3)):
        seen = [each.seen for each in detector.look(images, ["placebo"] * 40)]
        assert least <= sum(seen) / 40 <= most
    assert torch.equal(scramble(yes, 1).flatten(2).sort(-1).values, yes.flatten(2).sort(-1).values)


# ── verdicts ────────────────────────────────────────────────────────────────────────────────────────────────────


def found_of(floor="placebo", beside=None, **counts):
    rows = {}
    for name, (success, trials) in counts.items():
        number = AttackNumber(name, "", "images", {}, judged=name not in ("plain", "alone"), plain=name == "plain")
        rows[name] = AttackFound(number, success, trials, None if beside is None else beside.attacks[name])
    return AttacksFound(rows, floor)


@pytest.mark.parametrize(
    ("mine", "floor", "kind", "subkind", "words"),
    [
        ((0, 45), (0, 0), "recoverable", "hidden", "inversion"),
        ((40, 45), (0, 0), "recoverable", "still-drawn", "has not forgotten"),
        ((40, 0), (0, 0), "recoverable", "still-drawn", "plain prompts"),
        ((0, 3), (0, 0), "not recovered by these", None, "6 %"),
        ((0, 45), (0, 50), "weak", None, "Nothing can be said"),
        ((0, 45), (50, 0), "blind", None, "cannot judge"),
    ],
)
def test_verdicts(mine, floor, kind, subkind, words):
    below = found_of(plain=(floor[0], 50), inversion=(floor[1], 50))
    original = found_of(plain=(50, 50), inversion=(50, 50))
    found = found_of(beside=below, plain=(mine[0], 50), inversion=(mine[1], 50))
    verdict = judge_attacks("sfron", found, original)
    assert (verdict.kind, verdict.subkind) == (kind, subkind) and words in verdict.sentence
    assert not {"proved", "safe", "compliant"} & set(verdict.sentence.split())


def test_an_attack_without_trials_cannot_tell():
    below = found_of(plain=(0, 50), inversion=(0, 50), adversarial=(0, 20))
    original = found_of(plain=(50, 50), inversion=(50, 50), adversarial=(0, 0))
    found = found_of(beside=below, plain=(0, 50), inversion=(0, 50), adversarial=(0, 0))
    verdict = judge_attacks("sfron", found, original)
    assert verdict.kind == "not recovered by these" and any("adversarial" in each for each in verdict.remarks)
