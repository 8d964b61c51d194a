"""Bad input, as a user gives it: one clear message that names culprit and remedy, nothing half-written.

In Python every failure is one of `untrain.UntrainError`; the command line says the same in a line and exits with 1.
"""

import errno
import os
import re
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from helpers.command_line import RECIPE, files, untrain, weights
from untrain import Classification, Optimizer, UntrainError, evaluate, fisher_diagonal, unlearn
from untrain import io as untrain_io
from untrain.errors import (
    CheckpointError,
    DataError,
    Diverged,
    EmptySet,
    FolderError,
    ModelError,
    Overlap,
    SettingError,
    StaleFile,
    UnknownName,
)
from untrain.methods.finetune import Finetune

SGD = Optimizer("sgd", 0.05)


class Records(Dataset):
    """A user's own data set: samples are computed on access, and it may have ids."""

    def __init__(self, count, seed=0, ids=None):
        g = torch.Generator().manual_seed(seed)
        self.x, self.y = torch.randn(count, 6, generator=g), torch.randint(0, 3, (count,), generator=g)
        if ids is not None:
            self.ids = ids

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def network(seed=0, layer=None):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), *([layer] if layer else []), nn.ReLU(), nn.Linear(8, 3))


def tensors(count, seed=0):
    records = Records(count, seed)
    return TensorDataset(records.x, records.y)


@pytest.fixture
def attempt(tmp_path):
    """Unlearning with something wrong in it must fail and write nothing."""

    def fails(error, message, **wrong):
        out = tmp_path / "out"
        settings = {"steps": 3, "optimizer": SGD, "forget": tensors(20, 1), "retain": tensors(60, 2), "device": "cpu"}
        model = wrong.pop("model", None) or network()
        with pytest.raises(error, match=message) as caught:
            unlearn(model, **{**settings, "out": out, **wrong})
        assert isinstance(caught.value, UntrainError)
        assert files(out) == []
        assert not out.exists()

    return fails


# ── sets ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "empty", [[], TensorDataset(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)), Subset(tensors(5), [])]
)
@pytest.mark.parametrize("name", ["forget", "retain", "holdout"])
def test_an_empty_set(attempt, empty, name):
    attempt(EmptySet, f"the {name} set is empty: give it at least one sample", **{name: empty})


def test_forget_and_retain_share_samples_by_index(attempt):
    data = tensors(30)
    sets = {"forget": Subset(data, range(10)), "retain": Subset(data, range(8, 30))}
    attempt(Overlap, r"forget and retain: 2 samples are in both .*first: index 8\). Remove them from one", **sets)
    attempt(Overlap, "forget and retain: 30 samples are in both", forget=data, retain=data)
    sets = {"forget": Subset(data, range(10)), "retain": Subset(data, range(10, 30)), "holdout": Subset(data, [29])}
    attempt(Overlap, "retain and holdout: 1 samples", **sets)


def test_forget_and_retain_share_samples_by_id(attempt):
    sets = {"forget": Records(3, 1, ids=["a", "b", "c"]), "retain": Records(4, 2, ids=["d", "c", "e", "f"])}
    attempt(Overlap, r"1 samples are in both .*first: id c\)", **sets)


def test_a_list_of_batches_that_is_both_sets(attempt):
    batches = [(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64))]
    attempt(Overlap, "forget and retain", forget=batches, retain=batches)


def test_equal_content_is_a_warning():
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    forget, retain = TensorDataset(x[:10].clone(), y[:10]), TensorDataset(x[8:].clone(), y[8:])
    with pytest.warns(
        UserWarning, match="2 samples of the forget set are equal to samples of the retain set .*number 8"
    ):
        result = unlearn(network(), forget=forget, retain=retain, method="finetune", steps=1, optimizer=SGD)
    assert len(result.history) == 1


def test_an_index_out_of_range_or_twice(attempt):
    data = tensors(30)
    attempt(DataError, "index 30 of the forget set is out of range, which is 0 to 29", forget=Subset(data, [1, 30]))
    attempt(DataError, "index -1 of the forget set is out of range", forget=Subset(data, [-1]))
    attempt(DataError, "index 5 comes twice in the forget set", forget=Subset(data, [5, 1, 5]))


class Endless(IterableDataset):
    """Samples without numbers."""

    def __iter__(self):
        yield torch.zeros(6), 0


class Served(DataLoader):
    """A loader that makes batches in a way of its own."""

    def __iter__(self):
        yield torch.zeros(2, 6), torch.zeros(2, dtype=torch.long)


def loaders():
    data = tensors(10)
    return {
        "batch_sampler": DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 4, False)),
        "IterableDataset": DataLoader(Endless(), 4),
        "Served": Served(data, 4),
        "list": DataLoader(data, 4, sampler=[0, 1, 2]),
    }


@pytest.mark.parametrize("word", loaders())
def test_a_data_loader_whose_samples_cannot_be_told(attempt, word):
    attempt(DataError, rf"the retain set is a .*{word}.*list\(loader\)", retain=loaders()[word])


NUMBERS = torch.zeros(3, 6), torch.zeros(3, dtype=torch.long)
FRAME = pandas.DataFrame({"a": [1.0, 2.0], "label": [0, 1]})


@pytest.mark.parametrize(
    ("data", "remedy"),
    [
        (3, "map-style"),
        ("path", "map-style"),
        (NUMBERS[0], r"TensorDataset\(x, y\)"),
        ([*NUMBERS], r"TensorDataset\(x, y\)"),
        (NUMBERS, r"TensorDataset\(x, y\)"),
        (tuple(each.numpy() for each in NUMBERS), r"TensorDataset\(torch.from_numpy\(x\)"),
        (NUMBERS[0].numpy(), r"TensorDataset\(torch.from_numpy\(x\)"),
        ({"input": NUMBERS[0]}, r"\[data\]"),
        ((i for i in range(3)), r"list\(data\)"),
        (Endless(), r"list\(DataLoader"),
        (FRAME, "TensorDataset.*to_numpy"),
        (FRAME["a"], "TensorDataset.*to_numpy"),
        (datasets.Dataset.from_dict({"label": [1]}).to_iterable_dataset(), "map-style"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict({"label": [1]})}), r"data\['train'\]"),
        (datasets.Dataset.from_dict({"label": [1]}).with_format("pandas"), r"with_format\('torch'\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("name", ["forget", "retain", "holdout"])
def test_what_is_no_data_set(attempt, data, remedy, name):
    attempt(DataError, f"the {name} set is .*{remedy}", **{name: data})


def test_a_mask_as_indices_of_a_subset(attempt):
    data = tensors(10)
    mask = [i < 4 for i in range(10)]
    for given in (mask, torch.tensor(mask), np.array(mask)):
        attempt(DataError, r"indices of the forget set.*mask.*nonzero\(\)", forget=Subset(data, given))
    attempt(DataError, r"indices of the forget set.*whole numbers", forget=Subset(data, torch.rand(3)))


def test_a_list_of_single_samples(attempt):
    singles = [(torch.randn(6), torch.tensor(1)), (torch.randn(6), torch.tensor(2))]
    attempt(
        DataError, "entry 0 of the forget list is not a batch.*wrap single samples in a torch Dataset", forget=singles
    )


def test_labels_outside_the_models_outputs(attempt):
    x, y = torch.randn(20, 6), torch.randint(0, 3, (20,))
    y[17] = 3
    message = r"forget set: label 3 \(first: index 17\) lies outside the model's outputs: it has 3, numbered 0 to 2"
    attempt(DataError, message, forget=TensorDataset(x, y))
    attempt(DataError, message, forget=[(x, y)], method="finetune")
    with pytest.raises(DataError, match=r"label 3 \(first: index 17\)"):
        evaluate(network(), forget=TensorDataset(x, y), retain=tensors(9), test=tensors(9, 3))
    with pytest.raises(DataError, match=r"label 3 \(first: index 17\)"):
        fisher_diagonal(network(), "classification", TensorDataset(x, y))


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        (torch.rand(20), "Regression"),
        (torch.rand(20, 1), "Regression"),
        (torch.rand(20, 3), r"argmax\(1\).*Regression"),
        (torch.arange(20.0) % 3, r"label\.long\(\)"),
        (torch.arange(20)[:, None] % 3, r"squeeze\(1\)\.long\(\)"),
        (torch.eye(3)[torch.arange(20) % 3], r"argmax\(1\).*MultiLabel"),
        (torch.ones(20, 3, dtype=torch.int64), r"argmax\(1\).*MultiLabel"),
        (torch.ones(20, 3, dtype=torch.bool), r"argmax\(1\).*MultiLabel"),
        (torch.zeros(20, 4, 4, dtype=torch.int64), "each pixel"),
        (torch.tensor([0, 1] * 9 + [255, 0], dtype=torch.uint8), r"label 255 \(first: index 18\).*leave them out"),
        (torch.tensor([0, 1] * 9 + [-100, 0]), r"label -100 \(first: index 18\).*leave them out"),
    ],
)
@pytest.mark.parametrize("name", ["forget", "retain"])
def test_labels_that_are_no_class_numbers(attempt, labels, remedy, name):
    attempt(DataError, f"^{name} set: .*{remedy}", **{name: TensorDataset(torch.randn(20, 6), labels)})
    attempt(DataError, f"^{name} set: .*{remedy}", **{name: [(torch.randn(20, 6), labels)]})


def test_labels_that_are_texts(attempt):
    class Spoken(Records):
        def __getitem__(self, i):
            return {"input": self.x[i], "label": "cat"}

    attempt(DataError, "'label' of the forget set is text.*number the classes", forget=Spoken(9))


def test_one_output_for_yes_and_no(attempt):
    data = TensorDataset(torch.randn(20, 6), torch.arange(20) % 2)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    attempt(DataError, "label 1 .*MultiLabel", model=model, forget=data)


def test_nan_in_the_data(attempt):
    bad = tensors(30, 2)
    bad.tensors[0][7, 2] = float("nan")
    message = r"1 samples of a batch of the retain set hold NaN or infinity in 'input' \(first: index 7\). Remove or"
    attempt(DataError, message, retain=bad)
    attempt(DataError, message, retain=[tuple(bad.tensors)])
    with pytest.raises(DataError, match="index 7"):
        evaluate(network(), forget=bad, retain=tensors(9), test=tensors(9, 3))


def test_samples_that_do_not_fit_together_or_cannot_be_read(attempt):
    class Ragged(Records):
        def __getitem__(self, i):
            return (torch.zeros(3 + i), 0)

    class Broken(Records):
        def __getitem__(self, i):
            raise OSError("disk on fire")

    class Pictures(Records):
        def __getitem__(self, i):
            return Image.new("L", (2, 2)), 0

    attempt(DataError, "samples of the forget set cannot be put into one batch.*the same shape", forget=Ragged(9))
    attempt(DataError, "'input' of the forget set is an image of PIL.*transform", forget=Pictures(9))
    attempt(DataError, r"sample \d of the forget set could not be read: OSError: disk on fire", forget=Broken(9))


def test_what_a_worker_process_cannot_read_is_said_without_its_traceback():
    class Broken(Records):
        def __getitem__(self, i):
            if i == 11:
                raise OSError("disk on fire")
            return super().__getitem__(i)

    with pytest.raises(DataError, match="^sample 11 of the retain set could not be read") as caught:
        unlearn(network(), forget=tensors(9), retain=Broken(12), method="finetune", epochs=2, optimizer=SGD, workers=1)
    assert "Traceback" not in str(caught.value)


def test_data_with_other_names(attempt):
    class Named(Records):
        def __getitem__(self, i):
            return {"pixels": self.x[i], "target": self.y[i]}

    class Twice(Records):
        def __getitem__(self, i):
            return {"input": self.x[i], "target": self.y[i], "y": self.y[i]}

    class Unlabelled(Records):
        def __getitem__(self, i):
            return {"input": self.x[i]}

    attempt(DataError, r"the data has no 'input', only \['index', 'label', 'pixels'\]: map its names", forget=Named(9))
    attempt(DataError, r"the data has no 'label', only \['index', 'input'\]: map its names", forget=Unlabelled(9))
    attempt(DataError, r"forget set: 'y' and 'target' could each be the label", forget=Twice(9))


def test_data_that_the_model_cannot_take(attempt):
    data = TensorDataset(torch.randn(9, 5), torch.zeros(9, dtype=torch.int64))
    attempt(ModelError, r"the model cannot run on a batch of shape \(2, 5\)", forget=data)


def test_a_batch_of_one_sample_under_batch_norm(tmp_path):
    batches = [(torch.randn(8, 6), torch.randint(0, 3, (8,))), (torch.randn(1, 6), torch.tensor([1]))]
    model = network(layer=nn.BatchNorm1d(8))
    with pytest.raises(
        SettingError, match="training batch of one sample reached a batch normalisation layer.*at least two"
    ):
        unlearn(
            model, forget=tensors(9), retain=batches, method="finetune", steps=4, optimizer=SGD, out=tmp_path / "out"
        )
    left = ["config.yaml", "finetune.resume.pt", "split.json"]
    assert files(tmp_path / "out") == left, "the state before the batch, to go on from"


# ── names and settings ──────────────────────────────────────────────────────────────────────────────────────────


def test_unknown_names_list_the_known(attempt):
    attempt(UnknownName, r"unknown method 'sfrom'. Did you mean 'sfron'\? Known: .*finetune, .*sfron", method="sfrom")
    attempt(UnknownName, r"unknown task 'classify'.* Known: class-diffusion, classification", task="classify")
    attempt(SettingError, r"'lr': give optimizer=untrain.Optimizer\(\"adam\", lr=", lr=0.1)
    attempt(SettingError, r"'num_workers': give workers=", num_workers=2)
    attempt(SettingError, r"unknown setting of sfron 'alhpa'. Did you mean 'alpha'\? Known: .*gamma", alhpa=2)
    attempt(SettingError, r"task must be text or an untrain.Task, not 3", task=3)
    attempt(SettingError, r"precision must be 'no' or 'bf16' or 'fp16', not 'fp8'", precision="fp8")
    attempt(SettingError, r"device 'gpu' cannot be used", device="gpu")
    attempt(SettingError, r"batch_size must be a whole number from 1 to 2³¹ − 1 or None, not 0", batch_size=0)
    attempt(SettingError, r"workers must be a whole number from 0 to 256, not -1", workers=-1)
    attempt(SettingError, r"alpha must be above 0, not -1", alpha=-1)
    attempt(
        SettingError,
        r"a finetune object already has its settings",
        method=Finetune(3),
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": "3"}, "steps must be a whole number or None, not '3'"),
        ({"steps": 2.5}, "steps must be a whole number or None, not 2.5"),
        ({"retain_steps": True}, "retain_steps must be a whole number or None, not True"),
        ({"alpha": "2"}, "alpha must be a number, not '2'"),
        (
            {"objective": "climb"},
            "objective must be 'adaptive' or 'ascent' or 'redirect' or 'relabel' or None, not 'climb'",
        ),
        ({"optimizer": "sgd"}, "optimizer .*name, lr, .*'sgd'"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)}, "optimizer .*name, lr, .*SGD"),
        ({"optimizer": {"lrr": 0.1}}, "'optimizer.lrr'.*'optimizer.lr'"),
        ({"optimizer": {"lr": "high"}}, "lr must be a number or None, not 'high'"),
    ],
)
def test_settings_of_another_type(attempt, wrong, message):
    attempt(SettingError, message, **wrong)


def test_numbers_of_numpy_are_numbers(tmp_path):
    result = forgotten(tmp_path / "out", method="sfron", steps=np.int64(2), alpha=np.float32(0.5), retain_steps=1)
    assert (result.method.steps, result.method.alpha) == (2, 0.5)


def test_as_many_names_of_classes_as_outputs():
    with pytest.raises(DataError, match="classes has 2 names, but the model has 3 outputs"):
        evaluate(network(), forget=tensors(9), retain=tensors(9, 1), test=tensors(9, 2), classes=["a", "b"])


def test_what_is_no_model(attempt):
    attempt(ModelError, r"model must be a torch.nn.Module, not str", model="resnet18")
    result = unlearn(network(), forget=tensors(9), retain=tensors(20, 1), method="finetune", steps=1, optimizer=SGD)
    attempt(ModelError, r"model is a Result: pass its \.model", model=result)
    sets = {"forget": tensors(9), "retain": tensors(9, 1), "test": tensors(9, 2)}
    with pytest.raises(ModelError, match=r"reference is a Result: pass its \.model"):
        evaluate(network(), **sets, reference=result)
    with pytest.raises(ModelError, match="reference must be a torch.nn.Module, not str"):
        evaluate(network(), **sets, reference=["original.pt"])
    attempt(ModelError, r"num_classes is 7", task=Classification(num_classes=7))
    frozen = network().requires_grad_(False)
    with pytest.raises(ModelError, match="no parameter with requires_grad"):
        unlearn(frozen, forget=tensors(9), retain=tensors(20, 1), method="finetune", steps=1, optimizer=SGD)


def test_a_model_that_cannot_be_copied(attempt):
    model = network()
    model.kept = [model(torch.zeros(1, 6))]  # deepcopy refuses tensors with a history
    attempt(ModelError, "the model cannot be copied by copy.deepcopy.*inplace=True", model=model)
    sets = {"forget": tensors(20, 1), "retain": tensors(60, 2), "device": "cpu", "inplace": True}
    unlearn(model, **sets, steps=2, optimizer=SGD)
    with pytest.raises(ModelError, match="the model cannot be copied by copy.deepcopy"):
        unlearn(model, **sets, steps=2, optimizer=SGD, method="scrub")


# ── folders and files, from Python ──────────────────────────────────────────────────────────────────────────────


def forgotten(out, model=None, **settings):
    given = {"forget": tensors(20, 1), "retain": tensors(60, 2), "method": "finetune", "steps": 30, "optimizer": SGD}
    return unlearn(model or network(), out=out, **{**given, **settings})


def test_an_output_folder_that_holds_something(tmp_path):
    forgotten(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(
        FolderError, match=r"out already holds a run. Choose another folder, or go on with it: resume=True"
    ):
        forgotten(tmp_path / "out")
    with pytest.raises(StaleFile, match="finetune.safetensors"):
        forgotten(tmp_path / "out", resume=True, seed=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FolderError, match="file is a file. Choose another folder"):
        forgotten(tmp_path / "file")
    with pytest.raises(FolderError, match="file is a file. Choose another folder"):
        forgotten(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, whom nothing stops
    with pytest.raises(FolderError, match="cannot be written: you have no permission. Get it or choose another folder"):
        forgotten(tmp_path / "out")
    monkeypatch.undo()

    def refused(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(
        FolderError,
        match="out cannot be made: Permission denied. Get permission to write there or choose another folder",
    ):
        forgotten(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def full_disk(monkeypatch, *names):
    """From now on there is no space for files whose names end so."""
    real = os.replace

    def replace(source, target):
        if str(target).endswith(names):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(untrain_io.os, "replace", replace)


def test_a_full_disk_keeps_what_was_there_and_the_run_goes_on_later(tmp_path, monkeypatch):
    whole = forgotten(None)
    with monkeypatch.context() as patch:
        full_disk(patch, "finetune.safetensors")
        with pytest.raises(FolderError, match="finetune.safetensors cannot be written: No space left"):
            forgotten(tmp_path / "out")
    kept = ["config.yaml", "finetune.history.jsonl", "finetune.resume.pt", "split.json"]
    assert files(tmp_path / "out") == kept
    again = forgotten(tmp_path / "out", resume=True)
    made = ["finetune.history.jsonl", "finetune.safetensors", "history.jsonl", "manifest.json"]
    assert files(tmp_path / "out") == ["config.yaml", *made, "split.json"]
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))


def test_a_damaged_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch, "finetune.safetensors")
        with pytest.raises(FolderError):
            forgotten(tmp_path / "out")
    resume = tmp_path / "out" / "finetune.resume.pt"
    whole = resume.read_bytes()
    with pytest.raises(StaleFile, match="resume.pt belongs to a run with other data, weights or settings. Remove it"):
        forgotten(tmp_path / "out", resume=True, seed=5)
    for damaged in (whole[: len(whole) // 2], b"", b"no checkpoint"):
        resume.write_bytes(damaged)
        with pytest.raises(
            StaleFile, match="resume.pt is damaged and cannot be continued. Remove it to start that run anew"
        ):
            forgotten(tmp_path / "out", resume=True)
    resume.write_bytes(whole)
    assert len(forgotten(tmp_path / "out", resume=True).history) == 30


def test_a_loss_that_becomes_nan_midway(tmp_path):
    start = network()
    model = network()
    absurd = {"optimizer": Optimizer("sgd", 1e30), "steps": 20}
    with pytest.raises(
        Diverged, match=r"finetune, step \d+ of 20: .*loss became .*Lower the learning rate.*last good"
    ) as caught:
        forgotten(tmp_path / "out", model, inplace=True, **absurd)
    assert "resume.pt" in str(caught.value)
    assert all(torch.isfinite(p).all() for p in model.parameters()), "the last good state is kept"
    assert files(tmp_path / "out") == ["config.yaml", "finetune.resume.pt", "split.json"]
    kept = torch.load(tmp_path / "out" / "finetune.resume.pt", weights_only=True)
    assert all(torch.equal(kept["state"]["module"][name], value) for name, value in model.state_dict().items())
    with pytest.raises(Diverged):
        forgotten(None, start, **absurd)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), network().parameters(), strict=True))


# ── the command line ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A run with something wrong in it must exit with 1, say so in one message, and leave these files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(RECIPE)

    def fails(message, *flags, recipe="small.yaml", left=(), out="out"):
        code, printed, err = untrain("run", recipe, "--out", out, *flags)
        said = re.findall(r"^untrain: (.*)", err, re.MULTILINE | re.DOTALL)
        assert code == 1, err
        assert re.search(message, said[0], re.DOTALL), err
        assert "Traceback" not in err
        assert not printed
        assert files(out) == sorted(left)

    return fails


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.name", "digit"], r"'digit'.*'digits'\?.*arrays, captions, cifar10"),
        (["--model.name", "resnet19"], r"unknown model 'resnet19'. Did you mean 'resnet1?8?.*Known: .*small-cnn"),
        (["--model.options", "{widht: 4}"], r"unknown option 'widht'. Did you mean 'width'"),
        (["--forget.fraction", "null"], r"exactly one of classes, fraction .*got nothing"),
        (["--forget.count", "3"], r"fraction and count say the same"),
        (["--forget.classes", "[3]"], r"exactly one of .* got classes and fraction"),
        (["--forget.fraction", "1.5"], r"--forget.fraction .*above 0 and below 1.*1.5"),
        (["--forget.fraction", "0.0001"], r"the forget set is empty: .*Ask for more"),
        (["--forget.fraction", "null", "--forget.classes", "[seven]"], r"unknown class 'seven'. Known: 0 0, 1 1"),
        (["--forget.fraction", "null", "--forget.classes", "[0,1,2,3,4,5,6,7,8,9]"], r"the forget set is everything"),
        (["--forget.fraction", "null", "--forget.indices", "none.csv"], r"none.csv cannot be read.*Check the path"),
        (["--forget.fraction", "null", "--forget.indices", "far.txt"], r"far.txt: index 99999 is out of range, .*0 to"),
        (["--forget.fraction", "null", "--forget.indices", "twice.csv"], r"twice.csv: index 3 comes twice"),
        (["--forget.fraction", "null", "--forget.indices", "empty.txt"], r"empty.txt lists no record"),
        (["--forget.fraction", "null", "--forget.ids", "ids.txt"], r"ids.txt: 1 unknown ids \(first: 'nobody'\)"),
        (["--data.name", "arrays", "--data.path", "none.npz"], r"none.npz does not exist. Check the path"),
        (
            ["--data.name", "arrays", "--data.path", "nan.npz"],
            r"nan.npz.*NaN or infinity \(first: sample 2\)",
        ),
        (["--data.name", "arrays", "--data.path", "far.txt"], r"far.txt cannot be read as an npz file"),
        (["--data.name", "arrays", "--data.path", "labels.npz"], r"labels.npz.*sample 1 has the label -1"),
        (["--data.name", "folder", "--data.path", "far.txt"], r"far.txt is a file"),
        (["--device", "gpu"], r"device 'gpu' cannot be used"),
        (["--model.checkpoint", "none.pt"], r"none.pt does not exist. Check the path"),
        (["--model.checkpoint", "far.txt"], r"far.txt is damaged or is not a torch file|far.txt was refused"),
        (
            ["--model.checkpoint", "other.pt"],
            r"other.pt: .*another architecture.*missing: .*conv1.weight.*unexpected: weight",
        ),
        (["--model.name", "mine:two"], r"the model has 2 outputs, but num_classes is 10"),
        (["--model.name", "nowhere:factory"], r"nowhere"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_found_before_anything_is_written(command, tmp_path, flags, message):
    (tmp_path / "far.txt").write_text("1\n99999\n")
    (tmp_path / "twice.csv").write_text("index\n3\n4\n3\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "ids.txt").write_text("digits-0001\nnobody\n")
    x = np.zeros((4, 8, 8), np.float32)
    np.savez(
        tmp_path / "labels.npz", x_train=x, y_train=np.array([0, -1, 1, 0]), x_test=x, y_test=np.array([0, 1, 1, 0])
    )
    x[2] = np.nan
    np.savez(tmp_path / "nan.npz", x_train=x, y_train=np.array([0, 1, 1, 0]), x_test=x, y_test=np.array([0, 1, 1, 0]))
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef two(**sizes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))\n"
    )
    command(message, *flags)
    assert not (tmp_path / "out").exists()


def test_one_corrupt_image_is_named(command, tmp_path):
    g = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(g.integers(0, 255, (8, 8), np.uint8)).save(tmp_path / "images" / name / f"{i:02}.png")
    bad = tmp_path / "images" / "dog" / "05.png"
    bad.write_bytes(bad.read_bytes()[:40])
    flags = [
        "--data.name",
        "folder",
        "--data.path",
        "images",
        "--data.test_fraction",
        "0.25",
        "--data.grayscale",
        "true",
    ]
    command(r"images/dog/05.png .*", *flags)


class Trap:
    def __reduce__(self):
        return os.mkdir, ("trapped",)


def test_a_pickle_that_would_run_code(command, tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "extra": Trap()}, "trap.pt")
    command(
        "trap.pt was refused: it holds more than tensors, and reading that would run code.*weights_only",
        "--model.checkpoint",
        "trap.pt",
    )
    assert not (tmp_path / "trapped").exists()


def test_a_folder_that_holds_something_else(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    command("out is not empty and holds no run. Choose another folder with --out", left=["thesis.txt"])
    code, _, err = untrain("run", "small.yaml", "--out", "small.yaml")
    assert code == 1
    assert "small.yaml is a file. Choose another folder" in err
    (tmp_path / "out" / "thesis.txt").unlink()
    (tmp_path / "out" / "config.yaml").write_text("setting: of another program\n")
    command("holds no run", left=["config.yaml"])
    assert (tmp_path / "out" / "config.yaml").read_text() == "setting: of another program\n"


def test_no_space_and_no_permission(command, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch, "config.yaml")
        command("config.yaml cannot be written: No space left on device. Free some space")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        command("cannot be written: you have no permission")
    with monkeypatch.context() as patch:
        full_disk(patch, "split.json")
        command("split.json cannot be written", left=["config.yaml"])
    with monkeypatch.context() as patch:
        full_disk(patch, "original.safetensors")
        command(
            "original.safetensors cannot be written",  # what the same command goes on from once there is space
            left=["config.yaml", "original.history.jsonl", "original.resume.pt", "split.json"],
        )
    code, _, err = untrain("train", "small.yaml", "--out", "out", "--resume")
    assert code == 0, err
    assert {"original.safetensors", "retrained.safetensors"} <= set(files("out"))
    assert not [name for name in files("out") if "resume" in name or name.startswith(".")]


def test_a_loss_that_becomes_nan_midway_in_a_recipe(command, tmp_path):
    (tmp_path / "absurd.yaml").write_text(
        RECIPE.replace("{epochs: 1}", "{epochs: 1, optimizer: {name: sgd, lr: 1.0e+30}}")
    )
    done = [f"{name}{end}" for name in ("original", "retrained") for end in (".safetensors", ".history.jsonl")]
    left = ["config.yaml", "split.json", "finetune.resume.pt", *done]
    command(r"finetune, step \d+ of \d+: .*loss became .*last good weights", recipe="absurd.yaml", left=left)
    kept = torch.load("out/finetune.resume.pt", weights_only=True)["state"]["module"]
    assert all(torch.isfinite(value).all() for value in kept.values())
    before = weights("out")
    code, _, err = untrain("run", "small.yaml", "--out", "out", "--resume")
    assert code == 1
    assert "finetune.resume.pt belongs to a run with other data, weights or settings. Remove it" in err
    (tmp_path / "out" / "finetune.resume.pt").unlink()
    code, _, err = untrain("run", "small.yaml", "--out", "out", "--resume")
    assert code == 0, err
    after = weights("out")
    assert all(torch.equal(after[key], value) for key, value in before.items()), "what was done was not done again"


def test_a_run_that_left_nothing_of_value_starts_anew(command, tmp_path):
    assert untrain("train", "small.yaml", "--out", "out", "--references", "0")[0] == 0
    for path in (tmp_path / "out").iterdir():
        if path.name not in ("config.yaml", "split.json"):
            path.unlink()
    (tmp_path / "out" / ".original.resume.pt.tmp").write_bytes(b"half")
    words = ("train", "small.yaml", "--out", "out", "--references", "0", "--seed", "3")
    code, _, err = untrain(*words)
    assert code == 0, err
    assert "original.safetensors" in files("out")
    assert ".original.resume.pt.tmp" not in files("out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "original.safetensors",
            "original.safetensors is damaged.*Remove it, and untrain run out --resume makes it anew",
        ),
        (
            "manifest.json",
            "manifest.json cannot be read as JSON: .*Remove it, and `untrain run out --resume` makes it anew",
        ),
        ("split.json", "split.json cannot be read as a split"),
        ("config.yaml", "is not empty and holds no run"),
    ],
)
def test_damaged_files_of_a_run_folder(command, tmp_path, name, message):
    assert untrain("train", "small.yaml", "--out", "out", "--references", "0")[0] == 0
    left = files("out")
    path = tmp_path / "out" / name
    path.write_bytes(path.read_bytes()[:30])
    command(message, "--resume", "--references", "0", left=left)


def test_a_checkpoint_error_is_a_model_error():
    assert issubclass(CheckpointError, ModelError)
