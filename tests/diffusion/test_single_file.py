"""Single files of Stable Diffusion, written here in their authors' layout from tiny pipelines."""

import copy
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.single_files import UNET, as_one, unet_name
from helpers.small_pipelines import stable_diffusion, stable_diffusion_xl
from untrain.diffusion import single_file
from untrain.diffusion.pipelines import load_pipeline, save_diffusers
from untrain.diffusion.single_file import PUBLIC, ldm_names, load_single_file, save_single_file
from untrain.errors import CheckpointError, FolderError, ModelError, SettingError

FIRST, LAST = f"{UNET}input_blocks.0.0.weight", f"{UNET}out.2.weight"
SD, XL = "StableDiffusionPipeline", "StableDiffusionXLPipeline"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each kind a folder of diffusers, `KIND/pipeline`, and the same as one file, `KIND/model.safetensors`."""
    found = {}
    for kind, make in ((SD, stable_diffusion), (XL, stable_diffusion_xl)):
        place = tmp_path_factory.mktemp(kind)
        (place / "words").mkdir()
        pipeline = make(place / "words")
        for number, part in enumerate(pipeline.components.values()):
            if isinstance(part, nn.Module):
                drawn(part.float(), 100 + number)
        pipeline.save_pretrained(place / "pipeline")
        save_file(as_one(pipeline), place / "model.safetensors", {"format": "pt", "hash": "old", "author": "A"})
        found[kind] = place
    return found


def drawn(module: nn.Module, seed: int) -> nn.Module:
    """No weight is a constant, so that each can be found again by its content."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g) * 0.2)
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ── reading ──


@pytest.mark.parametrize("kind", [SD, XL])
def test_a_single_file_is_the_pipeline_that_it_was_written_from(kind: str, places: dict[str, Path]) -> None:
    place = places[kind]
    folder = load_pipeline(place / "pipeline")
    made = load_pipeline(place / "model.safetensors", config=place / "pipeline")
    assert type(made).__name__ == kind
    for name, part in folder.components.items():
        if isinstance(part, nn.Module):
            assert same(made.components[name], part), name
            assert not made.components[name].training
    assert made.scheduler.config == folder.scheduler.config
    assert made.tokenizer.get_vocab() == folder.tokenizer.get_vocab()
    images = [
        pipe("a red circle", num_inference_steps=2, output_type="pt", generator=torch.Generator().manual_seed(0)).images
        for pipe in (folder, made)
    ]
    assert torch.equal(*images)


TEXT = {SD: "cond_stage_model.", XL: "conditioner.embedders.0."}


@pytest.mark.parametrize("kind", [SD, XL])
@pytest.mark.parametrize("words", ["transformer.", "text_model.", ""])
def test_a_text_encoder_under_its_other_names(
    kind: str, words: str, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read in any precision, and what is written has the names of the file that it came from."""
    place, start = places[kind], TEXT[kind]
    usual = load_file(place / "model.safetensors")
    names = {name: name.replace(f"{start}transformer.text_model.", f"{start}{words}") for name in usual}
    state = {names[name]: weight.half() for name, weight in usual.items()}
    assert {*state} != {*usual}
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    made, folder = load_pipeline(file, config=place / "pipeline"), load_pipeline(place / "pipeline")
    for name, weight in folder.text_encoder.state_dict().items():
        assert torch.equal(made.text_encoder.state_dict()[name], weight.half().float()), name
    assert not made.text_encoder.training and made.text_encoder.dtype == torch.float32
    save_single_file(file, drawn(copy.deepcopy(made.unet), 2), tmp_path / "new.safetensors")
    written = load_file(tmp_path / "new.safetensors")
    assert written.keys() == state.keys()
    assert all(torch.equal(written[name], state[name]) for name in state if name.startswith(start))
    assert same(load_pipeline(tmp_path / "new.safetensors", config=place / "pipeline").text_encoder, made.text_encoder)


def test_a_second_text_encoder_in_the_names_of_transformers(places: dict[str, Path], tmp_path: Path) -> None:
    place, start = places[XL], "conditioner.embedders.1."
    folder = load_pipeline(place / "pipeline")
    state = {k: v for k, v in load_file(place / "model.safetensors").items() if not k.startswith(start)}
    state |= {f"{start}transformer.{name}": weight for name, weight in folder.text_encoder_2.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    made = load_pipeline(tmp_path / "model.safetensors", config=place / "pipeline")
    assert same(made.text_encoder_2, folder.text_encoder_2) and same(made.text_encoder, folder.text_encoder)


def test_a_text_encoder_that_is_not_whole_is_named_without_advice_in_code(
    places: dict[str, Path], tmp_path: Path
) -> None:
    state = load_file(places[SD] / "model.safetensors")
    start = f"{TEXT[SD]}transformer.text_model."
    plain = {name.replace(start, f"{TEXT[SD]}transformer."): weight for name, weight in state.items()}
    last = next(name for name in plain if name.endswith("final_layer_norm.bias"))
    without = {name: weight for name, weight in state.items() if not name.startswith(TEXT[SD])}
    wrong = {
        "missing": {name: weight for name, weight in plain.items() if name != last},
        r"is \[3\]": plain | {last: torch.zeros(3)},
        "text_encoder": {**without, f"{TEXT[SD]}transformer.text_model.x": torch.zeros(1)},
    }
    for reason, weights in wrong.items():
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=reason) as error:
            load_pipeline(tmp_path / "model.safetensors", config=places[SD] / "pipeline")
        assert "from_single_file(" not in str(error.value) and "from_pretrained" not in str(error.value)


def test_half_precision_becomes_float32(places: dict[str, Path], tmp_path: Path) -> None:
    place = places[SD]
    halves = {name: weight.half() for name, weight in load_file(place / "model.safetensors").items()}
    save_file(halves, tmp_path / "half.safetensors")
    made = load_single_file(tmp_path / "half.safetensors", place / "pipeline")
    assert {p.dtype for part in (made.unet, made.vae, made.text_encoder) for p in part.parameters()} == {torch.float32}
    assert torch.equal(made.unet.conv_in.weight, halves[FIRST].float())


def test_a_torch_file_is_read_where_it_holds_tensors_alone(places: dict[str, Path], tmp_path: Path) -> None:
    place = places[SD]
    state = load_file(place / "model.safetensors")
    average = {f"model_ema.{number}": torch.ones(1) for number in range(3)}
    torch.save({"state_dict": {**state, **average}, "global_step": 5}, tmp_path / "model.ckpt")
    made = load_single_file(tmp_path / "model.ckpt", place / "pipeline")
    assert same(made.unet, load_pipeline(place / "pipeline").unet)
    torch.save({"state_dict": state, "callbacks": SimpleNamespace()}, tmp_path / "unsafe.ckpt")
    with pytest.raises(CheckpointError, match=r"unsafe.ckpt was refused.*types.SimpleNamespace.*convert it"):
        load_single_file(tmp_path / "unsafe.ckpt", place / "pipeline")


def test_the_public_configuration_needs_clips_words_alone(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, place in places.items():
        tiny = {}
        for name, (library, made, settings) in PUBLIC[kind].items():
            path = place / "pipeline" / name / "config.json"
            own = json.loads(path.read_text()) if path.is_file() else settings
            if name.startswith("tokenizer"):
                own = {"pad_token": "<|endoftext|>"}
            tiny[name] = (library, made, {key: value for key, value in own.items() if key != "dtype"})
        monkeypatch.setitem(PUBLIC, kind, tiny)
        made = load_single_file(place / "model.safetensors", place / "words")
        expected = load_pipeline(place / "pipeline")
        assert same(made.unet, expected.unet) and same(made.text_encoder, expected.text_encoder)
        assert made.scheduler.config.beta_end == 0.012 and made.scheduler.config.steps_offset == 1
        assert made.tokenizer("a b")["input_ids"] == expected.tokenizer("a b")["input_ids"]
        assert made.tokenizer.model_max_length == 24
        save_diffusers(made, made.unet, tmp_path / kind)
        assert same(load_pipeline(tmp_path / kind).unet, expected.unet)
        said = "".join(path.read_text() for path in (tmp_path / kind).rglob("*config.json"))
        assert "/tmp" not in said, "no path of this machine is written down"
    (tmp_path / "half").mkdir()
    shutil.copy(places[SD] / "words" / "vocab.json", tmp_path / "half")
    with pytest.raises(CheckpointError, match=r"half lacks merges.txt"):
        load_single_file(places[SD] / "model.safetensors", tmp_path / "half")


@pytest.mark.parametrize(
    ("kind", "part", "count"),
    [
        (SD, "unet", 859_520_964),
        (SD, "vae", 83_653_863),
        (SD, "text_encoder", 123_060_480),
        (XL, "unet", 2_567_463_684),
        (XL, "text_encoder_2", 694_659_840),
    ],
)
def test_the_public_configurations_have_the_published_sizes(kind: str, part: str, count: int) -> None:
    import diffusers
    import transformers

    library, name, settings = PUBLIC[kind][part]
    with torch.device("meta"):
        if library == "diffusers":
            made: Any = getattr(diffusers, name)(**settings)
        else:
            made = getattr(transformers, name)(transformers.CLIPTextConfig(**settings))
    assert sum(weight.numel() for weight in made.parameters()) == count


@pytest.mark.parametrize("kind", [SD, XL])
def test_a_public_configuration_is_written_with_all_defaults(
    kind: str, places: dict[str, Path], tmp_path: Path
) -> None:
    """Diffusers' conversion looks at some of them without asking whether they are there."""
    single_file._public_folder(kind, places[kind] / "words", tmp_path)
    said = json.loads((tmp_path / "unet" / "config.json").read_text())
    assert said["layers_per_block"] == 2 and said["_class_name"] == "UNet2DConditionModel"
    assert said["cross_attention_dim"] == {SD: 768, XL: 2048}[kind] and said["class_embed_type"] is None
    assert len(json.loads((tmp_path / "vae" / "config.json").read_text())["down_block_types"]) == 4


# ── what cannot be read ──


def written(tmp_path: Path, *names: str, **shapes: tuple[int, ...]) -> Path:
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(shapes.get(name, (1,))) for name in names}, path)
    return path


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_down_blocks_0.lora_up.weight"], r"holds an adapter \(LoRA\).*fuse_lora"),
        (["emb_params"], r"an embedding \(textual inversion\)"),
        (["clip_g", "clip_l"], r"an embedding \(textual inversion\)"),
        (["control_model.input_blocks.0.0.weight", FIRST], "a ControlNet"),
        (["model.diffusion_model.double_blocks.0.img_attn.qkv.weight"], "FLUX.*from a folder"),
        (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
        ([FIRST, LAST, "edm_mean"], "Playground 2.5"),
        ([FIRST, LAST, "ztsnr"], "zero terminal SNR"),
    ],
)
def test_files_of_other_things_are_named(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load_single_file(written(tmp_path, *names))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["conv.weight"], r"is not a checkpoint of Stable Diffusion: none of its 1 weights .* \(the first is conv.w"),
        ([FIRST, LAST, "cond_stage_model.transformer.x"], "holds no VAE. Take the checkpoint that holds the whole"),
        ([FIRST, LAST, "first_stage_model.x"], "holds no text encoder"),
        ([FIRST, LAST, "vae.x", "conditioner.embedders.0.model.x"], "the refiner of Stable Diffusion XL"),
    ],
)
def test_files_that_are_not_whole(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        load_single_file(written(tmp_path, *names, **{FIRST: (8, 4, 3, 3), LAST: (4, 8, 3, 3)}))


def test_models_that_edit_images_are_refused(tmp_path: Path) -> None:
    names = (FIRST, LAST, "vae.x", "cond_stage_model.transformer.x")
    with pytest.raises(ModelError, match=r"sees more than a latent \(9 channels\)"):
        load_single_file(written(tmp_path, *names, **{FIRST: (8, 9, 3, 3), LAST: (4, 8, 3, 3)}))


def test_damaged_files(places: dict[str, Path], tmp_path: Path) -> None:
    whole = (places[SD] / "model.safetensors").read_bytes()
    for name, data in (("cut.safetensors", whole[:5000]), ("text.ckpt", b"version https"), ("none.ckpt", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=f"{name} .*damaged"):
            load_single_file(tmp_path / name, places[SD] / "pipeline")
    with pytest.raises(CheckpointError, match=r"nothing.safetensors does not exist"):
        load_pipeline(tmp_path / "nothing.safetensors")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"should end in .safetensors or .ckpt"):
        load_pipeline(tmp_path / "model.gguf")
    torch.save([torch.ones(1)], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="holds a list instead of weights by name"):
        load_single_file(tmp_path / "list.ckpt")


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        (
            "unet",
            r"UNet is of another architecture: the model has 1 weights that the file lacks \(conv_norm",
        ),
        ("vae", r"part.safetensors cannot be loaded .*: the file lacks some of the weights. Take a file that is whole"),
        ("text", r"lacks 1 of the \d+ weights of the text_encoder"),
    ],
)
def test_a_weight_that_is_missing_is_said(ending: str, message: str, places: dict[str, Path], tmp_path: Path) -> None:
    lost = {
        "unet": f"{UNET}out.0.bias",
        "vae": "first_stage_model.encoder.norm_out.bias",
        "text": "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    }[ending]
    state = load_file(places[SD] / "model.safetensors")
    del state[lost]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_single_file(tmp_path / "part.safetensors", places[SD] / "pipeline")


def test_the_configuration_must_be_of_the_same_architecture(
    places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = places[SD] / "model.safetensors", tmp_path / "other"
    with pytest.raises(SettingError, match=f"holds a {SD}, and the configuration in .* is of a {XL}"):
        load_single_file(file, places[XL] / "pipeline")
    shutil.copytree(places[SD] / "pipeline", folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    for change in ({"block_out_channels": [16, 32]}, {"layers_per_block": 2}):
        (folder / "unet" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=r"cannot be loaded with|of another architecture|lacks \d+ of"):
            load_single_file(file, folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty holds no configuration: neither model_index.json nor CLIP's"):
        load_single_file(file, tmp_path / "empty")
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        load_single_file(file, "not there")

    def offline(name: str, **_: Any) -> str:
        raise OSError(f"no connection to {name}")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(CheckpointError, match=r"configuration and tokenizer of stable.* cannot be had: no connection"):
        load_single_file(file)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(places[SD] / "pipeline"))
    assert same(load_single_file(file, "some/pipeline").unet, load_single_file(file).unet)
    with pytest.raises(SettingError, match="config is for single files"):
        load_pipeline(places[SD] / "pipeline", config=folder)


def test_what_is_predicted_is_not_guessed(places: dict[str, Path], tmp_path: Path) -> None:
    names = (FIRST, LAST, "vae.x", "cond_stage_model.model.ln_final.weight")
    second = written(tmp_path, *names, **{FIRST: (8, 4, 3, 3), LAST: (4, 8, 3, 3)})
    for config in (None, places[SD] / "words"):
        with pytest.raises(SettingError, match="Stable Diffusion 2, and does not tell whether it predicts noise or v"):
            load_single_file(second, config)
    state = load_file(places[XL] / "model.safetensors")
    save_file({**state, "v_pred": torch.zeros(0)}, tmp_path / "v.safetensors")
    with pytest.raises(SettingError, match="says that it predicts v, and its configuration says otherwise"):
        load_single_file(tmp_path / "v.safetensors", places[XL] / "pipeline")


# ── writing ──


@pytest.mark.parametrize("kind", [SD, XL])
def test_another_unet_takes_the_place_of_the_first(kind: str, places: dict[str, Path], tmp_path: Path) -> None:
    place, target = places[kind], tmp_path / "new" / "model.safetensors"
    old = load_pipeline(place / "pipeline")
    new: Any = drawn(copy.deepcopy(old.unet), 2)
    average = {f"model_ema.{name}": weight for name, weight in old.unet.state_dict().items()}
    stored = load_file(place / "model.safetensors")
    save_file({**stored, **average}, tmp_path / "old.safetensors", {"modelspec.hash_sha256": "1", "author": "A"})
    save_single_file(tmp_path / "old.safetensors", torch.compile(new, backend="eager"), target, {"untrain": "x"})
    found = load_file(target)
    assert found.keys() == stored.keys()
    for name, weight in new.state_dict().items():
        assert torch.equal(found[unet_name(name, new)], weight), name
    assert all(torch.equal(found[name], weight) for name, weight in stored.items() if not name.startswith(UNET))
    data = target.read_bytes()
    left = [name for name, weight in old.unet.state_dict().items() if weight.numpy().tobytes() in data]
    assert not left, "nothing of the first UNet may remain"
    assert all(weight.numpy().tobytes() in data for weight in old.vae.state_dict().values())
    with safetensors.safe_open(target, framework="pt") as file:
        assert file.metadata() == {"author": "A", "untrain": "x"}
    assert same(load_pipeline(target, config=place / "pipeline").unet, new)
    assert sorted(path.name for path in target.parent.iterdir()) == ["model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_keep_the_type_of_the_file(dtype: torch.dtype, places: dict[str, Path], tmp_path: Path) -> None:
    stored = load_file(places[SD] / "model.safetensors")
    mixed = {name: weight.to(dtype) if name.startswith(UNET) else weight for name, weight in stored.items()}
    mixed["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(24)[None]
    torch.save({"state_dict": mixed}, tmp_path / "old.ckpt")
    new: Any = drawn(load_pipeline(places[SD] / "pipeline").unet, 3)
    save_single_file(tmp_path / "old.ckpt", new, tmp_path / "new.safetensors")
    found = load_file(tmp_path / "new.safetensors")
    assert {name: weight.dtype for name, weight in found.items()} == {n: weight.dtype for n, weight in mixed.items()}
    assert torch.equal(found[FIRST], new.conv_in.weight.detach().to(dtype))
    data = (tmp_path / "new.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    places_in_file = {name: entry["data_offsets"][0] for name, entry in json.loads(data[8 : 8 + length]).items()}
    assert length % 8 == 0 and all(place % found[name].itemsize == 0 for name, place in places_in_file.items())
    again = load_single_file(tmp_path / "new.safetensors", places[SD] / "pipeline").unet
    assert all(torch.equal(a, b.to(dtype).float()) for a, b in zip(again.parameters(), new.parameters(), strict=True))
    slight: Any = load_single_file(tmp_path / "old.ckpt", places[SD] / "pipeline").unet
    with torch.no_grad():
        for parameter in slight.parameters():
            parameter *= 1 + 1e-5
    with pytest.warns(UserWarning, match=r"half precision.* 0 differ in it: most of the change is lost"):
        save_single_file(tmp_path / "old.ckpt", slight, tmp_path / "slight.safetensors")
    with torch.no_grad():
        new.conv_out.bias[0] = 1e6 if dtype == torch.float16 else torch.nan
    with pytest.raises(ModelError, match=r"out.2.bias is not finite as torch"):
        save_single_file(tmp_path / "old.ckpt", new, tmp_path / "new.safetensors")
    assert torch.equal(load_file(tmp_path / "new.safetensors")[FIRST], found[FIRST]), "the earlier file is whole"


def test_what_cannot_be_written(places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import UNet2DConditionModel

    place = places[SD]
    unet: Any = load_pipeline(place / "pipeline").unet
    original, target = place / "model.safetensors", tmp_path / "new.safetensors"
    with pytest.raises(CheckpointError, match=r"is not a single file, and diffusers converts into its own layout only"):
        save_single_file(place / "pipeline", unet, target)
    with pytest.raises(SettingError, match="must end in .safetensors"):
        save_single_file(original, unet, tmp_path / "new.ckpt")
    with pytest.raises(SettingError, match="is the original, which would be lost"):
        save_single_file(original, unet, original)
    wider = UNet2DConditionModel(**{**unet.config, "cross_attention_dim": 16})
    deeper = UNet2DConditionModel(**{**unet.config, "layers_per_block": 2})
    xl = load_pipeline(places[XL] / "pipeline").unet
    for other in (wider, deeper, xl):
        with pytest.raises(CheckpointError, match="the file's UNet is of another architecture"):
            save_single_file(original, other, target)
    with pytest.raises(CheckpointError, match="is a single file: hand over the pipeline that was loaded from it"):
        save_diffusers(original, unet, tmp_path / "folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be written"):
        save_single_file(original, unet, tmp_path / "file" / "new.safetensors")

    def full(*_: Any) -> memoryview:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(single_file, "_content", full)
    with pytest.raises(FolderError, match="No space left on device"):
        save_single_file(original, unet, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_names_are_the_authors_at_full_size() -> None:
    """Every weight of Stable Diffusion 1.x and XL has its own name, and it is the one that is written out above."""
    from diffusers import UNet2DConditionModel

    for kind in (SD, XL):
        with torch.device("meta"):
            unet = UNet2DConditionModel(**PUBLIC[kind]["unet"][2])
        expected = {name: unet_name(name, unet) for name in unet.state_dict()}
        assert ldm_names(list(expected.values()), unet) == expected
        some = set(expected.values())
        assert f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight" in some
        assert f"{UNET}output_blocks.8.0.skip_connection.weight" in some
