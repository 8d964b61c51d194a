import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from untrain.errors import CheckpointError
from untrain.models.checkpoints import load_into, load_state, save, state_hash
from untrain.models.classifiers import build


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


@pytest.mark.parametrize("prefix", ["net.", "model.", "module.", "encoder.model.", "_forward_module.net."])
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_a_prefix_that_all_weights_share_comes_off(tmp_path: Path, prefix: str, ending: str) -> None:
    state = {prefix + name: tensor for name, tensor in network(1).state_dict().items()}
    path = tmp_path / f"a{ending}"
    torch.save(state, path) if ending == ".pt" else safetensors.torch.save_file(state, path)
    module = network()
    notes = load_into(module, load_state(path)[0])
    assert state_hash(module) == state_hash(network(1))
    assert notes == ([] if prefix == "module." else [f"names in the file begin with {prefix}"])


def test_a_module_that_has_the_prefix_itself_keeps_it() -> None:
    class Wrapped(nn.Module):
        def __init__(self, seed: int = 0) -> None:
            super().__init__()
            self.net = network(seed)

    module = Wrapped()
    assert load_into(module, Wrapped(1).state_dict()) == []
    assert state_hash(module) == state_hash(Wrapped(1))


def test_a_model_that_is_there_twice_is_not_guessed() -> None:
    twice = {
        f"{start}.{name}": tensor for start in ("student", "teacher") for name, tensor in network().state_dict().items()
    }
    with pytest.raises(CheckpointError, match=r"2 times, under student\. and teacher\."):
        load_into(network(), twice)


def test_the_resnet_of_pytorch_cifar_differs_in_names_alone() -> None:
    ours, other = (build("resnet18", num_classes=3, width=4, seed=seed) for seed in (1, 2))
    renamed = {n.replace("downsample.", "shortcut.").replace("fc.", "linear."): t for n, t in ours.state_dict().items()}
    assert any("shortcut" in name for name in renamed)
    (note,) = load_into(other, renamed)
    assert "pytorch-cifar" in note and state_hash(other) == state_hash(ours)
    assert load_into(other, {f"module.net.{name}": tensor for name, tensor in renamed.items()})


def test_a_message_names_three_of_each_kind() -> None:
    with pytest.raises(CheckpointError) as caught:
        load_into(network(), {f"layer{n}.weight": torch.ones(1) for n in range(56)})
    message = str(caught.value)
    assert "56, such as layer0.weight, layer1.weight, layer2.weight" in message and "layer3" not in message
    assert "missing: 9, such as 0.weight, 0.bias, 1.weight" in message and len(message) < 400


def test_a_known_network_that_no_model_here_is_is_recognised() -> None:
    with pytest.raises(CheckpointError, match=r"Unlearn-Saliency.*38\.6 million"):
        load_into(network(), {"down.0.block.0.temb_cemb_proj.weight": torch.ones(1)})


def test_an_index_of_shards(tmp_path: Path) -> None:
    state = network(1).state_dict()
    names, half = list(state), len(state) // 2
    for number, part in enumerate((names[:half], names[half:])):
        safetensors.torch.save_file({name: state[name] for name in part}, tmp_path / f"m-{number}.safetensors")
    where: dict[str, Any] = {name: f"m-{int(k >= half)}.safetensors" for k, name in enumerate(names)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    module = network()
    load_into(module, load_state(index)[0])
    assert state_hash(module) == state_hash(network(1))
    for content in ({"a": 1}, [], {"weight_map": {"a": "../b.safetensors"}}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=r"index\.json"):
            load_state(index)
    save(network(), tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match=r"leave model\.entry out"):
        load_state(tmp_path / "own.safetensors", "model")
