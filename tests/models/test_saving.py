"""What a library would not save, or not find again, is refused before a step is taken."""

import copy
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import Subset, TensorDataset
from transformers import ViTConfig, ViTForImageClassification

import untrain
from helpers.small_generators import denoiser
from helpers.small_pipelines import stable_diffusion
from untrain.diffusion.pipelines import save_diffusers
from untrain.errors import CheckpointError, ModelError, UnlearningWarning
from untrain.models.saving import check_names, check_saved, configured_names

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LORA = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)


def pipeline(tmp_path: Path) -> Any:
    torch.manual_seed(0)
    return stable_diffusion(tmp_path).to(torch.float32)


def forget_concept(pipe: Any, **settings: Any) -> Any:
    images = torch.randint(0, 255, (4, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    concepts = {
        "forget": untrain.Concept("a red circle", images, anchor="a red square"),
        "retain": untrain.Concept("a red square", images.flip(0)),
    }
    return untrain.unlearn(pipe, task="text-to-image", **concepts, steps=2, batch_size=2, device="cpu", **settings)


def classifier() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=4))


def forget_images(model: Any, **settings: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(64, 3, 8, 8, generator=generator), torch.arange(64) % 4)
    sets = {"forget": Subset(data, range(16)), "retain": Subset(data, range(16, 64))}
    how = {"steps": 2, "batch_size": 16, "optimizer": untrain.Optimizer("adam", 1e-2), "device": "cpu"}
    return untrain.unlearn(model, **sets, **how | settings)


# ── pipelines ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_names_are_those_of_the_configuration(kind):
    module = denoiser(kind)
    state = torch.get_rng_state()
    assert configured_names(module) == set(module.state_dict())
    assert torch.equal(torch.get_rng_state(), state)
    check_names(module)


def test_an_adapter_that_came_is_trained_alone_and_saved(tmp_path):
    """By the pipeline with it in the weights, and by a LoRA for the pipeline without it; within 1e-5."""
    pipe = pipeline(tmp_path)
    plain: Any = copy.deepcopy(pipe)
    pipe.unet.add_adapter(LORA, adapter_name="style")
    result = forget_concept(pipe, out=tmp_path / "run")
    before, after = pipe.unet.state_dict(), result.model.unet.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and all(".lora_" in name for name in changed)
    assert any("save_lora" in note for note in result.notes)
    halves = {half: [m for n, m in result.mask.items() if half in n] for half in ("lora_A", "lora_B")}
    assert all(any(bool(mask.any()) for mask in masks) for masks in halves.values())
    lora = result.save_lora(tmp_path / "lora")
    plain.load_lora_weights(tmp_path / "lora")
    plain.fuse_lora()
    plain.unload_lora_weights()
    whole: Any = StableDiffusionPipeline.from_pretrained(tmp_path / "run" / "sfron", safety_checker=None)
    for name in lora.factors:
        weights = [each.unet.get_submodule(name).weight for each in (plain, whole)]
        assert torch.allclose(*weights, atol=1e-5), name
        assert not torch.allclose(weights[0], before[f"{name}.base_layer.weight"], atol=1e-4)
    with pytest.raises(ModelError, match="saves adapters alone"):
        forget_concept(pipe, parts="xattn")


def test_a_fused_adapter_is_refused_until_it_is_taken_out(tmp_path):
    pipe = pipeline(tmp_path)
    pipe.unet.add_adapter(LORA, adapter_name="style")
    pipe.fuse_lora()
    with pytest.raises(ModelError, match=r"first: pipeline.unload_lora_weights\(\)"):
        forget_concept(pipe)
    pipe.unload_lora_weights()
    with pytest.raises(ModelError, match=r"requires_grad_\(True\)"):
        forget_concept(pipe)
    pipe.unet.requires_grad_(True)
    result = forget_concept(pipe, out=tmp_path / "run").model
    result.save_pretrained(tmp_path / "saved")
    for place in (tmp_path / "saved", tmp_path / "run/sfron"):
        loaded: Any = StableDiffusionPipeline.from_pretrained(place, safety_checker=None)
        again = loaded.unet.state_dict()
        assert again.keys() == result.unet.state_dict().keys()
        assert all(torch.equal(again[name], value) for name, value in result.unet.state_dict().items())


def test_other_names_are_refused(tmp_path):
    pipe = pipeline(tmp_path)
    prune.l1_unstructured(pipe.unet.conv_in, "weight", 0.3)
    with pytest.raises(ModelError, match=r"conv_in.weight_(mask|orig)"):
        forget_concept(pipe)
    prune.remove(pipe.unet.conv_in, "weight")
    forget_concept(pipe)


def test_image_prompts_are_refused(tmp_path):
    pipe = pipeline(tmp_path)
    pipe.unet.encoder_hid_proj = nn.Linear(2, 2)
    with pytest.raises(ModelError, match="unload_ip_adapter"):
        forget_concept(pipe)


def test_what_was_written_is_compared(tmp_path, monkeypatch):
    module: Any = denoiser()
    whole = type(module).save_pretrained

    def lossy(self: Any, folder: Any, **how: Any) -> None:
        kept = self.conv_in.bias.data.clone()
        self.conv_in.bias.data += 1
        whole(self, folder, **how)
        self.conv_in.bias.data = kept

    monkeypatch.setattr(type(module), "save_pretrained", lossy)
    with pytest.raises(CheckpointError, match="conv_in.bias"):
        save_diffusers(None, module, tmp_path / "made")
    assert not (tmp_path / "made").exists()


# ── classifiers ─────────────────────────────────────────────────────────────────────────────────────────────────


def adapted(**how: Any) -> Any:
    return peft.get_peft_model(classifier(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **how))


def test_adapters_are_unlearned_and_found_again(tmp_path):
    model = adapted(modules_to_save=["classifier"], init_lora_weights=False)
    result = forget_images(model).model
    result.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(classifier(), tmp_path / "adapter").eval()
    inputs = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(inputs).logits, result(inputs).logits, rtol=0, atol=0)
        assert not torch.equal(model.eval()(inputs).logits, result(inputs).logits)


def test_weights_beside_the_adapters_would_be_lost():
    with pytest.raises(ModelError, match="saves adapters alone.*merge_and_unload"):
        forget_images(adapted(), parts="full")
    own = classifier()
    own.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    forget_images(own)
    own.classifier.requires_grad_(True)
    with pytest.raises(ModelError, match=r"classifier\."):
        forget_images(own)
    forget_images(adapted().merge_and_unload().requires_grad_(True))


def test_a_module_that_its_user_saves_may_train_all():
    inner = peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["0"]), nn.Sequential(nn.Linear(2, 2)))
    inner.requires_grad_(True)
    check_saved(inner)


def test_adapters_without_effect():
    model = adapted(init_lora_weights=False)
    model.merge_adapter()
    with pytest.raises(ModelError, match="merged or switched off"):
        forget_images(model)


def test_adapters_that_cannot_be_built_anew():
    with pytest.raises(ModelError, match="Pass init="):
        forget_images(adapted(), method="retrain")
    own = classifier()
    own.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ModelError, match="adapters, or pass init="):
        forget_images(own, method="retrain")
    assert forget_images(adapted(), method="retrain", init=adapted).model is not None


def test_names_that_from_pretrained_does_not_find_are_warned_of():
    model = classifier()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnlearningWarning)  # two steps reach nothing
        forget_images(model)
    model.classifier = nn.Sequential(model.classifier)
    with pytest.warns(UserWarning, match=r"classifier\."):
        forget_images(model)
