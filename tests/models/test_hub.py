"""Uploads to the hub, held against a stand-in of its client: what goes there, and what never does."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch import nn

import untrain
from helpers.command_line import RECIPE
from helpers.command_line import untrain as command
from helpers.small_classifiers import clusters
from untrain.errors import FolderError, SettingError
from untrain.models.card import CARD
from untrain.models.hub import HubCard, check_repo, hub_card, push_folder
from untrain.report.presentation import LOSSES
from untrain.runs.push import push_run


class Hub:
    """As much of HfApi as an upload uses: keeps what is uploaded in a folder."""

    def __init__(self, place, there=()):
        self.place, self.there, self.calls = Path(place), {*there}, []

    def repo_exists(self, repo):
        return repo in self.there

    def create_repo(self, repo, *, repo_type, private, exist_ok):
        assert repo_type == "model"
        self.calls.append((repo, private, exist_ok))
        self.there.add(repo)

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        assert repo_id in self.there
        assert commit_message
        shutil.copytree(folder_path, self.place / repo_id)

    def files(self, repo):
        return sorted(path.name for path in (self.place / repo).iterdir())


FACTS = HubCard("org/base", "a `class` | of *things*", "sfron", {"steps": 3}, "Weights.", "ab", "cd")


def test_a_card_is_read_back():
    card = ModelCard(hub_card(FACTS))
    data = card.data.to_dict()
    assert data["base_model"] == "org/base"
    assert {"machine-unlearning", "untrain"} <= set(data["tags"])
    assert "a \\`class\\` \\| of \\*things\\*" in card.text and "| steps | 3 |" in card.text
    assert "Nothing was measured" in card.text


@pytest.mark.parametrize("name", ["", "me", "me/", "me/a/b", "../me/a", "me/a b", "-me/a"])
def test_what_is_no_repository_is_refused(name):
    with pytest.raises(SettingError, match="USER/NAME"):
        check_repo(name)


def test_a_folder_is_uploaded_once_and_privately(tmp_path):
    folder, hub = tmp_path / "model", Hub(tmp_path / "hub")
    folder.mkdir()
    with pytest.raises(FolderError, match=CARD):
        push_folder(folder, "me/model", api=hub)
    (folder / CARD).write_text(hub_card(FACTS))
    assert push_folder(folder, "me/model", api=hub) == "https://huggingface.co/me/model"
    assert hub.calls == [("me/model", True, False)]
    with pytest.raises(SettingError, match="is there already"):
        push_folder(folder, "me/model", api=hub)
    shutil.rmtree(tmp_path / "hub")
    push_folder(folder, "me/model", api=hub, update=True, public=True)
    assert hub.calls[-1] == ("me/model", False, True)


def test_a_failed_upload_says_what_to_look_at(tmp_path):
    class Broken(Hub):
        def upload_folder(self, **given):
            raise ConnectionError("no route to the hub")

    (tmp_path / CARD).write_text(hub_card(FACTS))
    with pytest.raises(FolderError, match="no route to the hub"):
        push_folder(tmp_path, "me/model", api=Broken(tmp_path / "hub"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    path = folder / "small.yaml"
    path.write_text(RECIPE.replace("  finetune: {epochs: 1}\n", "").replace("{epochs: 2}", "{steps: 2}"))
    flags = ("--methods.sfron.steps", "1", "--methods.sfron.optimizer", "{name: sgd, lr: 0.01}", "--references", "0")
    code, _, err = command("run", path, "--out", folder / "run", *flags)
    assert code == 0, err
    return folder / "run"


def test_of_a_run_the_weights_go_alone(run, tmp_path):
    """No split, no picture, no report, and none of the notes in the file of weights."""
    hub = Hub(tmp_path)
    push_run(run, "me/forgot", LOSSES, api=hub)
    assert hub.files("me/forgot") == [CARD, "model.safetensors"]
    found = load_file(tmp_path / "me/forgot/model.safetensors")
    for name, tensor in load_file(run / "sfron.safetensors").items():
        assert torch.equal(found[name], tensor)
    content = b"".join(path.read_bytes() for path in (tmp_path / "me/forgot").iterdir())
    assert str(run).encode() not in content and b"made_from" not in content
    card = ModelCard((tmp_path / "me/forgot" / CARD).read_text())
    assert "129 training samples, which are not named here" in card.text
    assert "`sfron`" in card.text


def test_of_a_run_a_lora(run, tmp_path):
    hub = Hub(tmp_path)
    push_run(run, "me/lora", LOSSES, lora=True, rank=2, api=hub)
    assert hub.files("me/lora") == [CARD, "adapter_config.json", "adapter_model.safetensors"]
    assert ModelCard((tmp_path / "me/lora" / CARD).read_text()).data.to_dict()["library_name"] == "peft"


def test_nothing_is_uploaded_unless_a_repository_is_named(run):
    code, _, err = command("push", run)
    assert code == 1 and "--to USER/NAME" in err


def test_in_python(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)).double()
    sets = {"forget": clusters(20, 1), "retain": clusters(40, 2)}
    result = untrain.unlearn(
        model, **sets, method="finetune", steps=2, optimizer=untrain.Optimizer("sgd", 0.05), device="cpu"
    )
    hub = Hub(tmp_path)
    result.push_to_hub("me/mine", api=hub)
    assert hub.files("me/mine") == [CARD, "model.safetensors"]
    for name, tensor in load_file(tmp_path / "me/mine/model.safetensors").items():
        assert torch.equal(tensor, result.model.state_dict()[name])
    result.push_to_hub("me/mine-lora", lora=True, rank=1, api=hub)
    assert "adapter_model.safetensors" in hub.files("me/mine-lora")
