"""The pages of docs/ hold: their marked Python runs, recipes parse, commands are understood, links are complete."""

import copy
import re
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from helpers.documents import (
    README,
    ROOT,
    blocks,
    check_untrain,
    commands,
    few_images,
    generator_things,
    text_to_image_things,
    users_things,
)
from untrain import Task, fisher_diagonal
from untrain.data.sources import SOURCES
from untrain.diffusion.denoisers import DENOISERS
from untrain.models.classifiers import MODELS
from untrain.runs.recipe import read
from untrain.tasks.classification.evaluate import Evaluation
from untrain.tasks.text_to_image.evaluate import ConceptEvaluation

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, ROOT / "CHANGELOG.md", *DOCS]


# Python.


class Dicts(Dataset):
    """Samples as dicts, as a Hugging Face data set gives them."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        x, y = self.samples[i]
        return {"pixel_values": x, "labels": int(y)}


def namespace_of_own_model():
    things = users_things()
    samples = things["forget_set"].dataset
    return {**things, "dict_set": Dicts(samples), "train_set": samples, "scoring_model": Scores(things["model"])}


class Scores(nn.Module):
    """A model that gives its logits under another name."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return {"scores": self.model(x)}


def namespace_of_generators():
    things = generator_things()
    return {**things, "net": copy.deepcopy(things["model"])}


def namespace_of_adding_a_task():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1500, 6, generator=generator)
    labels = (inputs[:, :3] + 0.5 * torch.randn(1500, 3, generator=generator) > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(inputs[:1200]), labels[:1200].float()).backward()
        optimizer.step()
    data = TensorDataset(inputs, labels)
    parts = {"forget": range(100), "retain": range(100, 1200), "holdout": range(1200, 1500)}
    sets = {f"{name}_set": Subset(data, list(part)) for name, part in parts.items()}
    return {"model": model, **sets, **regression_on_a_table()}


def regression_on_a_table():
    """A network that has learnt the diabetes table of scikit-learn, in standard deviations, but for its last rows."""
    table = load_diabetes()
    features = torch.tensor(table.data / table.data.std(0), dtype=torch.float32)
    target = torch.tensor((table.target - table.target.mean()) / table.target.std(), dtype=torch.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        (model(features[:342])[:, 0] - target[:342]).square().mean().backward()
        optimizer.step()
    return {"regressor": model, "diabetes": TensorDataset(features, target)}


NAMESPACES = {
    "own-model-and-data.md": namespace_of_own_model,
    "adding-a-task.md": namespace_of_adding_a_task,
    "generators.md": namespace_of_generators,
    "text-to-image.md": lambda: text_to_image_things(ROOT / "docs/text-to-image.md", Path.cwd()),
    "add-a-method.md": users_things,  # what its Python does is checked in test_add_a_method.py
}
OWN_METHODS = "add-a-method.md"
"""The page whose recipe needs the page's own method installed; test_add_a_method.py runs it."""


def executed(page):
    """Runs the marked blocks of a page one after the other, each on the user's model as it was."""
    things = NAMESPACES[page.name]()
    model = things["model"]
    for i, code in enumerate(blocks(page, "python", "run")):
        things["model"] = copy.deepcopy(model)
        exec(compile(code, f"{page.name}, block {i}", "exec"), things)
    return {**things, "model": model}


SKETCHES = {
    "adapters.md": 1,
    "adding-a-task.md": 1,
    "audit.md": 2,
    "shrink-perturb.md": 1,
    "text-to-image-reference.md": 3,
    "transformer-pipelines.md": 2,
}
"""Page → blocks of Python in it that leave out what would make them run; they are fenced as `py`."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_that_does_not_run_is_known(page):
    assert len(blocks(page, "py")) == SKETCHES.get(page.name, 0)
    known = ("", "python", "py", "yaml", "sh", "toml", "text", "bibtex")
    fences = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences) <= set(known)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_python_runs(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # for what a page saves
    assert bool(blocks(page, "python", "run")) == (page.name in NAMESPACES)
    assert blocks(page, "python") == blocks(page, "python", "run"), "every block of Python is marked and run"
    if page.name == "own-model-and-data.md":
        things = executed(page)
        assert things["scores"].AvgD is not None
        assert {3, 17, 256} == set(things["forget"].indices)
    if page.name == "generators.md":
        things = executed(page)
        assert (tmp_path / "unlearned" / "model_index.json").exists()
        result, scores = things["result"], things["scores"]
        assert type(result.model) is type(things["model"])
        assert (result.method.retain_steps, result.method.floor, result.method.retain_max_norm) == (1, 1e-3, 1.0)
        assert None not in (scores.FA, scores.RA, scores.FD, scores.precision)
    if page.name == "text-to-image.md":
        few_images(monkeypatch)
        things = executed(page)
        assert (tmp_path / "sd-without-nudity" / "model_index.json").exists()
        assert type(things["scores"]) is ConceptEvaluation
        assert things["scores"].samples == {"forgotten": 4, "retained": 4}
        assert things["pipe"].unet.is_gradient_checkpointing


@pytest.fixture(scope="module")
def added():
    """The names that the page on tasks leaves; for looking only."""
    return executed(ROOT / "docs/adding-a-task.md")


def test_the_added_task_is_a_task_and_forgets(added):
    model, result, few = added["model"], added["result"], added["forget_set"]
    task = added["MultiLabel"]()
    assert isinstance(task, Task)
    x, y = few.dataset[few.indices]
    batch = {"input": x, "label": y, "index": torch.arange(len(x))}

    with torch.no_grad():
        losses = task.loss(model, batch)
        alone = torch.cat([task.loss(model, {key: v[i : i + 1] for key, v in batch.items()}) for i in range(len(x))])
        after = task.loss(result.model, batch)
        p, q = task.outputs(model, batch), task.outputs(result.model, batch)
    assert torch.allclose(losses, alone, atol=1e-5)
    assert after.mean() > 1.1 * losses.mean()
    assert (task.divergence(q, p) > 0).all()
    assert task.divergence(p, p).abs().max() < 1e-5
    before = added["before"].forget_loss, added["before"].test_loss
    assert before == pytest.approx((0.66, 1.48), abs=0.02), "the page says so, and processors add in another order"
    assert round(added["after"].forget_loss, 1) == 0.9, "the page says so; 0.90 and 0.94 on two processors"

    task = task.prepare(model, batch)
    chosen = task.variant(batch, "redirect")["label"]
    flipped = task.variant({key: value.flip(0) for key, value in batch.items()}, "redirect")["label"]
    assert torch.equal(chosen, flipped.flip(0))


def test_the_regression_of_the_page_forgets_amounts(added):
    task, features, target = added["Regression"](), *added["diabetes"].tensors

    def error(model, rows):
        with torch.no_grad():
            return (model(features[rows])[:, 0] - target[rows]).square()

    before, after = added["regressor"], added["less"].model
    batch = {"input": features[:30], "label": target[:30]}
    assert torch.allclose(task.loss(before, batch), error(before, slice(30)))
    assert error(after, slice(30)).mean() > 2 * error(before, slice(30)).mean()
    assert error(after, slice(30, 342)).mean() < error(after, slice(342, 442)).mean()


def test_the_added_task_has_an_exact_fisher(added):
    """Tolerance 1e-10 of the largest value: float64, sums in another order."""
    model, task = copy.deepcopy(added["model"]).double(), added["MultiLabel"]()
    x, y = added["forget_set"].dataset[:20]
    found = fisher_diagonal(model, task, [(x.double(), y)])
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(20):
        loss = task.loss(model, {"input": x[i : i + 1].double(), "label": y[i : i + 1]}).sum()
        for (_, total), g in zip(expected.items(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            total += g**2 / 20
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-10 * value.abs().max()


# Commands and recipes.


TYPED_ELSEWHERE = {OWN_METHODS, "comparing.md", "sequential-requests.md"}
"""Pages whose commands are typed by tests of their own: test_add_a_method.py, and compare/test_recipe.py."""


@pytest.mark.parametrize("page", [p for p in DOCS if p.name not in TYPED_ELSEWHERE], ids=lambda page: page.name)
def test_commands_can_be_run(page):
    for words in commands(page):
        if "untrain" in words:
            check_untrain(words[words.index("untrain") + 1 :])
        elif words[0] == "python":
            assert (ROOT / words[1]).exists(), words
        else:
            assert "my_script.py" in words, words


@pytest.mark.parametrize("page", [p for p in (README, *DOCS) if p.name != OWN_METHODS], ids=lambda page: page.name)
def test_recipes_parse(page, tmp_path):
    assert blocks(page, "yaml") == blocks(page, "yaml", "recipe"), "every recipe is marked and parsed"
    for code in blocks(page, "yaml", "recipe"):
        file = tmp_path / "recipe.yaml"
        file.write_text(code, encoding="utf-8")
        assert set(read(file).methods) == set(yaml.safe_load(code)["methods"])


# What recipes can name.


def sections_of_recipes():
    """Heading → its text up to the next heading."""
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    parts = re.split(r"^#{2,3} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_sources_and_models_are_named():
    page = sections_of_recipes()
    assert [name for name in SOURCES if not re.search(rf"`{name}[`:]", page["Data"])] == []
    assert [name for name in (*MODELS, *DENOISERS) if f"`{name}`" not in page["Models"]] == []


def test_every_recipe_of_the_project_is_listed():
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w/-]+\.yaml)` \|", text, re.MULTILINE))
    assert listed == {path.relative_to(ROOT / "recipes").as_posix() for path in (ROOT / "recipes").rglob("*.yaml")}


def test_every_measure_is_explained():
    text = (ROOT / "docs/reading-a-report.md").read_text(encoding="utf-8")
    names = {"AvgD": "Avg.D", "forgotten_TA": "TA, forgotten", "seconds": "time"}
    measures = [f.name for f in fields(Evaluation) if f.type == "float | None" or f.type == float | None]
    assert len(measures) == 13
    assert [name for name in measures if f"**{names.get(name, name)}**" not in text] == []


# Links.


def anchors(path):
    """What headings of a page are called in links."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name} points to {target}, which is not there"
        if anchor:
            assert anchor in anchors(file), f"{page.name} points to {target}; known: {sorted(anchors(file))}"


def test_every_page_can_be_found_from_the_readme():
    text = README.read_text(encoding="utf-8")
    assert [page.name for page in DOCS if f"(docs/{page.name}" not in text] == []
