"""The Python interface as a user calls it: a model and data that are not ours."""

import json

import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import untrain
from helpers.command_line import files
from helpers.command_line import untrain as command
from helpers.reading import Page
from untrain import Optimizer
from untrain.errors import FolderError, ModelError, SettingError, StaleFile

SGD = Optimizer("sgd", 0.05, 0.9)
FILES = [
    *("config.yaml", "history.jsonl", "manifest.json", "sfron.history.jsonl", "sfron.mask.safetensors"),
    *("sfron.safetensors", "split.json"),
]
SIZES = {"forget": 30, "retain": 210}
EVALUATED = ("FA", "RA", "TA", "MIA", "KL", "JS", "AvgD", "ToW")


class Speaker(nn.Module):
    """A network of a user: two inputs paths, normalisation with running statistics, dropout."""

    def __init__(self, bands=10, speakers=4):
        super().__init__()
        self.low, self.high = nn.Linear(bands // 2, 12), nn.Linear(bands - bands // 2, 12)
        self.norm, self.drop, self.out = nn.BatchNorm1d(24), nn.Dropout(0.1), nn.Linear(24, speakers)

    def forward(self, x):
        half = self.low.in_features
        return self.out(self.drop(self.norm(torch.cat([self.low(x[:, :half]), self.high(x[:, half:])], 1).relu())))


class Recordings(Dataset):
    """A user's data set of dicts with names of its own."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        x, y = self.data[i]
        return {"spectrum": x, "speaker": y}


def samples(count, seed, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (count,), generator=g)
    x = torch.randn(count, 10, generator=g, dtype=dtype) + torch.nn.functional.one_hot(y, 10)
    return TensorDataset(x, y)


def speaker(seed=0):
    torch.manual_seed(seed)
    return Speaker()


def bits(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def read(path):
    return json.loads(path.read_text())


def logged(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def data():
    everything = samples(240, 1)
    return {"forget": Subset(everything, range(30)), "retain": Subset(everything, range(30, 240))}


@pytest.fixture(scope="module")
def test_set():
    return samples(80, 2)


def forget_with(model, data, **settings):
    return untrain.unlearn(
        model, **{**data, "steps": 4, "optimizer": SGD, "device": "cpu", "batch_size": 32, **settings}
    )


# ── unlearn ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", ["sfron", "finetune"])
def test_the_model_is_left_as_it_was(data, training, method):
    model = speaker().train(training)
    model.drop.eval()
    model.low.weight.grad = torch.ones_like(model.low.weight)
    before, modes = bits(model), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    result = forget_with(model, data, method=method, holdout=samples(40, 3))
    assert same(bits(model), before)
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(model.low.weight.grad, torch.ones_like(model.low.weight))
    assert model.high.weight.grad is None
    assert torch.equal(torch.get_rng_state(), random), "global generators are left alone"
    assert isinstance(result.model, Speaker)
    assert result.model is not model
    assert not same(bits(result.model), before)
    assert not any(m.training for m in result.model.modules())


@pytest.mark.parametrize("method", ["sfron", "finetune", "retrain"])
def test_inplace_changes_the_model_itself_to_the_same_weights(data, method):
    model = speaker()
    copy = forget_with(speaker(), data, method=method).model
    result = forget_with(model, data, method=method, inplace=True)
    assert result.model is model
    assert same(bits(model), bits(copy))


def test_what_a_result_holds(data):
    model = speaker()
    result = forget_with(model, data)
    assert [record["step"] for record in result.history] == [0, 1, 2, 3]
    assert all({"forget_loss", "retain_loss", "alpha", "lr"} <= record.keys() for record in result.history)
    assert result.seconds > 0
    assert result.clocks["fisher"] + result.clocks["steps"] <= result.seconds
    assert result.mask.keys() == dict(model.named_parameters()).keys()
    assert all(mask.dtype == torch.bool for mask in result.mask.values())
    assert result.method.name == "sfron"
    assert result.method.optimizer == SGD
    assert forget_with(model, data, method="finetune").mask is None


@pytest.mark.parametrize("method", ["sfron", "finetune", "retrain"])
def test_float64_stays_float64(method):
    model = speaker().double()
    data = {"forget": samples(30, 1, torch.float64), "retain": samples(90, 2, torch.float64)}
    result = forget_with(model, data, method=method)
    assert {p.dtype for p in result.model.parameters()} == {torch.float64}
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert untrain.fisher_diagonal(model, "classification", data["forget"])["out.weight"].dtype == torch.float64


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(data):
    first, second, other = (bits(forget_with(speaker(), data, seed=seed).model) for seed in (3, 3, 4))
    assert same(first, second)
    assert not same(first, other)


def test_ready_batches_and_the_same_samples_as_a_data_set_do_the_same(data, test_set):
    """Fisher and evaluation see each sample once, however it comes."""
    batches = list(DataLoader(test_set, 17))
    fishers = [
        untrain.fisher_diagonal(speaker(), "classification", d) for d in (test_set, batches, DataLoader(test_set, 9))
    ]
    for name, value in fishers[0].items():
        for other in fishers[1:]:
            assert torch.allclose(value, other[name], rtol=1e-5, atol=1e-9)
    found = [untrain.evaluate(speaker(), **data, test=d, device="cpu") for d in (test_set, batches)]
    assert found[0].TA == found[1].TA
    result = untrain.unlearn(
        speaker(), forget=batches[:1], retain=[{"input": x, "label": y} for x, y in batches[1:]], steps=3, optimizer=SGD
    )
    assert len(result.history) == 3


def test_names_of_a_users_own(data):
    task = untrain.Classification(names={"spectrum": "input", "speaker": "label"})
    named = {name: Recordings(part) for name, part in data.items()}
    assert same(bits(forget_with(speaker(), named, task=task).model), bits(forget_with(speaker(), data).model))
    lists = {"forget": [{"spectrum": torch.randn(8, 10), "speaker": torch.arange(8) % 4}], "retain": named["retain"]}
    assert len(forget_with(speaker(), lists, task=task).history) == 4
    other = [{"spectrum": torch.randn(8, 10) + 1, "speaker": torch.arange(8) % 4}]
    assert len(forget_with(speaker(), {**lists, "retain": other}, task=task, seed=1).history) == 4


def test_retrain_with_init_and_without(data):
    made = []

    def init():
        made.append(Speaker())
        return made[-1]

    result = forget_with(speaker(), data, method="retrain", init=init)
    assert made
    assert result.model is made[-1]
    again = forget_with(speaker(5), data, method="retrain", init=Speaker)
    assert same(bits(result.model), bits(again.model)), "new weights come from the seed, not from the old ones"


def test_retrain_of_a_module_that_cannot_be_renewed_names_the_parameters(data):
    class Scaled(Speaker):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return super().forward(x) * self.scale

    with pytest.raises(ModelError, match=r"no reset_parameters renews scale. Pass init="):
        forget_with(Scaled(), data, method="retrain")
    assert isinstance(forget_with(Scaled(), data, method="retrain", init=Scaled).model, Scaled)


# ── out= and resume= ────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_run_leaves_in_its_folder(data, tmp_path):
    out = tmp_path / "deep" / "run"
    result = forget_with(speaker(), data, out=out, holdout=samples(40, 3))
    assert files(out) == FILES
    state, facts = untrain.models.checkpoints.load_state(out / "sfron.safetensors")
    assert same(state, bits(result.model))
    assert logged(out) == [{"model": "sfron", **record} for record in result.history]
    assert (out / "sfron.history.jsonl").read_text() == (out / "history.jsonl").read_text()
    manifest = read(out / "manifest.json")
    entry = manifest["models"]["sfron"]
    assert entry == facts
    assert entry["method"] == "sfron"
    assert entry["settings"]["steps"] == 4
    assert 0 < entry["mask"]["density"] < 1
    assert (manifest["task"], manifest["seed"], manifest["batch_size"]) == ("classification", 0, 32)
    assert manifest["data"]["forget"]["samples"] == 30
    assert len({entry["hash"] for entry in manifest["data"].values()}) == 3
    assert manifest["versions"]["torch"]
    for path in out.iterdir():  # nothing of what is forgotten
        content = path.read_bytes()
        assert not any(data["forget"][i][0].numpy().tobytes() in content for i in range(30)), path.name
    mask = untrain.saliency.load_mask(out / "sfron.mask.safetensors", weights_hash=state_hash(speaker()))
    assert same(mask, result.mask)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["made_in"], config["task"], config["seed"]) == ("python", "classification", 0)
    assert (config["methods"]["sfron"]["method"], config["methods"]["sfron"]["steps"]) == ("sfron", 4)
    assert read(out / "split.json")["spec"]["given"] == SIZES | {"holdout": 40}


def state_hash(module):
    return untrain.models.checkpoints.state_hash(module)


def test_resume_of_a_finished_run_computes_nothing(data, tmp_path, monkeypatch):
    settings = {"out": tmp_path / "run", "resume": True, "holdout": samples(40, 3)}
    first = forget_with(speaker(), data, **settings)
    for module in ("untrain.api", "untrain.runs.folder"):
        monkeypatch.setattr(f"{module}.run", None)  # what would compute
    again = forget_with(speaker(), data, **settings)
    assert same(bits(again.model), bits(first.model))
    assert same(again.mask, first.mask)
    assert (again.history, again.seconds, again.method) == (first.history, first.seconds, first.method)
    assert (again.notes, again.clocks) == (first.notes, first.clocks)
    model = speaker()
    assert forget_with(model, data, inplace=True, **settings).model is model
    assert same(bits(model), bits(first.model))


def test_resume_of_a_stopped_run_goes_on(data, tmp_path, monkeypatch):
    whole = forget_with(speaker(), data, steps=12)
    steps = []
    real = untrain.methods()["sfron"].step

    def stopping(self, state, k):
        steps.append(k)
        if k == 7 and steps.count(7) == 1:
            raise KeyboardInterrupt
        return real(self, state, k)

    monkeypatch.setattr(untrain.methods()["sfron"], "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        forget_with(speaker(), data, steps=12, out=tmp_path / "run")
    assert files(tmp_path / "run") == ["config.yaml", "sfron.resume.pt", "split.json"]
    result = forget_with(speaker(), data, steps=12, out=tmp_path / "run", resume=True)
    assert steps.count(0) == 1
    assert same(bits(result.model), bits(whole.model))
    assert result.history == whole.history
    assert files(tmp_path / "run") == FILES


# ── evaluate ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_evaluation_leaves_models_as_they_were(data, test_set):
    model, reference = speaker(), speaker(1).eval()
    model.drop.eval()
    before, modes = (
        [bits(m) for m in (model, reference)],
        [[m.training for m in x.modules()] for x in (model, reference)],
    )
    untrain.evaluate(model, **data, test=test_set, reference=reference)
    assert all(same(bits(m), b) for m, b in zip((model, reference), before, strict=True))
    assert [[m.training for m in x.modules()] for x in (model, reference)] == modes


def test_without_a_reference_the_reasons_are_given(data, test_set):
    found = untrain.evaluate(speaker(), **data, test=test_set)
    assert all(0 <= getattr(found, name) <= 100 for name in ("FA", "RA", "TA", "MIA"))
    assert [name for name in EVALUATED if getattr(found, name) is None] == ["KL", "JS", "AvgD", "ToW"]
    reasons = {name: why for name, why in found.missing.items() if not name.startswith("SVC_")}
    assert set(reasons) == {"KL", "JS", "AvgD", "ToW"}
    assert all("reference=" in reason for reason in reasons.values())
    assert found.noise_floor is None


def test_the_reference_itself_is_no_distance_away(data, test_set):
    found = untrain.evaluate(speaker(), **data, test=test_set, reference=speaker())
    assert (found.AvgD, found.ToW) == (0, 1)
    assert found.KL == pytest.approx(0, abs=1e-12)
    assert all("svc_attacks=True" in why for why in found.missing.values())
    assert untrain.evaluate(speaker(), **data, test=test_set, reference=speaker(), svc_attacks=True).missing == {}


def test_further_references_show_the_noise_floor(data, test_set):
    references = [speaker(seed) for seed in (1, 2, 3)]
    found = untrain.evaluate(speaker(), **data, test=test_set, reference=references)
    one = untrain.evaluate(speaker(), **data, test=test_set, reference=references[0])
    apart = [untrain.evaluate(r, **data, test=test_set, reference=references[0]) for r in references[1:]]
    assert {name: getattr(found, name) for name in EVALUATED} == {name: getattr(one, name) for name in EVALUATED}
    assert found.noise_floor == pytest.approx(
        {name: sum(getattr(e, name) for e in apart) / 2 for name in ("KL", "JS", "AvgD", "ToW")}
    )


def test_classes_have_their_names(data, test_set):
    found = untrain.evaluate(speaker(), **data, test=test_set, classes=["ada", "bob", "cyd", "dan"])
    assert set(found.by_class["TA"]) == {"ada", "bob", "cyd", "dan"}


def test_a_forgotten_class_is_told_apart(test_set):
    everything = samples(200, 1)
    labels = everything.tensors[1]
    forget, retain = (torch.nonzero(chosen).flatten().tolist() for chosen in (labels == 2, labels != 2))
    found = untrain.evaluate(
        speaker(), forget=Subset(everything, forget), retain=Subset(everything, retain), test=test_set
    )
    assert found.forgotten_TA is not None
    assert 0 <= found.TA <= 100
    only = Subset(test_set, torch.nonzero(test_set.tensors[1] == 2).flatten().tolist())
    found = untrain.evaluate(speaker(), forget=Subset(everything, forget), retain=Subset(everything, retain), test=only)
    assert found.TA is None
    assert "only forgotten classes" in found.missing["TA"]


def test_several_models_are_measured_by_name(data, test_set):
    models = {"one": speaker(1), "two": speaker(2)}
    found = untrain.evaluate(models, **data, test=test_set)
    assert [*found] == ["one", "two"]
    assert found["one"] == untrain.evaluate(models["one"], **data, test=test_set)


def test_unknown_arguments_are_named(data, test_set):
    with pytest.raises(SettingError, match="'svc_attack'.*'?svc_attacks"):
        untrain.evaluate(speaker(), **data, test=test_set, svc_attack=True)
    with pytest.raises(SettingError, match="'stepz'.*'steps'"):
        untrain.unlearn(speaker(), **data, stepz=3, device="cpu")


# ── unlearn(out=), then evaluate(out=) ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def evaluated(data, test_set, tmp_path_factory):
    """The folder of a run that was measured beside a retrained model, and what both calls gave."""
    out = tmp_path_factory.mktemp("runs") / "speakers"
    result = forget_with(speaker(), data, out=out)
    classes = ["ada", "bob", "cyd", "dan"]
    found = untrain.evaluate(
        {"original": speaker(), "retrained": speaker(1), "sfron": result.model},
        **data, test=test_set, reference=speaker(1), classes=classes, out=out, device="cpu",
    )  # fmt: skip
    return out, result, found


def test_an_evaluation_is_kept_in_the_runs_folder(evaluated):
    out, result, found = evaluated
    content = read(out / "evaluation.json")
    assert (content["task"], content["classes"]) == ("classification", ["ada", "bob", "cyd", "dan"])
    assert [*content["models"]] == ["original", "retrained", "sfron"]
    for name, entry in content["models"].items():
        assert {key: entry[key] for key in EVALUATED} == {key: getattr(found[name], key) for key in EVALUATED}
    assert content["models"]["sfron"]["seconds"] == result.seconds
    assert content["models"]["sfron"]["clocks"] == result.clocks
    assert files(out) == sorted([*FILES, "evaluation.json", "report.html"])


def test_what_the_run_was_made_of_stays_beside_its_evaluation(evaluated):
    out, result, _ = evaluated
    manifest = read(out / "manifest.json")
    assert {name: entry["samples"] for name, entry in manifest["data"].items()} == SIZES
    assert [*manifest["models"]] == ["sfron"]
    assert logged(out) == [{"model": "sfron", **record} for record in result.history]


def test_its_page_is_a_report_and_is_made_again_by_the_command(evaluated):
    out, _, _ = evaluated
    first = Page((out / "report.html").read_text(encoding="utf-8"))
    assert {"original", "retrained", "SFR-on"} <= {row[0] for row in first.rows if row}
    (out / "report.html").unlink()
    code, said, err = command("report", out)
    assert code == 0 and "report.html" in said, err
    assert Page((out / "report.html").read_text(encoding="utf-8")).rows == first.rows


def test_a_single_model_is_the_one_that_the_folder_holds(data, test_set, tmp_path):
    out = tmp_path / "run"
    model = forget_with(speaker(), data, out=out).model
    found = untrain.evaluate(model, **data, test=test_set, out=out)
    untrain.evaluate({"original": speaker()}, **data, test=test_set, out=out)
    models = read(out / "evaluation.json")["models"]
    assert models.keys() == {"sfron", "original"}, "what was measured before stays"
    assert models["sfron"]["FA"] == found.FA


def test_several_methods_share_a_folder(data, test_set, tmp_path):
    out = tmp_path / "run"
    first = forget_with(speaker(), data, out=out)
    second = forget_with(speaker(), data, out=out, method="finetune", resume=True)
    assert {"sfron.safetensors", "finetune.safetensors"} <= set(files(out))
    assert read(out / "manifest.json")["models"].keys() == {"sfron", "finetune"}
    assert [line["model"] for line in logged(out)] == ["sfron"] * 4 + ["finetune"] * 4
    assert yaml.safe_load((out / "config.yaml").read_text())["methods"].keys() == {"sfron", "finetune"}
    untrain.evaluate({"sfron": first.model, "finetune": second.model}, **data, test=test_set, out=out)
    assert read(out / "evaluation.json")["models"].keys() == {"sfron", "finetune"}
    with pytest.raises(StaleFile, match=r"sfron\.safetensors"):
        forget_with(speaker(), data, out=out, steps=5, resume=True)


def test_an_evaluation_alone_makes_a_folder(data, test_set, tmp_path):
    out = tmp_path / "new"
    untrain.evaluate(speaker(), **data, test=test_set, out=out)
    assert {"config.yaml", "evaluation.json", "manifest.json", "report.html"} <= set(files(out))
    assert [*read(out / "evaluation.json")["models"]] == ["model"]
    untrain.evaluate(speaker(), **data, test=test_set, out=out)
    assert [*read(out / "evaluation.json")["models"]] == ["model"]


def test_references_stand_beside_the_model_in_its_folder(data, test_set, tmp_path):
    """So the page has a target; what the call gives back is the model's alone."""
    out, retrained = tmp_path / "run", [speaker(1), speaker(2)]
    found = untrain.evaluate(speaker(), **data, test=test_set, reference=retrained, out=out)
    content = read(out / "evaluation.json")
    assert [*content["models"]] == ["model", "retrained", "retrained-2"]
    assert content["models"]["model"]["AvgD"] == found.AvgD > 0
    assert content["models"]["retrained"]["AvgD"] == 0
    assert content["noise_floor"]["AvgD"] == content["models"]["retrained-2"]["AvgD"] > 0
    rows = [row[0] for row in Page((out / "report.html").read_text(encoding="utf-8")).rows if row]
    assert "retrained" in rows and "noise floor" in rows


def test_folders_of_anything_else_are_left_alone(data, test_set, tmp_path):
    """A recipe's run keeps its recipe, and a folder of letters its letters."""
    text = "name: a\ntask: classification\ntrain: {}\nmethods: {sfron: {}}\n"
    for folder, name in ((tmp_path / "recipe", "config.yaml"), (tmp_path / "letters", "letter.txt")):
        folder.mkdir()
        (folder / name).write_text(text)
        with pytest.raises(FolderError, match=str(folder)):
            untrain.evaluate(speaker(), **data, test=test_set, out=folder)
        for resume in (False, True):
            with pytest.raises(FolderError, match=str(folder)):
                forget_with(speaker(), data, out=folder, resume=resume)
        assert files(folder) == [name] and (folder / name).read_text() == text


def test_results_print_as_a_short_summary(evaluated):
    _, result, found = evaluated
    assert repr(result).startswith("Result('sfron', steps=4, seconds=") and len(repr(result)) < 150
    assert "mask=" in repr(result) and "forget_loss=" in repr(result)
    assert repr(found["sfron"]).startswith(f"Evaluation(FA={found['sfron'].FA:.4g}, RA=")


# ── Fisher ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fisher_leaves_the_model_as_it_was_and_skips_frozen_parameters(test_set):
    model = speaker()
    model.drop.eval()
    model.low.requires_grad_(False)
    before, modes = bits(model), [m.training for m in model.modules()]
    fisher = untrain.fisher_diagonal(model, "classification", test_set)
    assert fisher.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(bool((value >= 0).all()) for value in fisher.values())
    assert same(bits(model), before)
    assert [m.training for m in model.modules()] == modes
    mask = untrain.saliency_mask(fisher, fisher)
    assert all(torch.equal(mask[name], fisher[name] > 0) for name in fisher)
