"""LoRA in the transformers of pipelines: learned, written, and loaded back by the family's own loader."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.command_line import untrain as command
from helpers.small_pipelines import SIZE, TEXTS, drawn_rows
from helpers.text_recipes import save_text_recipe
from helpers.transformer_pipelines import FAMILIES, build, pixart
from untrain import Concept, ConceptImages, Sampler, unlearn
from untrain.diffusion.denoisers import denoiser_of
from untrain.diffusion.text import encode_prompts
from untrain.engine import Engine
from untrain.errors import SettingError
from untrain.methods.base import Optimizer
from untrain.models.parts import part_names
from untrain.sampling import Sampler as Steps
from untrain.tasks.text_to_image.attack_bench import AttackBench
from untrain.tasks.text_to_image.attack_target import AttackTarget
from untrain.tasks.text_to_image.concepts import latent_shape_of, text_task
from untrain.tasks.text_to_image.relearning import relearn

FEW = ConceptImages(count=2, sampler=Sampler(steps=2), image_size=SIZE, batch_size=2)
HOW: dict[str, Any] = {"task": "text-to-image", "method": "sfron", "steps": 1, "images": FEW, "device": "cpu"}
SETS: dict[str, Any] = {"forget": Concept(TEXTS[0], anchor=TEXTS[1]), "retain": Concept(TEXTS[2])}


@pytest.mark.parametrize("kind", FAMILIES)
def test_adapters_are_loaded_by_the_familys_own_loader(kind: str, folder: Path, tmp_path: Path) -> None:
    """In float32, within 1e-5 of what the unlearned network says; `xattn` is what hears of texts."""
    pipeline = build(FAMILIES[kind], folder).to(torch.float32)
    adapters = {"rank": 2, "targets": "xattn"}
    result = unlearn(pipeline, optimizer=Optimizer("adam", lr=0.01), adapters=adapters, **HOW, **SETS)
    lora = result.save_lora(tmp_path / "lora")
    network = denoiser_of(pipeline)
    assert lora.exact and {f"{name}.weight" for name in lora.factors} <= part_names(network, "xattn")
    task = text_task(pipeline, image_size=SIZE)
    batch = {key: value.float() if value.dtype == torch.float64 else value for key, value in _batch(pipeline).items()}
    before, expected = (task.outputs(each, batch).detach() for each in (network, denoiser_of(result.model)))
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(tmp_path / "lora")
        loaded: Any = denoiser_of(pipeline)
    else:
        from peft import PeftModel

        assert kind == "pixart"
        loaded = PeftModel.from_pretrained(copy.deepcopy(network), tmp_path / "lora").merge_and_unload()
    found = task.outputs(loaded, batch).detach()
    assert (expected - before).abs().max() > 1e-4 and (found - expected).abs().max() < 1e-5
    with pytest.raises(SettingError, match=r"UNet.*Transformer2DModel"):
        result.save_lora(tmp_path / "kohya.safetensors", kohya=True)
    assert not (tmp_path / "kohya.safetensors").exists()


def _batch(pipeline: Any) -> dict[str, torch.Tensor]:
    return drawn_rows(pipeline, text_task(pipeline, image_size=SIZE))


def test_a_recipe_with_adapters_runs_whole(folder: Path, tmp_path: Path) -> None:
    """Report, export and samples of a folder that keeps adapters alone, for peft."""
    recipe, run = save_text_recipe(tmp_path), tmp_path / "run"
    recipe.write_text(recipe.read_text().replace("parts: xattn", "adapters: {rank: 2, targets: xattn}"))
    build(pixart, folder).to(torch.float32).save_pretrained(tmp_path / "pipe")
    code, _, errors = command("run", recipe, "--out", run)
    assert code == 0, errors
    assert (run / "sfron/adapter_model.safetensors").is_file()
    assert "LoRA of rank 2" in (run / "report.html").read_text(encoding="utf-8")
    code, said, errors = command("export", run, "--lora", "--out", tmp_path / "lora")
    assert code == 0 and "all of the change" in said, errors
    code, _, errors = command("export", run, "--lora", "--kohya", "--out", tmp_path / "kohya.safetensors")
    assert code == 1 and "UNet" in errors
    (tmp_path / "prompts.csv").write_text("prompt\na red circle\n")
    how = ("--count", 1, "--steps", 2, "--width", SIZE, "--height", SIZE, "--device", "cpu")
    for model in ("sfron", "original"):
        place = tmp_path / model
        words = ("--prompts", tmp_path / "prompts.csv", "--model", model, *how, "--out", place)
        code, _, errors = command("sample", run, *words)
        assert code == 0, errors
    assert (tmp_path / "sfron/0_0.png").read_bytes() != (tmp_path / "original/0_0.png").read_bytes()


@pytest.mark.parametrize("kind", ["sd3", "pixart"])
def test_a_transformer_relearns(kind: str, folder: Path) -> None:
    """What attacks tell a network of texts is all that it is told in training: mask, pooled text, tokens."""
    pipeline = build(FAMILIES[kind], folder)
    task, shape = text_task(pipeline), latent_shape_of(pipeline, SIZE)
    prompts = encode_prompts(pipeline, TEXTS, SIZE)
    how = (shape, Engine(torch.device("cpu")), Steps(1), 2, 0)
    bench = AttackBench(pipeline, task, prompts, *how)
    told = bench.embed(TEXTS)
    assert torch.equal(told["embeds"], prompts.embeds[1:])
    assert told.keys() == {"embeds", *prompts.more}
    posterior = torch.randn(2, 2, *shape, dtype=torch.float64).abs()
    images = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
    target = AttackTarget("it", TEXTS[:1], ["{}"], [""], [None], None, images, [0, 0], [0, 1], posterior)  # type: ignore[arg-type]
    network = denoiser_of(pipeline)
    before = copy.deepcopy(network.state_dict())
    with bench.frozen(network):
        [(_, found)] = relearn(bench, network, target, stops=[1], rate=1e-3, batch_size=2, seed=0, label="")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in found.state_dict().items())
