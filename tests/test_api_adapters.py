"""Unlearning by adapters: on pipelines, classifiers and language models, and what libraries load of it."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import Subset, TensorDataset

import untrain
from helpers.small_pipelines import TEXTS, stable_diffusion, stable_diffusion_xl
from untrain.errors import ModelError, SettingError, StaleFile
from untrain.types import Batch

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
    pytest.mark.filterwarnings("ignore::untrain.errors.UnlearningWarning"),  # two steps reach nothing
]


def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=4)).eval()


def forget_images(model: Any, **settings: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, 3, 8, 8, generator=generator), torch.arange(64) % 4)
    sets = {"forget": Subset(data, range(16)), "retain": Subset(data, range(16, 64))}
    how = {"steps": 2, "batch_size": 16, "optimizer": untrain.Optimizer("adam", 1e-2), "device": "cpu"}
    return untrain.unlearn(model, **sets, **how | settings)


@pytest.mark.parametrize("method", ["sfron", "salun", "scrub", "bad-teacher"])
def test_a_classifier_is_unlearned_by_adapters(method: str, tmp_path: Path) -> None:
    model = vit()
    steps = {} if method in ("sfron", "salun") else {"steps": 3}
    result = forget_images(model, method=method, adapters={"rank": 2, "targets": ["q_proj", "v_proj"]}, **steps)
    assert type(result.model) is type(model)
    before, after = model.state_dict(), result.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in changed)
    if result.mask is not None:
        assert {name.split(".")[-3] for name in result.mask} == {"lora_A", "lora_B"}
        for half in ("lora_A", "lora_B"):
            assert any(bool(mask.any()) for name, mask in result.mask.items() if half in name)
    lora = result.save_lora(tmp_path / "lora")
    assert lora is result.lora and lora.rank == 2 and lora.exact and len(lora.factors) == 2
    inputs = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "lora").eval()
        assert torch.allclose(loaded(inputs).logits, result.model(inputs).logits, atol=1e-5)


def test_a_run_folder_keeps_the_adapters_alone(tmp_path: Path) -> None:
    model, how = vit(), {"adapters": untrain.Adapters(rank=1), "out": tmp_path / "run"}
    result = forget_images(model, **how)
    held = load_file(tmp_path / "run" / "sfron.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in held)
    again = forget_images(model, **how, resume=True)
    pairs = zip(result.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "read again, to the last bit"
    assert again.save_lora(tmp_path / "lora").rank == 1
    with pytest.raises(StaleFile, match="adapters"):
        forget_images(model, **how | {"adapters": untrain.Adapters(rank=2)}, resume=True)
    with pytest.raises(StaleFile, match="weights"):
        forget_images(vit().requires_grad_(True).apply(_shift), **how, resume=True)


def _shift(layer: nn.Module) -> None:
    for parameter in layer.parameters(recurse=False):
        parameter.data += 0.01


class NextToken(untrain.Task):
    """The mean cross-entropy of the next word of each text, in nats."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[B]."""
        logits = self.outputs(model, batch)[:, :-1]
        return nn.functional.cross_entropy(logits.transpose(1, 2), batch["text"][:, 1:], reduction="none").mean(1)

    def outputs(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[B, L, V]."""
        return model(batch["text"]).logits


def test_a_language_model_is_unlearned_by_adapters(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=8)).eval()
    texts = torch.randint(20, (24, 8), generator=torch.Generator().manual_seed(0))
    batches = [{"text": texts[i : i + 8], "index": torch.arange(i, i + 8)} for i in range(0, 24, 8)]
    result = untrain.unlearn(
        model,
        forget=batches[:1],
        retain=batches[1:],
        task=NextToken(),
        method="neggrad-plus",
        steps=2,
        optimizer=untrain.Optimizer("adam", 1e-2),
        adapters={"rank": 2},
        device="cpu",
    )
    lora = result.save_lora(tmp_path / "lora")
    assert len(lora.factors) == 4 and lora.transposed
    with torch.no_grad():
        expected = result.model(texts).logits
        assert not torch.allclose(expected, model(texts).logits, atol=1e-4)
        loaded = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "lora").eval()
        assert torch.allclose(loaded(texts).logits, expected, atol=1e-5)


# ── pipelines ───────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(pipe: Any) -> torch.Tensor:
    how = {"num_inference_steps": 3, "output_type": "np", "guidance_scale": 3.0}
    pipe.set_progress_bar_config(disable=True)
    return torch.as_tensor(pipe(TEXTS[0], generator=torch.Generator().manual_seed(0), **how).images)


def forget_concept(pipe: Any, **settings: Any) -> Any:
    images = torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    concepts = {
        "forget": untrain.Concept(TEXTS[0], images, anchor=TEXTS[1]),
        "retain": untrain.Concept(TEXTS[2], images.flip(0)),
    }
    how = {"steps": 3, "batch_size": 2, "device": "cpu", "optimizer": untrain.Optimizer("adam", 1e-2)}
    return untrain.unlearn(pipe, task="text-to-image", **concepts, **how | settings)


@pytest.mark.parametrize("kind", [stable_diffusion, stable_diffusion_xl], ids=["sd", "xl"])
def test_plain_diffusers_draws_what_adapters_learned(kind: Any, tmp_path: Path) -> None:
    """Images in [0, 1] within 1e-4, by diffusers' names and kohya's, loaded into the original."""
    pipe = kind(tmp_path).to(torch.float32)
    before = drawn(pipe)
    result = forget_concept(pipe, method="salun", adapters={"rank": 2, "targets": "xattn"}, out=tmp_path / "run")
    expected = drawn(result.model)
    assert (expected - before).abs().max() > 1e-3
    changed = [n for n, p in result.model.unet.named_parameters() if not torch.equal(p, pipe.unet.get_parameter(n))]
    assert changed and all(".attn2." in name and name.endswith("weight") for name in changed)
    for kohya in (False, True):
        lora = result.save_lora(tmp_path / f"lora-{kohya}", kohya=kohya)
        assert lora.rank == 2 and lora.exact
        pipe.load_lora_weights(tmp_path / f"lora-{kohya}")
        assert (drawn(pipe) - expected).abs().max() < 1e-4
        pipe.unload_lora_weights()
    pipe.load_lora_weights(tmp_path / "run" / "salun.safetensors")
    assert (drawn(pipe) - expected).abs().max() < 1e-4, "the run's own file"


def test_a_frozen_base_in_half_precision_stays_so(tmp_path: Path) -> None:
    """Below adapters in float32 nothing is widened; the LoRA holds what rounding takes from the weights."""
    model = vit().to(torch.bfloat16)
    seen: list[torch.dtype] = []
    model.vit.layernorm.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
    with pytest.warns(UserWarning, match="rounded back"):
        result = forget_images(
            model, adapters={"rank": 2, "targets": ["q_proj"]}, optimizer=untrain.Optimizer("adam", 1e-5)
        )
    assert {*seen} == {torch.bfloat16} and {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    up, down = next(iter(result.save_lora(tmp_path / "lora").factors.values()))
    assert up.dtype == torch.float32 and 0 < float((up @ down).abs().max()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:.*rounded back.*:UserWarning")
def test_adapters_of_a_model_changed_in_place_are_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    """What does not fit into memory twice is changed in place, and its LoRA is that of a copy to the bit."""
    how: dict[str, Any] = {"adapters": {"rank": 2, "targets": ["q_proj"]}}
    there, apart = (forget_images(vit().to(dtype), inplace=inplace, **how) for inplace in (True, False))
    saved = [result.save_lora(tmp_path / str(i)).factors for i, result in enumerate((there, apart))]
    assert saved[0].keys() == saved[1].keys() and all(name.endswith("q_proj") for name in saved[0])
    for name, factors in saved[0].items():
        assert all(torch.equal(a, b) for a, b in zip(factors, saved[1][name], strict=True))
    if dtype == torch.float32:
        inputs = torch.randn(4, 3, 8, 8)
        loaded = peft.PeftModel.from_pretrained(vit(), tmp_path / "0").eval()
        with torch.no_grad():
            assert torch.allclose(loaded(inputs).logits, there.model(inputs).logits, atol=1e-5)
    with pytest.raises(SettingError, match="in place.*rank 2"):
        there.save_lora(tmp_path / "less", rank=1)


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_does_not_go_with_adapters() -> None:
    model = vit()
    with pytest.raises(SettingError, match="adapters.targets"):
        forget_images(model, adapters={}, parts="full")
    with pytest.raises(SettingError, match="shrink-perturb.*cannot train adapters"):
        forget_images(model, adapters={}, method="shrink-perturb")
    with pytest.raises(SettingError, match="rank"):
        forget_images(model, adapters={"rank": 100})
    with pytest.raises(SettingError, match="ranks"):
        forget_images(model, adapters={"ranks": 4})
    own = peft.get_peft_model(vit(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="has adapters already"):
        forget_images(own, adapters={})
