"""A recipe whose methods train adapters: what its folder keeps, and every command that reads it."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.command_line import untrain
from helpers.text_recipes import save_text_recipe
from untrain.models.lora import apply_lora
from untrain.runs.models import open_model
from untrain.runs.recipe import read


def adapted(folder: Path) -> Path:
    recipe = save_text_recipe(folder)
    text = recipe.read_text().replace("parts: xattn", "adapters: {rank: 2, targets: xattn}")
    recipe.write_text(text.replace("  sfron: {steps: 2}", "  salun: {steps: 2, optimizer: {name: adam, lr: 0.01}}"))
    return recipe


def test_a_run_keeps_adapters_alone_and_is_read_by_every_command(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    recipe, run = adapted(tmp_path), tmp_path / "run"
    code, _, errors = untrain("run", recipe, "--out", run)
    assert code == 0, errors
    held = load_file(run / "salun.safetensors")
    assert held and all(name.startswith("unet.") and ".lora_" in name for name in held)
    assert sorted(path.name for path in (run / "salun").iterdir()) == ["pytorch_lora_weights.safetensors"]
    before = {path: path.stat().st_mtime_ns for path in run.glob("salun*")}
    code, _, errors = untrain("run", run, "--resume")
    assert code == 0 and before == {path: path.stat().st_mtime_ns for path in run.glob("salun*")}, errors
    _, module = open_model(run, "salun")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "pipe", dtype=torch.float32)
    own = apply_lora(copy.deepcopy(pipe.unet), run / "salun" / "pytorch_lora_weights.safetensors").state_dict()
    assert all(torch.equal(own[name], value) for name, value in module.state_dict().items()), "to the last bit"
    pipe.load_lora_weights(run / "salun")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert all(torch.allclose(pipe.unet.state_dict()[n], value, atol=1e-5) for n, value in own.items())
    code, said, errors = untrain("export", run, "--lora", "--kohya", "--out", tmp_path / "kohya.safetensors")
    assert code == 0 and "LoRA of rank 2" in said and "all of the change" in said, errors
    (tmp_path / "prompts.csv").write_text("prompt\na red circle\n")
    how = ("--count", 1, "--steps", 2, "--device", "cpu", "--out", tmp_path / "pictures")
    code, _, errors = untrain("sample", run, "--prompts", tmp_path / "prompts.csv", *how)
    assert code == 0, errors


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--parts", "xattn"), "adapters.targets"),
        (("--adapters.rank", "0"), "adapters.rank"),
        (("--adapters.targets", "nothing"), "nothing"),
        (("--methods.salun.method", "uce"), "cannot train adapters"),
    ],
    ids=str,
)
def test_what_does_not_go_with_adapters_is_said_before_anything_is_made(
    flags: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    recipe = adapted(tmp_path)
    if "uce" in flags:
        recipe.write_text(recipe.read_text().replace("salun: {", "salun: {method: uce} #"))
        flags = ()
    code, _, errors = untrain("run", recipe, *flags, "--out", tmp_path / "run")
    assert code == 1 and said in errors and not (tmp_path / "run").exists()


def test_a_recipe_says_adapters_in_a_section() -> None:
    recipe = read(None, ["--adapters.rank", "4"])
    assert recipe.adapters is not None and (recipe.adapters.rank, recipe.adapters.targets) == (4, None)
    assert recipe.plain()["adapters"]["rank"] == 4 and read(None).plain()["adapters"] is None
