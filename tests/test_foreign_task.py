"""A task of another distribution has what ours have: every command and the Python interface, by its own measures."""

import json
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

import untrain
from helpers.command_line import untrain as run
from helpers.page_figures import drawn, figures_by
from helpers.regression import Regression, RegressionDomain, install
from untrain import Domain, Task, registry
from untrain.data.columns import Columns
from untrain.data.splits import Subset
from untrain.domain import Context, flaw_of
from untrain.engine import Engine
from untrain.errors import DataError, EmptySet, ModelError, SettingError
from untrain.objectives import loss_score

RECIPE = """\
name: table
task: regression
forget: {fraction: 0.1, holdout: 0.2}
train: {epochs: 60, optimizer: {name: adamw, lr: 1e-2, momentum: 0, weight_decay: 0}}
methods: {sfron: {steps: 80}, finetune: {}}
references: 2
batch_size: 32
device: cpu
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder on the path, as site-packages is, in which the task is installed."""
    folder = tmp_path / "site"
    install(folder, {"regression": "helpers.regression:RegressionDomain"})
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.yaml").write_text(RECIPE)
    return folder


def done(*words):
    code, out, err = run(*words)
    assert code == 0, err[-3000:]
    return out + err


def domain(**sections):
    context = Context(Engine.start("cpu"), folder=None)
    return RegressionDomain(RegressionDomain.Sections(**sections), context)


def test_what_is_installed_later_is_found_and_the_rest_is_read_once(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert "later" not in registry.names()
    install(tmp_path, {"later": "helpers.regression:RegressionDomain"})
    assert "later" in registry.names()
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.entry_points", None)
        assert "later" in registry.names()
    monkeypatch.undo()
    assert "later" not in registry.names()


def test_run_evaluate_and_report(site, tmp_path):
    assert "Regression on a table." in done("list")
    assert "--width" in done("run", "table.yaml", "--help")
    with figures_by(drawn):
        done("run", "table.yaml", "--out", "run")
    content = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert content["models"].keys() == {"original", "retrained", "retrained-2", "sfron", "finetune"}
    measured = content["models"]["sfron"]
    assert {"forget_loss", "retain_loss", "test_loss", "forget_near", "AvgD", "seconds"} <= measured.keys()
    assert content["models"]["retrained"]["AvgD"] == 0
    assert content["noise_floor"]["AvgD"] > 0
    page = (tmp_path / "run/report.html").read_text()
    assert "Near on the forget set" in page
    assert "SFR-on brought the model from an average distance of" in page, "the verdict"
    (tmp_path / "run/report.html").unlink()
    with figures_by(drawn):
        done("report", "run")
    assert (tmp_path / "run/report.html").read_text() == page
    kept = (tmp_path / "run/sfron.safetensors").stat().st_mtime_ns
    done("run", "run", "--resume")
    done("evaluate", "run", "--resume")
    assert (tmp_path / "run/sfron.safetensors").stat().st_mtime_ns == kept, "it was there already"
    code, _, err = run("sample", "run")
    assert code == 1
    assert "regression" in err, "it generates nothing"


def test_forget_a_class_by_name(site, tmp_path):
    flags = ("--forget.fraction", "null", "--forget.classes", "[other]", "--method", "finetune", "--references", "0")
    done("train", "table.yaml", *flags, "--out", "run", "--train.epochs", "1")
    split = json.loads((tmp_path / "run/split.json").read_text())
    source = domain().source
    assert {source.labels[i].item() for i in split["forget"]} == {1}
    assert {source.labels[i].item() for i in split["retain"]} == {0}


def test_compare_with_a_search(site, tmp_path, quick_workers):
    flags = ("--compare.seeds", "[0]", "--compare.trials", "2", "--method", "sfron", "--data.rows", "300")
    done("compare", "table.yaml", *flags, "--train.epochs", "20", "--out", "cmp")
    content = json.loads((tmp_path / "cmp/comparison.json").read_text())["forget_sets"]["random-10"]
    assert content["models"]["sfron"]["measures"]["forget_near"]["n"] == 1
    trials = json.loads((tmp_path / "cmp/tuning/random-10/sfron.trials.json").read_text())["trials"]
    assert all(0 <= trial["criterion"] <= 100 for trial in trials), trials
    assert "Near on the forget set" in (tmp_path / "cmp/report.html").read_text()


def test_python(site, tmp_path):
    """By name, and by an object, whose class has no name: the domain is found by it."""
    opened = domain()
    source, model, other = opened.source, opened.build(0), opened.build(1)
    parts = [torch.arange(first, last) for first, last in ((0, 20), (20, 160), (160, 200))]
    sets = dict(zip(("forget", "retain", "holdout"), (Subset(source, part) for part in parts), strict=True))
    for task in ("regression", Regression()):
        result = untrain.unlearn(model, **sets, task=task, steps=2, device="cpu", out=tmp_path / type(task).__name__)
        assert len(result.history) == 2
    assert registry.domain_of(Regression()) is RegressionDomain
    asked = {name: sets[name] for name in ("forget", "retain")}
    found = untrain.evaluate(result.model, **asked, task="regression", reference=[other, model], device="cpu")
    assert 0 <= found.forget_near <= 100
    assert found.AvgD > 0
    assert found.noise_floor["AvgD"] > 0
    assert "forget_near" in repr(found)
    alone = untrain.evaluate(model, **asked, task=Regression(), out=tmp_path / "measured", device="cpu")
    assert "AvgD" in alone.missing
    with pytest.raises(AttributeError, match="forget_near"):
        _ = alone.nothing
    assert (tmp_path / "measured/report.html").exists()


def test_a_task_object_without_a_domain_is_measured_by_its_losses():
    data = [{"features": torch.randn(6, 10), "target": torch.randn(6)}]
    same = [{name: values.clone() for name, values in data[0].items()}]
    found = untrain.evaluate(nn.Linear(10, 1), forget=data, retain=same, task=Regression(), device="cpu")
    assert found.forget_loss == found.retain_loss > 0


class Tagging(Task):
    """A tag for every token, of a sample with several inputs: only what must be is defined."""

    def outputs(self, model, batch):
        return model(batch)

    def loss(self, model, batch):
        losses = nn.functional.cross_entropy(self.outputs(model, batch).movedim(-1, 1), batch["tags"], reduction="none")
        return (losses * batch["mask"]).sum(1) / batch["mask"].sum(1)


class Tagger(nn.Module):
    """Embeds tokens, and their case, side by side."""

    def __init__(self):
        super().__init__()
        self.tokens, self.case, self.head = nn.Embedding(20, 8), nn.Embedding(2, 8), nn.Linear(16, 3)

    def forward(self, batch):
        return self.head(torch.cat([self.tokens(batch["tokens"]), self.case(batch["case"])], dim=-1))


def tagged(rows=40):
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 20, (rows, 6), generator=g)
    return {"tokens": tokens, "case": tokens % 2, "tags": tokens % 3, "mask": torch.ones(rows, 6, dtype=torch.bool)}


def test_samples_of_several_integers_without_labels():
    source = Columns(tagged())
    assert source.classes == ("all",)
    assert source.batch(torch.tensor([3, 1]))["tokens"].dtype == torch.int64
    sets = {"forget": Subset(source, range(5)), "retain": Subset(source, range(5, 40))}
    for method in ("sfron", "scrub", "finetune", "ssd"):
        result = untrain.unlearn(Tagger(), **sets, task=Tagging(), method=method, device="cpu")
        assert result.model(source.batch(torch.arange(2))).shape == (2, 6, 3)
    with pytest.raises(SettingError, match="variants"):
        untrain.unlearn(Tagger(), **sets, task=Tagging(), method="salun", device="cpu")


def test_the_loss_is_tried_before_anything_is_trained():
    sets = {"forget": Subset(Columns(tagged()), range(5)), "retain": Subset(Columns(tagged()), range(5, 40))}
    with pytest.raises(ModelError, match=r"tokens.*\[2, 6\]"):
        untrain.unlearn(nn.Linear(6, 3), **sets, task=Tagging(), device="cpu")

    class Reduced(Tagging):
        def loss(self, model, batch):
            return super().loss(model, batch).mean()

    with pytest.raises(ModelError, match=r"\[2\].*not reduced"):
        untrain.unlearn(Tagger(), **sets, task=Reduced(), device="cpu")


# Sources.


def test_columns_are_a_source():
    columns = Columns(
        {"x": torch.arange(6.0), "y": torch.arange(12).view(6, 2)}, [0, 1, 0, 1, 0, 1], ids=list("abcdef")
    )
    part = columns.select(torch.tensor([4, 1]))
    assert (part.ids, part.labels.tolist()) == (("e", "b"), [0, 1])
    assert part[0]["y"].tolist() == [8, 9]
    assert part[-1]["index"] == 1
    assert columns.fingerprint() != part.fingerprint()
    assert Columns(columns.columns, [0, 1, 0, 1, 0, 0]).fingerprint() != columns.fingerprint()
    assert columns.to("cpu") is columns


def test_a_map_style_data_set_becomes_a_source():
    pairs = TensorDataset(torch.randn(5, 3), torch.randn(5))
    source = Columns.read(pairs)
    assert source.columns.keys() == {"input", "label"}
    assert torch.equal(source.batch(torch.tensor([2]))["label"], pairs.tensors[1][[2]]), "a target need be no class"
    dicts = [{"text": torch.tensor([i, i]), "n": i} for i in range(4)]
    assert Columns.read(_Dicts(dicts)).columns["n"].tolist() == [0, 1, 2, 3]


class _Dicts(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


class _Iterable(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter([(torch.zeros(2), 0)] * 3)


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda: Columns({"x": torch.zeros(3), "y": torch.zeros(2)}), DataError, "'y': 2"),
        (lambda: Columns({}), DataError, "at least one"),
        (lambda: Columns({"index": torch.zeros(3)}), DataError, "index"),
        (lambda: Columns({"x": torch.zeros(0, 2)}), EmptySet, "no sample"),
        (lambda: Columns({"x": torch.tensor([0.0, float("nan")])}), DataError, "sample 1"),
        (lambda: Columns({"text": [[1, 2], [3]]}), DataError, "text.*pad"),
        (lambda: Columns({"text": ["a", "b"]}), DataError, "text.*tokenise"),
        (lambda: Columns({"x": torch.zeros(2)}, [0.5, 1.0]), DataError, "column like any other"),
        (lambda: Columns.read(_Iterable()), DataError, "IterableDataset"),
        (lambda: Columns.read(_Dicts([{"text": "a"}])), DataError, "text"),
    ],
)
def test_data_that_do_not_fit(make, error, word):
    with pytest.raises(error, match=word):
        make()


def test_a_search_by_losses_in_closed_form():
    """A model that is as it should be is 0 away; the original, and one that lost all, a third or two of 100."""
    original = {"forget": torch.zeros(4), "retain": torch.zeros(9), "held": torch.full((5,), 4.0)}
    assert loss_score(original, original) == pytest.approx(100 / 3)
    assert loss_score({**original, "forget": torch.full((4,), 4.0)}, original) == 0
    assert loss_score({**original, "forget": torch.full((4,), 3.0)}, original) == pytest.approx(25 / 3)
    lost = {**original, "forget": torch.full((4,), 4.0), "retain": torch.full((9,), 40.0)}
    assert loss_score(lost, original) == pytest.approx(100 / 3), "a gap counts as 100 at most"


# What a domain forgets.


def test_what_a_domain_lacks_is_said():
    class Empty(Domain):
        name = "empty"

    assert flaw_of("empty", Empty) == "does not define build, load, task_class, Sections"

    class Lossless(Task):
        def outputs(self, model, batch):
            return model(batch["x"])

    class NoLoss(RegressionDomain):
        name = "no-loss"
        task_class = Lossless

    assert "Lossless, that does not define loss" in flaw_of("no-loss", NoLoss)

    class Plain(RegressionDomain):
        name = "plain"
        presentation = RegressionDomain.presentation.measures

    assert "untrain.Presentation" in flaw_of("plain", Plain)
    with pytest.raises(SettingError, match="lacks .*prepare"):
        registry.resolve(object())
    with pytest.raises(SettingError, match="is a class"):
        registry.resolve(Regression)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ([1, 2], "two sources"),
        (Columns(tagged()), "two sources"),
        ((TensorDataset(torch.zeros(3, 1)), None), "TensorDataset.*Columns.read"),
        ((None, None), "NoneType"),
        ((Columns(tagged()), {"x": 1}), "dict as test"),
    ],
)
def test_load_must_give_two_sources(given, word):
    class Strange(RegressionDomain):
        def load(self):
            return given

    with pytest.raises(DataError, match=word):
        Strange(Strange.Sections(), Context(Engine.start("cpu"), folder=None))


def test_there_need_be_no_test_samples():
    class Untested(RegressionDomain):
        def load(self):
            return super().load()[0], None

    sections = Untested.Sections(forget=untrain.data.sections.Forget(fraction=0.1))
    opened = Untested(sections, Context(Engine.start("cpu"), folder=None))
    assert opened.evaluation_sets(opened.divide()).keys() == {"forget", "retain"}


def test_a_broken_distribution_is_named_and_stops_nothing_else(tmp_path, monkeypatch):
    install(tmp_path, {"lost": "nowhere:Lost"}, "lost-task")
    monkeypatch.syspath_prepend(tmp_path)
    assert "lost-task 1.2" in done("list")
    code, _, err = run("run", "--task", "lost")
    assert code == 1
    assert "lost-task 1.2" in err
    assert "nowhere" not in sys.modules
