"""The command line: what a person types, what comes of it, and with which exit code."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch

from helpers.command_line import RECIPE, files, table, untrain, weights
from helpers.page_figures import drawn, figures_by
from untrain import UntrainError
from untrain import folders as locks
from untrain.data import sources
from untrain.runs import folder as folders
from untrain.runs import stages
from untrain.runs.recipe import read

FINISHED = [
    "config.yaml",
    "evaluation.json",
    "finetune.history.jsonl",
    "finetune.safetensors",
    "history.jsonl",
    "manifest.json",
    "original.history.jsonl",
    "original.safetensors",
    "report.html",
    "retrained.history.jsonl",
    "retrained.safetensors",
    "sfron.history.jsonl",
    "sfron.mask.safetensors",
    "sfron.safetensors",
    "split.json",
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """A folder with a finished run; for looking only."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with figures_by(drawn):
        code, out, err = untrain("run", recipe, "--out", folder)
    assert code == 0, err
    return folder, out, err


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_help_and_no_command():
    code, out, _ = untrain("--help")
    assert code == 0
    for command in ("run", "train", "unlearn", "evaluate", "report", "list", "--resume"):
        assert command in out
    code, out, _ = untrain()
    assert code == 2
    assert "usage" in out


def test_list_shows_everything_there_is(monkeypatch, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_text("# What it shows\nseed: 1\n")
    monkeypatch.chdir(tmp_path)
    code, out, _ = untrain("list")
    assert code == 0
    for name in ("classification", "sfron", "finetune", "retrain", "digits", "fashion", "resnet18", "What it shows"):
        assert re.search(rf"^  .*\b{name}\b", out, re.MULTILINE), name
    assert all(len(line.split()) > 1 for line in out.splitlines() if line.startswith("  ")), "all are described"


def test_the_help_of_a_recipe_explains_every_field(recipe):
    code, out, err = untrain("run", recipe, "--help")
    assert code == 0, err
    said = " ".join(out.split())
    for name in ("--data.name", "--train.optimizer", "--methods.sfron.alpha", "--methods.finetune.epochs", "--out"):
        assert f"{name} " in said
    for explained in (
        "Seconds between two checkpoints",
        "Height and width in pixels",
        "in nats",
        "Learning rate",
        "Momentum, of sgd alone",
    ):
        assert explained in said
    options = re.findall(r"^  (--[\w.]+).*?(?=^  --|^\S|\Z)", out, re.MULTILINE | re.DOTALL)
    blocks = re.split(r"^  (?=--)", out, flags=re.MULTILINE)[1:]
    assert len(options) > 50
    bare = [block.split()[0] for block in blocks if len(block.split()) < 4]
    assert not bare, f"flags without an explanation: {bare}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rum"], r"unknown command 'rum'. Did you mean 'run'\? Known: audit, compare, evaluate, export, list"),
        (["run", "none.yaml"], "none.yaml does not exist.*Check the path"),
        (["report"], "needs one run folder"),
        (["report", "nowhere"], "no run folder nowhere"),
        (["report", "--json"], "untrain report needs one run folder"),
        (["list", "more"], "takes nothing more"),
        (["run", "--sed", "3"], "unknown flag '--sed'. Did you mean '--seed'"),
        (
            ["evaluate", "--out", "nowhere", "--data.name", "digits", "--forget.count", "9"],
            "nowhere holds no model yet",
        ),
    ],
)
def test_wrong_words(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = untrain(*words)
    assert code == 1
    assert re.match("untrain: .*" + message, err, re.DOTALL)
    assert "Traceback" not in err
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        (["--data.name", "folder"], "--data.path"),
        (["--data.name", "arrays"], "--data.path"),
        (["--methods", "{sfron: {optimizer: {name: sgd}}}", "--methods.sfron.optimizer.lr", "nope"], "--methods.sfron"),
    ],
)
def test_messages_name_flags_here_and_arguments_in_python(recipe, tmp_path, flags, flag):
    code, _, err = untrain("run", recipe, "--out", tmp_path / "run", *flags)
    assert code == 1 and flag in err and "path=" not in err
    with pytest.raises(UntrainError, match="path="):
        sources.load("arrays", "train")


def test_a_locked_folder_is_told_in_the_words_of_who_asks(recipe, tmp_path):
    folder = tmp_path / "run"
    holding = f"with exclusive_lock(Path({str(folder)!r})): print(1, flush=True); sys.stdin.read()"
    script = f"import sys; from pathlib import Path; from untrain.folders import exclusive_lock\n{holding}"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        code, _, err = untrain("run", recipe, "--out", folder)
        assert code == 1 and "(--out)" in err
        with pytest.raises(UntrainError, match=r"\(out=\)"), locks.exclusive_lock(folder):
            pass
        other.communicate()


def test_a_run_leaves_a_whole_folder(finished):
    folder, out, err = finished
    assert files(folder) == FINISHED
    for text in ("original", "retrained", "finetune", "SFR-on", "FA", "RA", "TA", "MIA", "KL", "Avg.D", "ToW"):
        assert text in out
    assert re.search(r"report: .*finished/report.html", out)
    assert "unforeseen" not in err
    content = json.loads((folder / "evaluation.json").read_text())
    assert list(content["models"]) == ["original", "retrained", "finetune", "sfron"]
    assert content["models"]["retrained"]["AvgD"] == 0
    assert all(entry["seconds"] > 0 for entry in content["models"].values())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {"untrain", "versions", "seed", "data", "split", "models", "device"} <= manifest.keys()
    assert 0 < manifest["models"]["sfron"]["mask"]["density"] < 1
    assert manifest["models"]["sfron"]["settings"]["steps"] > 0
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert {record["model"] for record in history} == set(content["models"])
    assert (folder / "report.html").read_text().startswith("<!doctype html>") or "<html" in (
        folder / "report.html"
    ).read_text()


def test_the_kept_recipe_is_the_recipe(finished, recipe):
    folder = finished[0]
    assert read(folder) == read(recipe, ["--out", str(folder)])


def test_nothing_of_the_forget_set_is_kept(finished):
    folder = finished[0]
    experiment = stages.open_experiment(read(folder), resume=True)
    stream = experiment.domain.stream(experiment.division, "forget")
    forgotten = stream.gather(torch.arange(8), "a test")["input"].flatten(1)
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not any(row.numpy().tobytes() in content for row in forgotten), path.name
        named = any(f"digits-{i:04d}".encode() in content for i in range(1797))
        assert named == (path.name == "split.json"), "where later requests find samples by; forget.hash_ids hides it"


def test_the_same_command_twice_gives_the_same(finished, recipe, tmp_path):
    assert untrain("run", recipe, "--out", tmp_path / "again")[0] == 0
    assert same(weights(finished[0]), weights(tmp_path / "again"))
    assert table(finished[0]) == table(tmp_path / "again")
    assert (finished[0] / "history.jsonl").read_text() == (tmp_path / "again" / "history.jsonl").read_text()


def test_the_parts_give_what_run_gives(finished, recipe, tmp_path):
    folder = tmp_path / "parts"
    for command in ("train", "unlearn", "evaluate"):
        code, _, err = untrain(command, recipe, "--out", folder)
        assert code == 0, err
    assert same(weights(finished[0]), weights(folder))
    assert table(finished[0]) == table(folder)
    assert files(folder) == FINISHED
    (folder / "report.html").unlink()
    code, out, _ = untrain("report", folder)
    assert code == 0
    assert "report.html" in out
    assert files(folder) == FINISHED


def test_a_finished_folder_needs_resume_and_then_nothing_is_computed_again(finished, recipe, monkeypatch):
    folder = finished[0]
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".safetensors", ".jsonl")}
    code, _, err = untrain("run", recipe, "--out", folder)
    assert code == 1
    assert re.search(r"finished already holds a run. Go on with it with --resume, or choose another folder", err)
    old = table(folder)
    monkeypatch.setattr(folders, "run", None)  # what would compute
    assert untrain("run", recipe, "--out", folder, "--resume")[0] == 0
    assert untrain("run", folder, "--resume")[0] == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    assert table(folder) == old


def test_another_recipe_does_not_go_into_the_folder(finished, recipe):
    code, _, err = untrain("run", recipe, "--out", finished[0], "--resume", "--train.epochs", "3")
    assert code == 1
    assert "holds a run of another recipe: train.epochs differs. Choose another folder" in err


def test_fields_that_an_older_version_did_not_know_have_their_defaults(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    lines = (folder / "config.yaml").read_text().splitlines()
    older = [line for line in lines if "interpolation:" not in line and not line.startswith(("# sha256", "workers:"))]
    assert len(older) == len(lines) - 3
    (folder / "config.yaml").write_text("\n".join(older) + "\n")
    code, _, err = untrain("run", folder, "--resume")
    assert code == 0, err
    code, _, err = untrain("run", folder, "--resume", "--data.interpolation", "bicubic")
    assert code == 1 and "data.interpolation differs" in err


def test_a_method_can_be_added_to_a_finished_folder(recipe, tmp_path):
    folder = tmp_path / "run"
    assert untrain("train", recipe, "--out", folder, "--references", "0")[0] == 0
    assert files(folder) == [
        "config.yaml", "history.jsonl", "manifest.json", "original.history.jsonl", "original.safetensors", "split.json",
    ]  # fmt: skip
    more = tmp_path / "more.yaml"
    more.write_text(RECIPE.replace("finetune: {epochs: 1}", "quick: {method: finetune, steps: 2}"))
    code, _, err = untrain("unlearn", more, "--out", folder, "--references", "0")
    assert code == 0, err
    assert {"quick.safetensors", "sfron.safetensors"} <= set(files(folder))
    code, _, err = untrain("evaluate", folder)
    assert code == 0, err
    found = json.loads((folder / "evaluation.json").read_text())["models"]
    assert list(found) == ["original", "quick", "sfron"]
    assert found["quick"]["AvgD"] is None
    assert "retrained" in found["quick"]["missing"]["AvgD"]


def test_a_changed_setting_does_not_pass_for_the_finished_model(finished, recipe):
    code, _, err = untrain("run", recipe, "--out", finished[0], "--resume", "--methods.finetune.epochs", "2")
    assert code == 1
    assert re.search(
        r"finetune.safetensors was made from other settings than what is asked for now. Ask for the same", err
    )
    assert untrain("run", recipe, "--out", finished[0], "--resume")[0] == 0


def test_a_changed_split_is_refused(recipe, tmp_path):
    folder = tmp_path / "run"
    assert untrain("train", recipe, "--out", folder, "--references", "0")[0] == 0
    split = json.loads((folder / "split.json").read_text())
    split["forget"] = split["forget"][1:]
    (folder / "split.json").write_text(json.dumps(split))
    code, _, err = untrain("unlearn", recipe, "--out", folder, "--references", "0")
    assert code == 1
    assert "was changed after it was written" in err and "split.json" in err


def test_unlearning_a_checkpoint_of_ones_own_takes_its_learning_rate(finished, recipe, tmp_path):
    module = stages.prepare_original(stages.open_experiment(read(finished[0]), resume=True))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0625, momentum=0.9)
    content = {
        "state_dict": {f"module.{k}": v for k, v in module.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, tmp_path / "mine.pt")
    folder = tmp_path / "run"
    words = ["--out", folder, "--model.checkpoint", tmp_path / "mine.pt"]
    code, _, err = untrain("unlearn", recipe, *words)
    assert code == 0, err
    assert "original.safetensors" not in files(folder), "the user's checkpoint is not copied"
    models = json.loads((folder / "manifest.json").read_text())["models"]
    assert models["sfron"]["settings"]["optimizer"]["lr"] == 0.0625
    assert models["finetune"]["settings"]["optimizer"]["lr"] == 0.0625
    assert any("0.0625" in note for note in models["sfron"]["notes"])
    assert any("mine.pt" in note for note in models["original"]["notes"])
    assert untrain("evaluate", recipe, *words)[0] == 0
    assert list(json.loads((folder / "evaluation.json").read_text())["models"]) == ["original", "finetune", "sfron"]


def test_a_method_from_the_command_line_takes_the_place_of_the_recipes(recipe, tmp_path):
    folder = tmp_path / "run"
    words = ("--method", "finetune", "--method", "l1-sparse", "--methods.l1-sparse.steps", "2", "--references", "0")
    code, _, err = untrain("unlearn", recipe, "--out", folder, *words)
    assert code == 0, err
    models = json.loads((folder / "manifest.json").read_text())["models"]
    assert list(models) == ["original", "finetune", "l1-sparse"]
    assert models["finetune"]["settings"]["epochs"] == 1, "as the recipe has it"
    assert models["l1-sparse"]["settings"]["steps"] == 2


def test_steps_are_told_to_a_tracker(recipe, tmp_path):
    pytest.importorskip("tensorboard", reason="an extra")
    folder = tmp_path / "run"
    words = ("train", recipe, "--out", folder, "--references", "0", "--report-to", "tensorboard")
    code, _, err = untrain(*words)
    assert code == 0, err
    events = [path for path in (folder / "trackers").rglob("*") if "tfevents" in path.name]
    assert events
    assert any(b"original/lr" in path.read_bytes() for path in events)
    for wrong in (["--report-to", "paper"], ["--report-to"]):
        code, _, err = untrain("train", recipe, "--out", tmp_path / "no", *wrong)
        assert code == 1
        assert wrong[-1] in err
    assert not (tmp_path / "no").exists()


def test_the_schema_is_a_command(tmp_path):
    code, out, err = untrain("schema", "--task", "classification")
    assert code == 0, err
    assert json.loads(out)["$defs"]["recipe classification"]["properties"]["svc_attacks"]
    assert untrain("schema", "--out", tmp_path / "recipe.json")[0] == 0
    assert "recipe text-to-image" in json.loads((tmp_path / "recipe.json").read_text())["$defs"]


def test_python_m_untrain_works():
    done = subprocess.run([sys.executable, "-m", "untrain", "list"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "sfron" in done.stdout
    done = subprocess.run([sys.executable, "-m", "untrain", "rum"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("untrain: unknown command")


def test_output_that_nobody_reads_ends_in_silence():
    """As of `untrain list | head -0`."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "untrain", "list"]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    finally:
        os.close(write)
    assert (done.stderr, done.returncode) == ("", 141)


def test_an_interrupt_exits_130_and_the_run_can_go_on(finished, recipe, tmp_path):
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "untrain", "run", str(recipe), "--out", str(folder), "--train.epochs", "2000"]
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        try:
            limit = time.monotonic() + 120
            while not (folder / "original.resume.pt").exists() and time.monotonic() < limit:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "--resume goes on" in err
    assert "Traceback" not in err
    assert files(folder) == ["config.yaml", "original.resume.pt", "split.json"]


def test_an_unforeseen_failure_is_said_in_a_line_and_shown_with_debug(monkeypatch, recipe):
    def broken(recipe, **how):
        raise ZeroDivisionError("of something")

    monkeypatch.setattr(stages, "run_recipe", broken)
    code, _, err = untrain("run", recipe)
    assert code == 3
    assert "unforeseen ZeroDivisionError: of something" in err
    with pytest.raises(ZeroDivisionError):
        untrain("run", recipe, "--debug")


def starts(*words, **how):
    """A command in a process of its own; its output is in `stdout` and `stderr`."""
    text = {"capture_output": True, "text": True, "timeout": 120} | how
    return subprocess.run([sys.executable, "-m", "untrain", *map(str, words)], **text)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_a_run_with_a_sentence_and_a_state_to_go_on_from(recipe, finished, tmp_path, number):
    words = ("run", recipe, "--out", tmp_path / "run", "--checkpoint_every", "0")
    process = subprocess.Popen([sys.executable, "-m", "untrain", *map(str, words)], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run/original.resume.pt").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "--resume goes on" in err and "Traceback" not in err
    assert [name for name in files(tmp_path / "run") if name.startswith(".")] == []
    assert untrain(*words, "--resume")[0] == 0
    assert same(weights(tmp_path / "run"), weights(finished[0]))


def test_a_hangup_that_is_ignored_stays_so(recipe, tmp_path):
    """As under nohup."""
    words = [sys.executable, "-m", "untrain", "run", str(recipe), "--out", str(tmp_path / "run")]
    ignore = partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    process = subprocess.Popen(words, preexec_fn=ignore, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "run/original.resume.pt").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 0


def test_an_output_that_knows_few_signs_gets_others(finished):
    done = starts("run", finished[0], "--resume", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and "Avg.D" in done.stdout and "report.html" in done.stdout


def test_an_output_that_cannot_be_written_is_a_failure_in_words(finished):
    with open("/dev/full", "w") as full:
        done = starts("list", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1 and "output cannot be written: No space left" in done.stderr
    done = starts("report", finished[0], capture_output=False, preexec_fn=partial(os.close, 1), stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr


def test_a_working_directory_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    code = f"import os, sys; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir(os.getcwd())\n"
    code += "from untrain.cli import main; sys.exit(main(['list']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "the working directory is gone" in done.stderr
