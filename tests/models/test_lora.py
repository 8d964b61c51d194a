"""A LoRA of what changed: all of it where that is of low rank, else the best of its rank, as libraries load it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import untrain
from helpers.small_pipelines import TEXTS, stable_diffusion, stable_diffusion_xl
from untrain.errors import CheckpointError, ModelError, SettingError
from untrain.models.delta import apply_delta, save_delta
from untrain.models.lora import apply_lora, extract_lora, save_lora

SETS: dict[str, Any] = {
    "forget": untrain.Concept(TEXTS[0], anchor=TEXTS[1]),
    "retain": untrain.Concept(TEXTS[2]),
    "task": "text-to-image",
    "device": "cpu",
}


def linear(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(12, 20), nn.LayerNorm(20), nn.Conv2d(3, 8, 3), nn.Embedding(5, 4))


def moved(module: nn.Module, *names: str, rank: int | None = None) -> nn.Module:
    """A copy with these weights changed, as matrices by a change of this rank."""
    other = copy.deepcopy(module)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in names:
            weight = other.get_parameter(name)
            rows, columns = len(weight), weight[0].numel()
            r = min(rows, columns) if rank is None else rank
            weight += (torch.randn(rows, r, generator=g) @ torch.randn(r, columns, generator=g)).view_as(weight) / 10
    return other


def test_a_change_of_low_rank_is_held_whole() -> None:
    base = linear()
    lora = extract_lora(base, moved(base, "0.weight", "2.weight", rank=3))
    assert lora.exact and lora.rank == 3 and lora.lost == () and lora.kept == pytest.approx(1, abs=1e-6)
    assert {name: (b.shape[1], len(a)) for name, (b, a) in lora.factors.items()} == {"0": (3, 3), "2": (3, 3)}


def test_another_is_the_truncated_decomposition() -> None:
    base = linear()
    after = moved(base, "0.weight")
    change = (after[0].weight - base[0].weight).detach().double()
    u, s, v = torch.linalg.svd(change, full_matrices=False)
    lora = extract_lora(base, after, rank=4)
    up, down = lora.factors["0"]
    assert torch.allclose((up @ down).double(), (u[:, :4] * s[:4]) @ v[:4], atol=1e-6)
    assert lora.kept == pytest.approx(float(s[:4].square().sum() / s.square().sum()), rel=1e-5)
    assert not lora.exact and lora.rank == 4
    assert extract_lora(base, after, rank=500).rank == 12, "a rank above a layer's is that layer's"


def test_what_no_lora_carries_is_said_and_alone_refused() -> None:
    base = linear()
    other = copy.deepcopy(base)
    with torch.no_grad():
        other[0].bias += 1
        other[1].weight += 1
        other[3].weight += 1
    with pytest.raises(ModelError, match="0.bias.*no LoRA can carry"):
        extract_lora(base, other)
    with torch.no_grad():
        other[0].weight += 0.1
    lora = extract_lora(base, other)
    assert lora.lost == ("0.bias", "1.weight", "3.weight") and lora.kept < 0.2
    assert "3 weights that no LoRA can carry" in str(lora)
    with pytest.raises(ModelError, match="no weight changed"):
        extract_lora(base, copy.deepcopy(base))
    with pytest.raises(SettingError, match="rank"):
        extract_lora(base, other, rank=0)


@pytest.mark.parametrize("form", ["diffusers", "kohya"])
def test_a_lora_for_another_base_is_refused(form: Any, tmp_path: Path) -> None:
    base = linear()
    after = moved(base, "0.weight", "2.weight", rank=2)
    path = save_lora(extract_lora(base, after), tmp_path, form=form)
    made = apply_lora(copy.deepcopy(base), path)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(made.parameters(), after.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="other weights"):
        apply_lora(linear(1), path)
    halves = copy.deepcopy(base).half()
    assert extract_lora(halves.float(), after).base == extract_lora(copy.deepcopy(halves).float(), after).base


# By the libraries' own loaders.


def drawn(pipe: Any) -> torch.Tensor:
    how = {"num_inference_steps": 4, "output_type": "np", "guidance_scale": 3.0}
    pipe.set_progress_bar_config(disable=True)
    images = pipe(TEXTS[0], generator=torch.Generator().manual_seed(0), **how).images
    return torch.as_tensor(images)


@pytest.mark.parametrize("kohya", [False, True], ids=["diffusers", "kohya"])
@pytest.mark.parametrize("kind", [stable_diffusion, stable_diffusion_xl], ids=["sd", "xl"])
def test_plain_diffusers_draws_the_edited_pipelines_images(kind: Any, kohya: bool, tmp_path: Path) -> None:
    """In float32, within 1e-5 of values in [0, 1]; the LoRA is loaded into the original."""
    pipe = kind(tmp_path).to(torch.float32)
    before = drawn(pipe)
    result = untrain.unlearn(pipe, method="uce", **SETS)
    lora = result.save_lora(tmp_path / "lora", kohya=kohya)
    assert lora.exact and lora.kept == pytest.approx(1, abs=1e-6)
    expected = drawn(result.model)
    pipe.load_lora_weights(tmp_path / "lora")
    found = drawn(pipe)
    assert (expected - before).abs().max() > 1e-3
    assert (found - expected).abs().max() < 1e-5


def test_every_layer_of_a_unet_can_be_carried(tmp_path: Path) -> None:
    """Convolutions and projections of time too, by diffusers' loader, where all of the UNet was trained."""
    pipe = stable_diffusion(tmp_path).to(torch.float32)
    few = untrain.ConceptImages(count=2, sampler=untrain.Sampler(2, guidance_scale=2.0), batch_size=2)
    result = untrain.unlearn(pipe, method="sfron", steps=2, batch_size=2, images=few, **SETS)
    lora = result.save_lora(tmp_path / "lora", rank=200)
    assert lora.exact and lora.lost and 0 < lora.kept < 1
    assert not any(name.endswith("weight") and "norm" not in name for name in lora.lost)
    pipe.load_lora_weights(tmp_path / "lora")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    expected = result.model.unet.state_dict()
    for name, weight in pipe.unet.state_dict().items():
        if name not in lora.lost:
            assert torch.allclose(weight, expected[name], atol=1e-5), name


def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)).eval()


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8)).eval()


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # which peft asks transformers for
@pytest.mark.parametrize("make", [vit, gpt2])
def test_peft_loads_it_too(make: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = make()
    names = [
        n for n, p in base.named_parameters() if p.ndim > 1 and "embed" not in n and "wte" not in n and "wpe" not in n
    ]
    names = [name for name in names if "position" not in name and "lm_head" not in name]
    after = moved(base, *names, rank=2)
    lora = extract_lora(base, after)
    assert lora.exact and lora.rank == 2 and len(lora.factors) == len(names)
    save_lora(lora, tmp_path, form="peft", part="")
    x = torch.randn(2, 3, 8, 8) if make is vit else torch.randint(20, (2, 8))
    with torch.no_grad():
        expected = after(x).logits
        loaded = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
        assert torch.allclose(loaded(x).logits, expected, atol=1e-5)
        own = apply_lora(copy.deepcopy(base), tmp_path / "adapter_model.safetensors")
        assert torch.allclose(own(x).logits, expected, atol=1e-5)


def test_a_model_changed_in_place_has_no_lora(tmp_path: Path) -> None:
    pipe = stable_diffusion(tmp_path)
    result = untrain.unlearn(pipe, method="uce", inplace=True, **SETS)
    with pytest.raises(SettingError, match="in place"):
        result.save_lora(tmp_path / "lora")


# Exact differences.


@pytest.mark.parametrize("sparse", [False, True])
def test_a_delta_gives_the_model_to_the_bit(sparse: bool, tmp_path: Path) -> None:
    base = linear()
    after = moved(base, "0.weight")
    if sparse:
        with torch.no_grad():
            after[0].weight[1:] = base[0].weight[1:]
            after[1].bias[3] = 7.0
    share = save_delta(base, after, tmp_path / "delta.safetensors")
    assert share == pytest.approx((13 if sparse else 240) / sum(p.numel() for p in base.parameters()))
    made = apply_delta(copy.deepcopy(base), tmp_path / "delta.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), after.parameters(), strict=True))
    with pytest.raises(CheckpointError, match="other weights"):
        apply_delta(linear(1), tmp_path / "delta.safetensors")
    with pytest.raises(ModelError, match="nothing changed"):
        save_delta(base, copy.deepcopy(base), tmp_path / "none.safetensors")
