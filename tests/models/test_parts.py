"""What of a model is trained."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from helpers.small_pipelines import drawn_rows
from untrain.engine import Engine
from untrain.errors import SettingError, UnknownName
from untrain.fisher import fisher_diagonal
from untrain.models.parts import PARTS, train_parts, trained
from untrain.sampling import Sampler
from untrain.tasks.text_to_image.concepts import (
    ConceptImages,
    text_task,
)

ENGINE = Engine(torch.device("cpu"))
FEW = ConceptImages(count=3, sampler=Sampler(steps=2, guidance_scale=2.0), batch_size=2)


def test_parts_are_those_of_their_names(pipe: Any) -> None:
    unet = copy.deepcopy(pipe.unet)
    names = [name for name, _ in unet.named_parameters()]
    outer = [n for n in names if n.split(".")[0] in ("time_embedding", "conv_norm_out", "conv_out")]
    expected = {
        "full": names,
        "xattn": [n for n in names if ".attn2." in n],
        "selfattn": [n for n in names if ".attn1." in n],
        "notime": [n for n in names if n not in outer],
        "noxattn": [n for n in names if n not in outer and ".attn2." not in n],
    }
    assert set(expected) == set(PARTS) - {"xlayer", "selflayer"}, "of these a small UNet has none"
    for part, wanted in expected.items():
        assert list(train_parts(unet, part)) == wanted and wanted
        assert [n for n, p in unet.named_parameters() if p.requires_grad] == wanted
        assert set(fisher_diagonal(unet, text_task(pipe), [drawn_rows(pipe, text_task(pipe), count=6)])) == set(wanted)
    keys = train_parts(unet, ["*.attn2.to_k.*", "conv_in.bias"])
    assert "conv_in.bias" in keys and all(n == "conv_in.bias" or ".attn2.to_k." in n for n in keys)
    with trained(unet, "full") as all_names:
        assert list(all_names) == names
    assert tuple(n for n, p in unet.named_parameters() if p.requires_grad) == keys == train_parts(unet, None)


@pytest.mark.parametrize(
    ("part", "layers"),
    [
        ("xlayer", ("up_blocks.2.attentions.0", "up_blocks.2.attentions.2")),
        ("selflayer", ("down_blocks.1.attentions.0", "down_blocks.2.attentions.0")),
    ],
)
def test_two_layers_of_stable_diffusion_are_those_of_the_published_code(part: str, layers: tuple[str, ...]) -> None:
    """Output blocks 6 and 8, and input blocks 4 and 7, of its layout, in which blocks are numbered on."""
    from diffusers import UNet2DConditionModel

    narrow = {"block_out_channels": (8,) * 4, "norm_num_groups": 4, "cross_attention_dim": 8, "attention_head_dim": 2}
    unet: Any = UNet2DConditionModel(sample_size=8, **narrow)  # type: ignore[arg-type]
    kind = "attn2" if part == "xlayer" else "attn1"
    assert {name.partition(f".{kind}.")[0] for name in train_parts(unet, part)} == {
        f"{layer}.transformer_blocks.0" for layer in layers
    }
    side, blocks, chosen = ("up", unet.up_blocks, (6, 8)) if part == "xlayer" else ("down", unet.down_blocks, (2, 4))
    numbered = [(block, layer) for block, each in enumerate(blocks) for layer in range(len(each.resnets))]
    # of input blocks, 0 is the first convolution and 3, 6 and 9 halve the image: the third and fifth others are 4 and 7
    assert [f"{side}_blocks.{numbered[i][0]}.attentions.{numbered[i][1]}" for i in chosen] == list(layers)


def test_an_empty_choice_is_an_error(pipe: Any) -> None:
    unet = copy.deepcopy(pipe.unet)
    with pytest.raises(UnknownName, match="Did you mean 'xattn'"):
        train_parts(unet, "xatn")
    with pytest.raises(SettingError, match="no parameter is called"):
        train_parts(unet, ["*.attn2.*", "*.attn3.*"])
    with pytest.raises(SettingError, match="no parameter to train"):
        train_parts(unet, [])
    with pytest.raises(SettingError, match="no parameter to train"):
        train_parts(nn.Linear(2, 2), "xattn")
    with pytest.raises(SettingError, match="no parameter to train"):
        train_parts(unet.requires_grad_(False), None)
