"""`untrain export`: a LoRA and an exact difference of what a run's method changed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.command_line import untrain
from helpers.text_recipes import save_text_recipe
from untrain.models.checkpoints import load_state, state_hash
from untrain.models.delta import apply_delta
from untrain.models.lora import apply_lora


def test_a_run_is_exported_in_both_forms(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    recipe = save_text_recipe(tmp_path)
    run = tmp_path / "run"
    code, _, errors = untrain("run", recipe, "--method", "uce", "--out", run)
    assert code == 0, errors
    code, said, errors = untrain("export", run, "--lora")
    assert code == 0 and "LoRA of rank" in said and "all of the change" in said, errors
    code, said, _ = untrain("export", run, "--lora", "--kohya", "--rank", 1, "--out", tmp_path / "small.safetensors")
    assert code == 0 and "% of the squared change" in said
    assert all(name.startswith("lora_unet_") for name in load_file(tmp_path / "small.safetensors"))
    assert untrain("export", run, "--delta")[0] == 0
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe", dtype=torch.float32)
    weights, _ = load_state(run / "uce.safetensors")
    by_lora = apply_lora(pipe.unet, run / "uce-lora" / "pytorch_lora_weights.safetensors").state_dict()
    assert all(torch.allclose(by_lora[name], value, atol=1e-5) for name, value in weights.items())
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe", dtype=torch.float32)
    made = apply_delta(again.unet, run / "uce-delta" / "delta.safetensors")
    assert state_hash(made) == load_state(run / "uce.safetensors")[1]["hash"]


@pytest.mark.parametrize("wrong", [(), ("--lora", "--delta"), ("--kohya",), ("--lora", "--rank", "0")], ids=str)
def test_what_is_wrong_with_the_command_is_said(wrong: tuple[str, ...], tmp_path: Path) -> None:
    assert untrain("export", tmp_path, *wrong)[0] == 1
    assert untrain("export", tmp_path / "none", "--lora")[0] == 1
