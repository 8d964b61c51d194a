"""The language model's task: installed as a distribution, at a size that takes seconds, by every command and Python."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

import untrain
from helpers.command_line import untrain as run
from helpers.documents import ROOT
from helpers.page_figures import drawn, figures_by
from helpers.processes import python_path

EXAMPLE = ROOT / "examples/next_token"
SMALL = ("--data.countries", "12", "--train.epochs", "120", "--references", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Where pip puts it: a folder of its own, on the path of this process and of those that it starts."""
    place = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(
        EXAMPLE, place / "source", ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", place / "site", source], check=True, timeout=120)
    sys.path.insert(0, str(place / "site"))
    yield place / "site"
    sys.path.remove(str(place / "site"))
    for name in [name for name in sys.modules if name.split(".")[0] == "next_token"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def folder(site, tmp_path_factory):
    """A run, made by the command line in a process of its own."""
    place = tmp_path_factory.mktemp("next-token")
    words = [sys.executable, "-m", "untrain", "run", EXAMPLE / "next_token.yaml", *SMALL, "--out", place / "run"]
    done = subprocess.run(words, env=python_path(site), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "run"


def command(*words):
    code, out, err = run(*words)
    assert code == 0, err[-3000:]
    return out


def test_sfron_forgets_the_facts(folder):
    models = json.loads((folder / "evaluation.json").read_text())["models"]
    assert models["original"]["forget_exact"] > 90, "it knew them"
    assert models["sfron"]["forget_exact"] < 10
    assert models["sfron"]["retain_exact"] > 90
    assert models["sfron"]["AvgD"] < models["original"]["AvgD"] / 2
    assert models["retrained"]["test_exact"] < 10, "nobody can guess them"


def test_the_page_has_its_own_measures_and_a_verdict(folder):
    page = (folder / "report.html").read_text()
    assert "Exact match on forgotten facts" in page
    assert "Of the forgotten facts it still knows" in page
    assert "SFR-on brought the model from" in page
    (folder / "report.html").unlink()
    with figures_by(drawn):
        command("report", folder)
    assert (folder / "report.html").read_text() == page


def test_what_is_finished_is_not_made_again(folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    command("run", folder, "--resume")
    command("evaluate", folder, "--resume")
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")} == before


def test_it_is_asked_what_it_knows(folder):
    from next_token.data import make_facts

    split = json.loads((folder / "split.json").read_text())
    facts = make_facts(12, 0)[0]
    texts = [bytes(facts[i]["tokens"][0].tolist()).decode().strip("\0") for i in split["forget"]]
    for model, known in (("original", True), ("sfron", False)):
        prompt = texts[0].rpartition(" ")[0]
        said = command("sample", folder, "--model", model, "--prompt", prompt).split(": ", 1)[1].splitlines()[0]
        assert said.startswith(prompt)
        assert (said == texts[0]) == known
        assert (folder / f"samples/{model}.txt").read_text() == f"{said}\n"


def test_list_and_help(site):
    assert "language models forget facts" in command("list")
    assert "--data.countries" in command("run", EXAMPLE / "next_token.yaml", "--help")
    assert "goes on with a text" in command("sample", "--task", "next-token", "--help").lower()


def test_a_country_is_forgotten_by_name(site, tmp_path):
    from next_token.data import make_facts

    facts = make_facts(12, 0)[0]
    flags = (*SMALL[:2], "--train.steps", "2", "--forget.fraction", "null", "--forget.classes", f"[{facts.classes[3]}]")
    command("train", EXAMPLE / "next_token.yaml", *flags, "--references", "0", "--out", tmp_path / "run")
    split = json.loads((tmp_path / "run/split.json").read_text())
    assert {facts.labels[i].item() for i in split["forget"]} == {3}


def test_compare(site, tmp_path, quick_workers):
    flags = ("--data.countries", "12", "--train.steps", "3", "--compare.seeds", "[0, 1]", "--device", "cpu")
    names = ("sfron", "salun", "scrub")
    methods = [word for name in names for word in ("--method", name, f"--methods.{name}.steps", "3")]
    command("compare", EXAMPLE / "compare.yaml", *flags, *methods, "--out", tmp_path / "cmp")
    models = json.loads((tmp_path / "cmp/comparison.json").read_text())["forget_sets"]["random-10"]["models"]
    assert {"retrained-2", "sfron", "salun", "scrub"} <= models.keys()
    assert models["salun"]["measures"]["forget_exact"]["n"] == 2
    assert "Exact match on kept facts" in (tmp_path / "cmp/report.html").read_text()


def test_python(folder):
    from next_token.domain import NextTokenDomain, NextTokenSections
    from untrain.data.splits import Subset
    from untrain.domain import Context
    from untrain.engine import Engine

    domain = NextTokenDomain(NextTokenSections(), Context(Engine.start("cpu"), folder))
    parts = {"forget": Subset(domain.source, range(10)), "retain": Subset(domain.source, range(10, 60))}
    module = domain.build(0)
    result = untrain.unlearn(module, **parts, task="next-token", steps=2, device="cpu")
    found = untrain.evaluate(result.model, **parts, task="next-token", reference=module, device="cpu")
    assert found.retain_exact == 0
    assert found.AvgD > 0


def test_its_functions_keep_samples_apart(site):
    """The loss is per sample and pure, as `docs/adding-a-task.md` asks; the Fisher diagonal is that of a loop."""
    from next_token.domain import NextTokenDomain, NextTokenSections
    from untrain.domain import Context
    from untrain.engine import Engine

    domain = NextTokenDomain(NextTokenSections(), Context(Engine.start("cpu"), folder=None))
    task, module = domain.task, domain.build(0).double().eval()
    batch = domain.source.batch(torch.tensor([5, 2, 40]))
    losses, alone = task.loss(module, batch), domain.source.batch(torch.tensor([2]))
    assert torch.allclose(losses[1:2], task.loss(module, alone), rtol=1e-9)
    drawn = task.draw(batch, torch.Generator().manual_seed(3), "train")
    assert drawn["tokens"].shape[1] == 1
    assert task.draw(batch, torch.Generator(), "fisher") is batch
    other = task.variant(drawn, "redirect")
    assert (other["tokens"] != drawn["tokens"]).any(dim=(1, 2)).all()
    outputs = task.outputs(module, batch)
    assert torch.allclose(task.divergence(outputs, outputs.detach()), torch.zeros(3, dtype=torch.float64))
    found = untrain.fisher_diagonal(module, task, [batch])
    slow = [torch.autograd.grad(loss, module.transformer.h[0].mlp.c_fc.weight, retain_graph=True)[0] for loss in losses]
    expected = torch.stack(slow).square().mean(0)
    assert torch.allclose(found["transformer.h.0.mlp.c_fc.weight"], expected, rtol=1e-6)


def test_no_line_of_ours_names_it():
    for path in (ROOT / "src").rglob("*.py"):
        assert "next-token" not in (text := path.read_text(encoding="utf-8")), path
        assert "next_token" not in text, path
