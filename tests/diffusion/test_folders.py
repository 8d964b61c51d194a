"""Folders of diffusers that a stranger made: none of their code runs, and no file beside them is copied."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from helpers.foreign_code import change, plant
from helpers.small_pipelines import stable_diffusion
from untrain.diffusion.denoisers import build_denoiser, load_denoiser
from untrain.diffusion.folders import local_folder
from untrain.diffusion.latents import load_vae
from untrain.diffusion.pipelines import load_pipeline, save_diffusers, schedule_of
from untrain.diffusion.single_file import load_single_file
from untrain.errors import CheckpointError, UntrainError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pipeline")
    (place / "words").mkdir()
    stable_diffusion(place / "words").save_pretrained(place / "pipe")
    return place / "pipe"


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "pipe")


# ── code ──


def in_the_index(folder: Path, **entries: Any) -> Path:
    change(folder / "model_index.json", **entries)
    return plant(folder / "evil.py")


BROUGHT: dict[str, Any] = {
    "a module of the folder": lambda f: in_the_index(f, unet=["evil", "Net"]),
    "a module of the part": lambda f: (in_the_index(f, unet=["evil", "Net"]), plant(f / "unet" / "evil.py"))[1],
    "another library": lambda f: in_the_index(f, scheduler=["antigravity", "Scheduler"]),
    "a dotted library": lambda f: in_the_index(f, scheduler=["diffusers.utils", "Scheduler"]),
    "a class that is looked up": lambda f: in_the_index(f, text_encoder=["transformers", "AutoModel"]),
    "a class that is none": lambda f: in_the_index(f, tokenizer=["transformers", "pipeline"]),
    "a pipeline as part": lambda f: in_the_index(f, scheduler=["diffusers", "StableDiffusionPipeline"]),
    "a pipeline of the folder": lambda f: in_the_index(f, _class_name=["evil", "StableDiffusionPipeline"]),
    "a pipeline by chance": lambda f: plant(f / "None.py"),
    "a part by chance": lambda f: plant(f / "tokenizer" / "transformers.py"),
    "a custom pipeline": lambda f: in_the_index(f, custom_pipeline="evil"),
    "an auto_map in the index": lambda f: in_the_index(f, auto_map={"AutoModel": "evil.Net"}),
    "a part elsewhere": lambda f: in_the_index(f, **{"../../unet": ["diffusers", "UNet2DConditionModel"]}),
    "a tokenizer": lambda f: (
        change(f / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Words", None]}),
        plant(f / "tokenizer" / "evil.py"),
    )[1],
    "a text encoder": lambda f: (
        change(f / "text_encoder" / "config.json", model_type="evil", auto_map={"AutoModel": "evil.Net"}),
        plant(f / "text_encoder" / "evil.py"),
    )[1],
    "a kernel": lambda f: (
        change(f / "text_encoder" / "config.json", attn_implementation="someone/kernel"),
        f / "none",
    )[1],
    "quantised weights": lambda f: (
        change(f / "unet" / "config.json", quantization_config={"quant_method": "torchao"}),
        f / "none",
    )[1],
    "an adapter": lambda f: (change(f / "text_encoder" / "adapter_config.json", base="someone/model"), f / "none")[1],
}


@pytest.mark.parametrize("way", BROUGHT)
def test_no_code_of_a_pipelines_folder_runs(way: str, folder: Path) -> None:
    mark, before = BROUGHT[way](folder), set(sys.modules)
    with pytest.raises(UntrainError):
        load_pipeline(folder)
    assert not mark.exists()
    assert not [name for name in set(sys.modules) - before if "evil" in name or name == "antigravity"]


@pytest.mark.parametrize("way", ["a module of the folder", "a tokenizer", "a part by chance", "a part elsewhere"])
@pytest.mark.parametrize("read", [load_denoiser, load_vae, schedule_of, local_folder])
def test_a_part_of_such_a_folder_is_not_read_either(way: str, read: Any, folder: Path) -> None:
    mark = BROUGHT[way](folder)
    with pytest.raises(CheckpointError):
        read(folder)
    assert not mark.exists()


def test_a_model_alone_brings_no_code(tmp_path: Path) -> None:
    sizes = {"num_classes": 2, "in_channels": 1, "image_size": 8}
    options: dict[str, Any] = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention_head_dim": 8}
    made: Any = build_denoiser("unet-small", **sizes, **options)
    made.save_pretrained(tmp_path)
    assert load_denoiser(tmp_path)
    change(tmp_path / "config.json", auto_map={"AutoModel": "evil.Net"})
    mark = plant(tmp_path / "evil.py")
    with pytest.raises(CheckpointError, match=r"config\.json: auto_map"):
        load_denoiser(tmp_path)
    assert not mark.exists()


def test_a_configuration_of_a_single_file_brings_no_code(folder: Path, tmp_path: Path) -> None:
    names = {
        "model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3),
        "model.diffusion_model.out.2.weight": (4, 8, 3, 3),
        "first_stage_model.x": (1,),
        "cond_stage_model.x": (1,),
    }
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "model.safetensors")
    mark = BROUGHT["another library"](folder)
    with pytest.raises(CheckpointError, match="antigravity"):
        load_single_file(tmp_path / "model.safetensors", folder)
    assert not mark.exists() and "antigravity" not in sys.modules


# ── links ──


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "id_rsa").write_text("secret")
    return tmp_path / "home"


@pytest.mark.parametrize("place", ["vae/notes.txt", "vae/more", "LICENSE.txt", "tokenizer"])
def test_a_link_out_of_the_folder_is_not_copied(place: str, folder: Path, secret: Path, tmp_path: Path) -> None:
    new, link = load_pipeline(folder).unet, folder / place
    if link.is_dir():
        shutil.rmtree(link)
    link.symlink_to(secret if place in ("vae/more", "tokenizer") else secret / "id_rsa")
    with pytest.raises(CheckpointError, match=f"{place} is a link to .*--allow-links"):
        save_diffusers(folder, new, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    save_diffusers(folder, new, tmp_path / "new", links=True)
    assert "secret" in [path.read_text() for path in (tmp_path / "new").rglob("*") if path.suffix in ("", ".txt")
                        and path.is_file()]  # fmt: skip


def test_a_link_within_the_folder_is_copied_as_a_file(folder: Path, tmp_path: Path) -> None:
    (folder / "vae" / "twin.json").symlink_to("config.json")
    (folder / "licence").write_text("MIT")
    (folder / "LICENSE").symlink_to("licence")
    save_diffusers(folder, load_pipeline(folder).unet, tmp_path / "new")
    for name in ("vae/twin.json", "LICENSE"):
        assert not (tmp_path / "new" / name).is_symlink()
        assert (tmp_path / "new" / name).read_bytes() == (folder / name).read_bytes()


def test_what_is_no_file_is_not_copied(folder: Path, tmp_path: Path) -> None:
    new = load_pipeline(folder).unet
    os.mkfifo(folder / "vae" / "pipe")
    with pytest.raises(CheckpointError, match="vae/pipe is neither a file nor a folder"):
        save_diffusers(folder, new, tmp_path / "new")


def cached(folder: Path, hub: Path) -> Path:
    """The folder as the hub's client keeps it: links into blobs."""
    snapshot = hub / "models--someone--pipe" / "snapshots" / "abc"
    blobs = hub / "models--someone--pipe" / "blobs"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        shutil.copy(path, blobs / str(number))
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return snapshot


def test_the_hubs_own_links_are_followed_and_no_others(folder: Path, secret: Path, tmp_path: Path) -> None:
    snapshot = cached(folder, tmp_path / "hub")
    new = load_pipeline(snapshot).unet
    save_diffusers(snapshot, new, tmp_path / "new")
    assert json.loads((tmp_path / "new" / "vae" / "config.json").read_text())
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_symlink()]
    (snapshot / "vae" / "notes.txt").symlink_to(secret / "id_rsa")
    with pytest.raises(CheckpointError, match=r"notes\.txt is a link"):
        save_diffusers(snapshot, new, tmp_path / "other")
    (snapshot / "vae" / "notes.txt").unlink()
    blobs = snapshot.parents[1] / "blobs"
    shutil.move(blobs, secret / "blobs")
    blobs.symlink_to(secret / "blobs")  # as a stranger's archive could have it
    with pytest.raises(CheckpointError, match="is a link"):
        save_diffusers(snapshot, new, tmp_path / "other")


# ── pickles ──


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch file"])
def test_weights_that_run_code_are_not_unpickled(part: str, plain: bool, folder: Path, tmp_path: Path) -> None:
    for path in (folder / part).glob("*.safetensors"):
        path.unlink()
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    held, mark = {"weight": Evil(tmp_path / "RAN")}, tmp_path / "RAN"
    if plain:
        (folder / part / name).write_bytes(pickle.dumps(held, 2))
    else:
        torch.save(held, folder / part / name)
    with pytest.raises(CheckpointError, match=part):
        load_pipeline(folder)
    if part == "vae":
        with pytest.raises(CheckpointError, match="vae"):
            load_vae(folder)
    assert not mark.exists()


@pytest.mark.parametrize("plain", [True, False], ids=["pickle", "torch file"])
def test_a_model_alone_is_not_unpickled(plain: bool, tmp_path: Path) -> None:
    sizes = {"num_classes": 2, "in_channels": 1, "image_size": 8}
    options: dict[str, Any] = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention_head_dim": 8}
    made: Any = build_denoiser("unet-small", **sizes, **options)
    made.save_config(tmp_path)
    held, path = {"weight": Evil(tmp_path / "RAN")}, tmp_path / "diffusion_pytorch_model.bin"
    if plain:
        path.write_bytes(pickle.dumps(held, 2))
    else:
        torch.save(held, path)
    with pytest.raises(CheckpointError):
        load_denoiser(tmp_path)
    assert not (tmp_path / "RAN").exists()
